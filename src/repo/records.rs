//! Reading and writing the small records.
//!
//! Invariant: a record that cannot be read is never simply left out. Whoever only reads gets it by name beside those
//! that can be read ([`Repository::readable_records`]); whoever decides what is unneeded is refused
//! ([`Repository::read_records`]), because what the record names would seem unneeded.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::backend::{ByteRange, list_all};
use crate::format::record::{self, MAX_STORED_RECORD, Proof, Record, Snapshot};
use crate::format::{FormatError, Kind, ObjectId};
use crate::repo::error::RepoError;
use crate::repo::proven::newest;
use crate::repo::{Repository, SnapshotInfo, chain};

/// A record that storage lists and that cannot be read.
#[derive(Debug)]
pub struct DamagedRecord {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: ObjectId,
    /// Why it cannot be read.
    pub error: RepoError,
}

impl DamagedRecord {
    /// What is wrong, what it means, and what to do.
    pub fn message(&self) -> String {
        // The object is named by whoever tells of it.
        let why = match &self.error {
            RepoError::Object { source, .. } => chain(source),
            error => chain(error),
        };
        format!("{why}; {}", consequence(self.kind))
    }

    /// Whether its bytes are wrong for good: not a failure of storage, and not a newer format.
    pub fn is_broken(&self) -> bool {
        let RepoError::Object { source, .. } = &self.error else { return false };
        !matches!(source, FormatError::Version { .. } | FormatError::Feature { .. } | FormatError::Invalid { .. })
    }
}

/// The records of a kind.
#[derive(Debug)]
pub struct Records<R> {
    /// Those that can be read.
    pub found: Vec<(ObjectId, R)>,
    /// Those that cannot.
    pub damaged: Vec<DamagedRecord>,
}

/// A snapshot that cannot be read, and what this machine remembers of it.
#[derive(Debug)]
pub struct DamagedSnapshot {
    /// Its id.
    pub id: ObjectId,
    /// Its name, if this machine has seen the snapshot before.
    pub name: Option<String>,
    /// Its time, if this machine has seen the snapshot before.
    pub time: Option<Timestamp>,
    /// What is wrong.
    pub message: String,
}

/// The snapshots of a repository.
#[derive(Debug)]
pub struct Snapshots {
    /// Those that can be read, oldest first, each with its newest proof.
    pub found: Vec<SnapshotInfo>,
    /// Those that cannot be read.
    pub damaged: Vec<DamagedSnapshot>,
    /// What drills found.
    pub drills: Vec<Proof>,
    /// Proofs that cannot be read: what they prove counts as not proven.
    pub damaged_proofs: Vec<DamagedRecord>,
}

/// What it means that a record of this kind cannot be read, and what to do.
fn consequence(kind: Kind) -> &'static str {
    match kind {
        Kind::Snapshot => {
            "what it holds cannot be listed or restored, all else can; put the object back from a copy of the \
             repository, or give it up with `cairn forget ID --unsafe-allow-remove-all`: until then forget and gc refuse"
        }
        Kind::Proof => {
            "its snapshot counts as not verified, and its backup set as not proven: run `cairn verify`, or the drill, \
             again, then remove the object from `proofs`"
        }
        Kind::Tombstone => "what it calls dead is not known, so nothing is stored: run `cairn gc`, which marks anew",
        Kind::Lease => "its holder counts as still running, until the lease ends by itself",
        Kind::Set => {
            "the snapshots that it names would seem free to go: put the object back from a copy of the repository"
        }
        Kind::Forgotten => "what it names may be reported as vanished",
        Kind::Wal => {
            "recovery cannot go beyond the file that it holds, so make a new base backup; if the server still has the file, \
             remove the object from `wal` and archive it again"
        }
        _ => "put the object back from a copy of the repository",
    }
}

impl Repository {
    /// Writes a record; its id.
    pub fn write_record<R: Record>(&self, record: &R) -> Result<ObjectId, RepoError> {
        let (id, stored) = record::seal(&self.keys, record)?;
        self.backend.write_new(R::KIND, &id, &stored)?;
        Ok(id)
    }

