//! Backup sets: publishing and listing them.
//!
//! Invariant: a set that is published names only snapshots that are there. The race is with a `forget` of one of them,
//! which writes its record, then looks for sets that need what it will remove; a set is written, then looks for such
//! records. Whichever comes second sees the other, so never do both succeed (format-spec/ordering.md, section 8).

use std::collections::HashSet;

use crate::format::record::Forgotten;
use crate::format::set::BackupSet;
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;
use crate::repo::records::DamagedRecord;

/// A backup set in a repository.
#[derive(Debug, Clone)]
pub struct SetInfo {
    /// Its id.
    pub id: ObjectId,
    /// What it says.
    pub set: BackupSet,
}

impl SetInfo {
    /// The snapshots that it names.
    pub fn snapshots(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.set.components.iter().flat_map(|component| component.parts.iter().map(|part| part.snapshot))
    }
}

impl Repository {
    /// All backup sets, oldest first. One that cannot be read is an error: this is for who decides what is unneeded.
    pub fn sets(&self) -> Result<Vec<SetInfo>, RepoError> {
        Ok(by_time(self.read_records()?))
    }

    /// All backup sets that can be read, oldest first, and those that cannot: for who only reads.
    pub fn readable_sets(&self) -> Result<(Vec<SetInfo>, Vec<DamagedRecord>), RepoError> {
        let records = self.readable_records()?;
        Ok((by_time(records.found), records.damaged))
    }

    /// Publishes a set whose snapshots are published.
    pub fn publish_set(&self, set: &BackupSet) -> Result<ObjectId, RepoError> {
        let id = self.write_record(set)?;
        self.backend().sync()?;
        if let Err(error) = self.check_set(&SetInfo { id, set: set.clone() }) {
            // Nobody may take it for a recovery point.
            self.backend().remove(Kind::Set, &id)?;
            self.backend().sync()?;
            return Err(error);
        }
        Ok(id)
    }

    /// Fails if a snapshot of the set is gone, or about to go.
    fn check_set(&self, info: &SetInfo) -> Result<(), RepoError> {
        let forgotten: HashSet<ObjectId> = self
            // One that cannot be read most probably names what is long gone, and that is looked at next.
            .readable_records::<Forgotten>()?
            .found
            .into_iter()
            .flat_map(|(_, record)| record.snapshots.into_iter().map(|snapshot| snapshot.id))
            .collect();
        for snapshot in info.snapshots() {
            let there = match self.backend().stat(Kind::Snapshot, &snapshot) {
                Err(error) if error.is_not_found() => false,
                result => result.map(|_| true)?,
            };
            if !there || forgotten.contains(&snapshot) {
                return Err(RepoError::Disappeared { kind: Kind::Snapshot, id: snapshot });
            }
        }
        Ok(())
    }
}

fn by_time(records: Vec<(ObjectId, BackupSet)>) -> Vec<SetInfo> {
    let mut all: Vec<SetInfo> = records.into_iter().map(|(id, set)| SetInfo { id, set }).collect();
    all.sort_by_key(|info| (info.set.time, info.id));
    all
}
