//! What csi and node-agent ask the keeper, on a connection that they hold.

use std::os::fd::OwnedFd;

use super::{AskError, Door, PATIENCE};
use crate::{
    channel::Connection,
    frame::{ContentKey, Descriptor, KeeperReply, KeeperRequest},
    volume::{VolumeId, VolumeRecord},
};

/// Entries of a list that are read at most; a keeper takes no more.
const ENTRY_LIMIT: usize = 8192;

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
        let mut all: Vec<VolumeRecord> = Vec::new();
        while all.len() <= ENTRY_LIMIT {
            let after = all.last().map(|record| record.volume.clone());
            let asked = KeeperRequest::ListVolumes { after };
            match self.call(keeper, &asked, None, PATIENCE).await? {
                (KeeperReply::Volumes { records }, _) if records.is_empty() => return Ok(all),
                (KeeperReply::Volumes { records }, _) => all.extend(records),
                _ => break,
            }
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
            let asked = KeeperRequest::ListContents { after };
            match self.call(keeper, &asked, None, PATIENCE).await? {
                (KeeperReply::Contents { keys }, _) if keys.is_empty() => return Ok(all),
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
            (KeeperReply::Done, _) => Ok(()),
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
            (KeeperReply::Descriptor, mut fds) if fds.len() == 1 => Ok(fds.pop()),
            (KeeperReply::Unknown, _) => Ok(None),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }
}