    /// Reads a record.
    pub fn read_record<R: Record>(&self, id: &ObjectId) -> Result<R, RepoError> {
        let limit = MAX_STORED_RECORD as u64;
        let stored = self.backend.read(R::KIND, id, ByteRange::All { limit })?;
        record::open(&self.keys, id, stored).map_err(RepoError::object(R::KIND, *id))
    }

    /// Reads all records of a kind; those that cannot be read beside the others. One that vanishes meanwhile is left out.
    pub fn readable_records<R: Record>(&self) -> Result<Records<R>, RepoError> {
        let mut records = Records { found: Vec::new(), damaged: Vec::new() };
        for (id, _) in list_all(self.backend.as_ref(), R::KIND)? {
            match self.read_record(&id) {
                Ok(record) => records.found.push((id, record)),
                Err(error) if error.is_not_found() => {}
                Err(error) => records.damaged.push(DamagedRecord { kind: R::KIND, id, error }),
            }
        }
        Ok(records)
    }

    /// Reads all records of a kind. One that cannot be read is an error.
    pub fn read_records<R: Record>(&self) -> Result<Vec<(ObjectId, R)>, RepoError> {
        let mut records = self.readable_records::<R>()?;
        match records.damaged.pop() {
            None => Ok(records.found),
            Some(DamagedRecord { kind, id, error }) => {
                Err(RepoError::Unread { kind, id, why: consequence(kind), source: Box::new(error) })
            }
        }
    }

    /// All snapshots, oldest first, each with its newest proof. One that cannot be read is an error: this is for who
    /// decides what is unneeded.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, RepoError> {
        let (records, proofs) = (self.read_records()?, self.readable_records()?);
        self.with_proofs(records, proofs.found)
    }

    /// All snapshots that can be read, and those that cannot: this is for who only reads, or adds.
    pub fn readable_snapshots(&self) -> Result<Snapshots, RepoError> {
        let (records, proofs) = (self.readable_records::<Snapshot>()?, self.readable_records::<Proof>()?);
        let drills = proofs.found.iter().map(|(_, proof)| proof).filter(|proof| proof.drill.is_some()).cloned();
        let drills = drills.collect();
        let found = self.with_proofs(records.found, proofs.found)?;
        let remembered = if records.damaged.is_empty() { Vec::new() } else { self.index.remembered()? };
        let describe = |record: DamagedRecord| {
            let seen = remembered.iter().find(|seen| seen.id == record.id);
            DamagedSnapshot {
                id: record.id,
                name: seen.map(|seen| seen.name.clone()),
                time: seen.and_then(|seen| seen.time.parse().ok()),
                message: record.message(),
            }
        };
        let damaged = records.damaged.into_iter().map(describe).collect();
        Ok(Snapshots { found, damaged, drills, damaged_proofs: proofs.damaged })
    }

    fn with_proofs(
        &self,
        records: Vec<(ObjectId, Snapshot)>,
        all_proofs: Vec<(ObjectId, Proof)>,
    ) -> Result<Vec<SnapshotInfo>, RepoError> {
        // Of drills only what no later one of the same component has taken back.
        let drills = newest(all_proofs.iter().map(|(_, proof)| proof)).into_values().map(|(proof, _)| proof);
        let readings = all_proofs.iter().map(|(_, proof)| proof).filter(|proof| proof.drill.is_none());
        let (mut proofs, mut differences) = (HashMap::new(), HashMap::new());
        for proof in readings.chain(drills) {
            let kept = if proof.holds() { &mut proofs } else { &mut differences };
            let newest = kept.entry(proof.snapshot).or_insert(proof);
            if proof.time > newest.time {
                *newest = proof;
            }
        }
        let with_proof = |(id, snapshot)| SnapshotInfo {
            id,
            snapshot,
            proof: proofs.remove(&id).cloned(),
            difference: differences.remove(&id).cloned(),
        };
        let mut all: Vec<SnapshotInfo> = records.into_iter().map(with_proof).collect();
        let remembered: HashSet<ObjectId> = self.index.remembered()?.into_iter().map(|seen| seen.id).collect();
        for info in all.iter().filter(|info| !remembered.contains(&info.id)) {
            self.remember(&info.id, &info.snapshot)?;
        }
        all.sort_by_key(|a| (a.snapshot.time, a.id));
        Ok(all)
    }
}
