//! The keeper's side of its conversation, in memory.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex},
};

use tokio::{sync::watch, task::JoinSet};
use vsecm_node_agent_api::{
    channel::Listener,
    frame::{Descriptor, KeeperReply, KeeperRequest, PAGE},
    volume::VolumeRecord,
};

pub(super) type Kept = BTreeMap<String, (Option<VolumeRecord>, OwnedFd)>;

/// The keeper's side of the conversation, in memory.
pub(super) async fn keep(listener: Listener, kept: Arc<Mutex<Kept>>, hung: watch::Receiver<bool>) {
    // conversations end with this task
    let mut conversations = JoinSet::new();
    loop {
        let (connection, _peer) = listener.accept().await.unwrap();
        let (kept, mut hung) = (Arc::clone(&kept), hung.clone());
        conversations.spawn(async move {
            while let Ok(Some((request, descriptors))) = connection.receive().await {
                hung.wait_for(|hung| !hung).await.unwrap();
                let (reply, descriptor) =
                    kept_answer(&mut kept.lock().unwrap(), request, descriptors);
                let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
                // who gave up does not hear it
                if connection.send(&reply, &descriptors).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn kept_answer(
    kept: &mut Kept,
    request: KeeperRequest,
    mut descriptors: Vec<OwnedFd>,
) -> (KeeperReply, Option<OwnedFd>) {
    let get = |kept: &Kept, name: &str| match kept.get(name) {
        Some((_, descriptor)) => {
            let copy = descriptor.try_clone().unwrap();
            (KeeperReply::Descriptor, Some(copy))
        }
        None => (KeeperReply::Unknown, None),
    };
    match request {
        KeeperRequest::PutContent { key } => {
            kept.insert(key.into(), (None, descriptors.remove(0)));
            (KeeperReply::Done, None)
        }
        KeeperRequest::RemoveContent { key } => {
            kept.remove(&String::from(key));
            (KeeperReply::Done, None)
        }
        KeeperRequest::GetContent { key } => get(kept, &String::from(key)),
        KeeperRequest::GetVolume { volume, descriptor } => {
            assert_eq!(descriptor, Descriptor::Fuse);
            get(kept, volume.as_str())
        }
        KeeperRequest::ListContents { after } => {
            let after = after.map_or_else(String::new, String::from);
            let contents = kept.iter().filter(|(_, (record, _))| record.is_none());
            let keys = contents
                .filter(|(name, _)| **name > after)
                .map(|(name, _)| name.clone().try_into().unwrap());
            let keys = keys.take(PAGE).collect();
            (KeeperReply::Contents { keys }, None)
        }
        KeeperRequest::ListVolumes { after } => {
            let after = after.map_or_else(String::new, String::from);
            let volumes = kept.iter().filter(|(name, _)| **name > after);
            let records = volumes.filter_map(|(_, (record, _))| record.clone());
            let records = records.take(PAGE).collect();
            (KeeperReply::Volumes { records }, None)
        }
        KeeperRequest::PutVolume { .. } | KeeperRequest::RemoveVolume { .. } => {
            panic!("node-agent may not do that")
        }
    }
}
