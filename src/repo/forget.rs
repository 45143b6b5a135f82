//! Forgetting: removing snapshots on purpose. A record says which and why, and is durable before the first one goes, so
//! that a snapshot which vanished without one is known to have been taken away by somebody else.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::format::record::{Forgotten, ForgottenSnapshot, Snapshot};
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;

/// A snapshot that this machine has seen, or that a later one names as its predecessor, and that is neither there nor
/// forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vanished {
    /// Its id.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// Its time, RFC 3339.
    pub time: String,
}

impl Repository {
    /// Removes snapshots, each with the reason that goes into the record.
    pub fn forget(&self, removals: &[(ObjectId, String)]) -> Result<(), RepoError> {
        if removals.is_empty() {
            return Ok(());
        }
        let mut snapshots = Vec::new();
        for (id, reason) in removals {
            let snapshot: Snapshot = self.read_record(id)?;
            let (name, time, reason) = (snapshot.name, snapshot.time, reason.clone());
            snapshots.push(ForgottenSnapshot { id: *id, name, time, reason });
        }
        self.write_record(&Forgotten { time: Timestamp::now(), host: self.host().to_owned(), snapshots })?;
        self.backend().sync()?;
        for (id, _) in removals {
            match self.backend().remove(Kind::Snapshot, id) {
                // Somebody else forgot it at the same time.
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(self.backend().sync()?)
    }

    /// Snapshots that this machine's cache remembers, or that one of `present` (id and predecessor) names, and that are
    /// gone without a record.
    pub fn vanished(&self, present: &[(ObjectId, Option<ObjectId>)]) -> Result<Vec<Vanished>, RepoError> {
        let mut known: HashSet<ObjectId> = present.iter().map(|(id, _)| *id).collect();
        for (_, forgotten) in self.read_records::<Forgotten>()? {
            known.extend(forgotten.snapshots.iter().map(|snapshot| snapshot.id));
        }
        let mut vanished = self.index().remembered()?;
        vanished.retain(|snapshot| !known.contains(&snapshot.id));
        for id in present.iter().filter_map(|(_, previous)| *previous) {
            if !known.contains(&id) && !vanished.iter().any(|other| other.id == id) {
                vanished.push(Vanished { id, name: "unknown".to_owned(), time: "an unknown time".to_owned() });
            }
        }
        Ok(vanished)
    }
}
