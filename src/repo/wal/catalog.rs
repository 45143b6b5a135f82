//! What the archive holds, from the heads of its objects alone.

use std::collections::BTreeMap;

use crate::backend::list_all;
use crate::format::wal::{SegmentName, WalHead, WalName};
use crate::format::{FormatError, Kind, ObjectId};
use crate::repo::error::RepoError;
use crate::repo::records::DamagedRecord;
use crate::repo::wal::{Archive, WalFile};

/// Every file of the archive.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By cluster and name.
    pub files: BTreeMap<(u64, WalName), WalHead>,
    /// Objects that are not whole, or whose heads cannot be read.
    pub damaged: Vec<DamagedRecord>,
}

impl Archive {
    /// Every object with its length.
    pub fn objects(&self) -> Result<Vec<(ObjectId, u64)>, RepoError> {
        Ok(list_all(self.backend.as_ref(), Kind::Wal)?)
    }

    /// Shows the heads of objects, or what is wrong with them. One that vanishes meanwhile is left out. Only one head is in
    /// memory at once.
    pub fn survey(
        &self,
        objects: &[(ObjectId, u64)],
        visit: &mut dyn FnMut(Result<WalHead, DamagedRecord>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        for (id, len) in objects.iter().copied() {
            let error = match self.open_object(&id) {
                Ok((head, _)) if head.stored_len() == len => {
                    visit(Ok(head))?;
                    continue;
                }
                Ok(_) => RepoError::object(Kind::Wal, id)(FormatError::Truncated { what: Kind::Wal.word() }),
                Err(error) if error.is_not_found() => continue,
                Err(error) => error,
            };
            visit(Err(DamagedRecord { kind: Kind::Wal, id, error }))?;
        }
        Ok(())
    }

    /// Reads the head of every object.
    pub fn catalog(&self) -> Result<Catalog, RepoError> {
        let mut catalog = Catalog::default();
        self.survey(&self.objects()?, &mut |found| {
            match found {
                Ok(head) => drop(catalog.files.insert((head.system_id, head.name), head)),
                Err(damaged) => catalog.damaged.push(damaged),
            }
            Ok(())
        })?;
        Ok(catalog)
    }
}

impl Catalog {
    /// The clusters that have archived something.
    pub fn clusters(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.files.keys().map(|(system_id, _)| *system_id).collect();
        ids.dedup();
        ids
    }

    /// The files of a cluster.
    pub fn of(&self, system_id: u64) -> impl Iterator<Item = &WalHead> {
        let first = (system_id, WalName::History(0));
        self.files.range(first..).take_while(move |((other, _), _)| *other == system_id).map(|(_, head)| head)
    }

    /// The whole segments of a cluster.
    pub fn segments(&self, system_id: u64) -> impl Iterator<Item = (SegmentName, &WalHead)> {
        self.of(system_id).filter_map(|head| match head.name {
            WalName::Segment(segment) => Some((segment, head)),
            _ => None,
        })
    }

    /// The length of a cluster's segments, if all have the same.
    pub fn segment_size(&self, system_id: u64) -> Option<u64> {
        let mut sizes = self.of(system_id).filter(|head| head.name.is_log()).map(|head| head.raw_len);
        let first = sizes.next()?;
        sizes.all(|size| size == first).then_some(first)
    }
}

impl WalHead {
    /// What names it in storage.
    pub fn file(&self) -> WalFile {
        WalFile { system_id: self.system_id, name: self.name }
    }
}
