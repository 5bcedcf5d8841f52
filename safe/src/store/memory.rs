//! A store that is gone with its process: for development.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use vsecm_safe_api::{name::SecretKey, position::Lineage};

use super::{Found, Store, StoreError, Write};

/// Records in memory.
#[derive(Debug)]
pub struct MemoryStore {
    lineage: Lineage,
    records: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    current: BTreeMap<SecretKey, Vec<u8>>,
    aside: Vec<SecretKey>,
}

impl MemoryStore {
    /// An empty store with an id of its own.
    pub fn new() -> Result<Self, StoreError> {
        Ok(Self { lineage: super::file::random_lineage()?, records: Mutex::default() })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    fn load(&self) -> Result<Vec<Found>, StoreError> {
        let records = self.records();
        let current = records
            .current
            .iter()
            .map(|(key, sealed)| Found::Record { key: key.clone(), sealed: sealed.clone() });
        let aside = records.aside.iter().cloned();
        let aside = aside.map(|key| Found::SetAside { key });
        let found = current.chain(aside).collect();
        drop(records);
        Ok(found)
    }

    fn write(&self, batch: &[Write]) -> Vec<Result<(), StoreError>> {
        let mut records = self.records();
        for write in batch {
            records.current.insert(write.key.clone(), write.sealed.clone());
        }
        drop(records);
        batch.iter().map(|_| Ok(())).collect()
    }

    fn set_aside(&self, key: &SecretKey) -> Result<String, StoreError> {
        let mut records = self.records();
        if records.current.remove(key).is_some() {
            records.aside.push(key.clone());
        }
        drop(records);
        Ok(format!("memory: {key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_every_store_must() {
        super::super::suite::run(Box::new(MemoryStore::new().unwrap()), |store| store);
    }
}
