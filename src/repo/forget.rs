//! Forgetting: removing snapshots and backup sets on purpose. A record says which and why, and is durable before the
//! first one goes, so that a snapshot which vanished without one is known to have been taken away by somebody else.
//!
//! Invariant: no set that stays loses a snapshot. Sets go before their snapshots, and the sets that stay are looked at
//! after the record is durable: see [`crate::repo::sets`] for the race.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::backend::remove_if_there;
use crate::format::record::{Forgotten, ForgottenSet, ForgottenSnapshot, Snapshot};
use crate::format::set::BackupSet;
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

/// What is to be forgotten, each with the reason that goes into the record.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    /// Snapshots.
    pub snapshots: Vec<(ObjectId, String)>,
    /// Backup sets.
    pub sets: Vec<(ObjectId, String)>,
}

impl Repository {
    /// Removes snapshots, each with its reason: as [`Repository::forget_all`] without sets.
    pub fn forget(&self, snapshots: &[(ObjectId, String)]) -> Result<(), RepoError> {
        self.forget_all(&Removals { snapshots: snapshots.to_vec(), sets: Vec::new() })
    }

    /// Removes snapshots and sets. Refused when a set that stays needs one of the snapshots.
    pub fn forget_all(&self, removals: &Removals) -> Result<(), RepoError> {
        if removals.snapshots.is_empty() && removals.sets.is_empty() {
            return Ok(());
        }
        self.refuse_needed(removals)?;
        let (mut snapshots, mut sets) = (Vec::new(), Vec::new());
        for (id, reason) in &removals.snapshots {
            let (name, time) = self.name_and_time(id)?;
            snapshots.push(ForgottenSnapshot { id: *id, name, time, reason: reason.clone() });
        }
        for (id, reason) in &removals.sets {
            let set: BackupSet = self.read_record(id)?;
            let (profile, time, reason) = (set.profile, set.time, reason.clone());
            sets.push(ForgottenSet { id: *id, profile, time, reason });
        }
        self.write_record(&Forgotten { time: Timestamp::now(), host: self.host().to_owned(), snapshots, sets })?;
        self.backend().sync()?;
        // Once more: a set may have been published since.
        self.refuse_needed(removals)?;
        for (kind, ids) in [(Kind::Set, &removals.sets), (Kind::Snapshot, &removals.snapshots)] {
            for (id, _) in ids {
                remove_if_there(self.backend().as_ref(), kind, id)?;
            }
            self.backend().sync()?;
        }
        Ok(())
    }

    /// For the record. Of a snapshot that cannot be read, what this machine remembers: it is given up, and whoever
    /// misses it must find that it was.
    fn name_and_time(&self, id: &ObjectId) -> Result<(String, Timestamp), RepoError> {
        match self.read_record::<Snapshot>(id) {
            Ok(snapshot) => Ok((snapshot.name, snapshot.time)),
            Err(error) if error.is_not_found() => Err(error),
            Err(_) => {
                let seen = self.index().remembered()?.into_iter().find(|seen| seen.id == *id);
                let time = seen.as_ref().and_then(|seen| seen.time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
                Ok((seen.map_or_else(|| "unknown".to_owned(), |seen| seen.name), time))
            }
        }
    }

    fn refuse_needed(&self, removals: &Removals) -> Result<(), RepoError> {
        let going: HashSet<ObjectId> = removals.snapshots.iter().map(|(id, _)| *id).collect();
        let gone: HashSet<ObjectId> = removals.sets.iter().map(|(id, _)| *id).collect();
        for set in self.sets()?.into_iter().filter(|set| !gone.contains(&set.id)) {
            if let Some(snapshot) = set.snapshots().find(|snapshot| going.contains(snapshot)) {
                let (set, snapshot) = (set.id.short(), snapshot.short());
                let why = format!(
                    "snapshot {snapshot} is part of backup set {set}: forget the set, `cairn forget {set}`, and its snapshots go with it"
                );
                return Err(RepoError::Refused { why });
            }
        }
        Ok(())
    }

    /// Snapshots that this machine's cache remembers, or that one of `present` (id and predecessor) names, and that are
    /// gone without a record. A record that cannot be read excuses nothing.
    pub fn vanished(&self, present: &[(ObjectId, Option<ObjectId>)]) -> Result<Vec<Vanished>, RepoError> {
        let mut known: HashSet<ObjectId> = present.iter().map(|(id, _)| *id).collect();
        for (_, forgotten) in self.readable_records::<Forgotten>()?.found {
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
