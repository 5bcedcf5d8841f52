//! What the pod's identity means for its volume.

use std::sync::Arc;

use tracing::warn;
use vsecm_node_agent_api::volume::OnWithdraw;

use super::{Member, Owner, Updates};
use crate::{
    identity::{Identity, Issue},
    snapshot::SnapshotKey,
    tree::Source,
    volumes::binding::{Access, Binding, binding_key},
};

impl Owner {
    pub(super) fn join(&mut self, key: &SnapshotKey, identity: Option<Arc<Identity>>) {
        let watch = self.means.watches.join(&self.record.volume, key, identity);
        let feed = watch.subscribe();
        self.member = Some(Member { watch, feed });
    }

    pub(super) async fn take_standing(&mut self) {
        self.standing = self.news_of_identity.borrow_and_update().clone();
        match self.standing.issue.clone() {
            Issue::NotYet => {}
            Issue::Issued(identity) => self.issued(identity).await,
            Issue::Withdrawn => self.withdrawn().await,
        }
    }

    async fn issued(&mut self, identity: Arc<Identity>) {
        let had_access = matches!(self.updates, Updates::Flow);
        let same_key = match &self.member {
            Some(member) if *member.watch.key() == identity.key => {
                let volume = &self.record.volume;
                member
                    .watch
                    .set_identity(volume, Some(Arc::clone(&identity)));
                true
            }
            Some(_) | None => false,
        };
        self.updates = Updates::Flow;
        if same_key && had_access {
            return;
        }
        if !same_key {
            let before = self.member.take();
            self.join(&identity.key, Some(Arc::clone(&identity)));
            if let Some(before) = before {
                warn!(volume = %self.record.volume, secret = %identity.key.secret, "the pod's identity now stands for another secret");
                let volume = &self.record.volume;
                self.means.watches.leave(volume, &before.watch).await;
            }
        }
        self.bind(Access::Granted).await;
    }

    async fn withdrawn(&mut self) {
        let Some(member) = &self.member else { return };
        member.watch.set_identity(&self.record.volume, None);
        let pod = &self.record.pod;
        match self.record.options.on_withdraw {
            OnWithdraw::Keep => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files stay, without updates");
                if matches!(self.updates, Updates::Flow) {
                    self.updates = Updates::Stopped(self.newest());
                }
                if let Updates::Stopped(Some(Source::Said(snapshot))) = &self.updates {
                    // a twin of the pod may get newer versions, which a successor finds too
                    member.watch.will_show(&self.record.volume, snapshot);
                    self.bind(Access::Stopped(snapshot.sequence())).await;
                }
            }
            OnWithdraw::Revoke => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files go");
                self.updates = Updates::Revoked;
                self.bind(Access::Revoked).await;
            }
        }
    }

    /// Leaves word for a successor.
    async fn bind(&self, access: Access) {
        let Some(member) = &self.member else { return };
        let binding = Binding {
            volume: self.record.volume.clone(),
            key: member.watch.key().clone(),
            access,
        };
        if let (Some(key), Some(memfd)) = (binding_key(&binding.volume), binding.to_memfd()) {
            self.means.keeper.deposit(key, memfd).await;
        } else {
            warn!(volume = %binding.volume, "no word can be left for a successor");
        }
    }
}
