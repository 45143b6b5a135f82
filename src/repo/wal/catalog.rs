//! What the archive holds, from the heads of its objects alone.

use std::collections::BTreeMap;

use crate::backend::list_all;
use crate::format::Kind;
use crate::format::wal::{WalHead, WalName};
use crate::repo::error::RepoError;
use crate::repo::records::DamagedRecord;
use crate::repo::wal::Archive;

/// Every file of the archive.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By cluster and name.
    pub files: BTreeMap<(u64, WalName), WalHead>,
    /// Objects whose heads cannot be read.
    pub damaged: Vec<DamagedRecord>,
}

impl Archive {
    /// Reads the head of every object. One that vanishes meanwhile is left out.
    pub fn catalog(&self) -> Result<Catalog, RepoError> {
        let mut catalog = Catalog::default();
        for (id, _) in list_all(self.backend.as_ref(), Kind::Wal)? {
            match self.open_object(&id) {
                Ok((head, _)) => drop(catalog.files.insert((head.system_id, head.name), head)),
                Err(error) if error.is_not_found() => {}
                Err(error) => catalog.damaged.push(DamagedRecord { kind: Kind::Wal, id, error }),
            }
        }
        Ok(catalog)
    }
}
