//! What csi and node-agent ask the keeper, on a connection that they hold.

use std::os::fd::OwnedFd;

use super::{AskError, Door, PATIENCE};
use crate::{
    channel::Connection,
    frame::{ContentKey, Descriptor, KeeperReply, KeeperRequest, RawRecord},
    volume::{VolumeId, VolumeRecord},
};

/// Entries of a list that are read at most; a keeper takes no more.
const ENTRY_LIMIT: usize = 8192;

/// The volume that a record is about, also one that is not understood.
fn volume_of(record: &RawRecord) -> Option<VolumeId> {
    record.get("volume")?.as_str()?.parse().ok()
}

/// A record of a newer csi may say what this process does not know: its volume is left alone, at
/// the keeper too, until a process comes that does.
fn understood(record: RawRecord) -> Option<VolumeRecord> {
    let volume = volume_of(&record);
    let parsed = serde_json::from_value(record);
    parsed
        .inspect_err(|error| {
            tracing::error!(?volume, %error, "a record at the keeper is not understood");
        })
        .ok()
}

impl Door {
    /// Has the keeper keep a descriptor of a volume.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn put_volume(
        &self,
        keeper: &Connection,
        record: &VolumeRecord,
        descriptor: Descriptor,
        fd: &OwnedFd,
    ) -> Result<(), AskError> {
        let record = record.clone();
        let put = KeeperRequest::PutVolume { record, descriptor };
        self.tell_keeper(keeper, &put, Some(fd)).await
    }

    /// Has the keeper forget a volume.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn remove_volume(
        &self,
        keeper: &Connection,
        volume: &VolumeId,
    ) -> Result<(), AskError> {
        let volume = volume.clone();
        let remove = KeeperRequest::RemoveVolume { volume };
        self.tell_keeper(keeper, &remove, None).await
    }

    /// All records that the keeper has.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn records(&self, keeper: &Connection) -> Result<Vec<VolumeRecord>, AskError> {
        let (mut all, mut after) = (Vec::new(), None);
        for _entry in 0..=ENTRY_LIMIT {
            let asked: KeeperRequest = KeeperRequest::ListVolumes { after };
            let answered = self.call(keeper, &asked, None, PATIENCE).await?;
            let (KeeperReply::<RawRecord>::Volumes { records }, _) = answered else { break };
            let Some(last) = records.last() else { return Ok(all) };
            after = Some(volume_of(last).ok_or(AskError::Unexpected(self.name))?);
            all.extend(records.into_iter().filter_map(understood));
        }
        Err(AskError::Unexpected(self.name))
    }

    /// A descriptor of a volume, if the keeper has it.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn descriptor(
        &self,
        keeper: &Connection,
        volume: &VolumeId,
        descriptor: Descriptor,
    ) -> Result<Option<OwnedFd>, AskError> {
        let volume = volume.clone();
        let asked = KeeperRequest::GetVolume { volume, descriptor };
        self.get_from_keeper(keeper, &asked).await
    }

    /// Has the keeper keep a sealed memfd.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn put_content(
        &self,
        keeper: &Connection,
        key: &ContentKey,
        memfd: &OwnedFd,
    ) -> Result<(), AskError> {
        let put = KeeperRequest::PutContent { key: key.clone() };
        self.tell_keeper(keeper, &put, Some(memfd)).await
    }

    /// Has the keeper forget a memfd.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn remove_content(
        &self,
        keeper: &Connection,
        key: &ContentKey,
    ) -> Result<(), AskError> {
        let remove = KeeperRequest::RemoveContent { key: key.clone() };
        self.tell_keeper(keeper, &remove, None).await
    }

    /// The names of all memfds that the keeper has.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn contents(&self, keeper: &Connection) -> Result<Vec<ContentKey>, AskError> {
        let mut all: Vec<ContentKey> = Vec::new();
        while all.len() <= ENTRY_LIMIT {
            let after = all.last().cloned();
            let asked: KeeperRequest = KeeperRequest::ListContents { after };
            match self.call(keeper, &asked, None, PATIENCE).await? {
                (KeeperReply::<VolumeRecord>::Contents { keys }, _) if keys.is_empty() => {
                    return Ok(all);
                }
                (KeeperReply::Contents { keys }, _) => all.extend(keys),
                _ => break,
            }
        }
        Err(AskError::Unexpected(self.name))
    }

    /// A memfd, if the keeper has it.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn content(
        &self,
        keeper: &Connection,
        key: &ContentKey,
    ) -> Result<Option<OwnedFd>, AskError> {
        let asked = KeeperRequest::GetContent { key: key.clone() };
        self.get_from_keeper(keeper, &asked).await
    }

    async fn tell_keeper(
        &self,
        keeper: &Connection,
        request: &KeeperRequest,
        fd: Option<&OwnedFd>,
    ) -> Result<(), AskError> {
        match self.call(keeper, request, fd, PATIENCE).await? {
            (KeeperReply::<VolumeRecord>::Done, _) => Ok(()),
            (KeeperReply::Refused { reason }, _) => Err(AskError::Refused(self.name, reason)),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    async fn get_from_keeper(
        &self,
        keeper: &Connection,
        request: &KeeperRequest,
    ) -> Result<Option<OwnedFd>, AskError> {
        match self.call(keeper, request, None, PATIENCE).await? {
            (KeeperReply::<VolumeRecord>::Descriptor, mut fds) if fds.len() == 1 => Ok(fds.pop()),
            (KeeperReply::Unknown, _) => Ok(None),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }
}
