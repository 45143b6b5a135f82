//! A writer that lost its lease publishes nothing, and takes back what it had published by then.

use std::sync::Arc;
use std::time::Duration;

use cairn::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, Whole, list_all};
use cairn::format::record::Forgotten;
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::OrchestrateError;
use cairn::repo::RepoError;
use cairn::repo::lease::{LIFETIME, is_too_old};
use jiff::SignedDuration;

use crate::support::memory::Memory;
use crate::support::{assert_sound, fork, init, load, open, rows, store};

/// Storage in which every lease is gone after the first write of a kind, as after a gc that took its holder for dead.
struct LosesLeases {
    inner: Arc<Memory>,
    after: Kind,
}

impl Backend for LosesLeases {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        self.inner.read(kind, id, range)
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write_new(kind, id, bytes)?;
        if kind == self.after {
            for (lease, _) in list_all(self.inner.as_ref(), Kind::Lease)? {
                self.inner.remove(Kind::Lease, &lease)?;
            }
        }
        Ok(())
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        Ok(Whole::begin(self, kind, id, head))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        self.inner.list(kind, visit)
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        self.inner.stat(kind, id)
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        self.inner.remove(kind, id)
    }

    fn sync(&self) -> Result<(), BackendError> {
        self.inner.sync()
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        self.inner.remove_debris(age_seconds, dry_run)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

/// A repository with one snapshot, and after a backup whose lease goes after a write of this kind.
fn after_a_loss(after: Kind) -> (Arc<Memory>, ObjectId) {
    let memory = Memory::new();
    init(memory.as_ref());
    let first = store(&open(&(memory.clone() as Arc<dyn Backend>)), "dump", &rows(1, 500)).unwrap().id.unwrap();
    let inner = fork(&memory);
    let losing: Arc<dyn Backend> = Arc::new(LosesLeases { inner: inner.clone(), after });
    let result = store(&open(&losing), "dump", &rows(2, 500));
    assert!(matches!(result, Err(OrchestrateError::Repo(RepoError::LeaseLost))), "{result:?}");
    (inner, first)
}

fn assert_only(memory: &Arc<Memory>, first: ObjectId) {
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let ids: Vec<ObjectId> = repository.snapshots().unwrap().iter().map(|info| info.id).collect();
    assert_eq!(ids, [first]);
    assert_eq!(load(&repository, &first).unwrap(), rows(1, 500));
    assert_sound(&repository);
    let id = store(&repository, "dump", &rows(2, 500)).unwrap().id.unwrap();
    assert_eq!(load(&repository, &id).unwrap(), rows(2, 500));
}

#[test]
fn a_lease_that_went_during_the_run_stops_the_snapshot_from_being_written() {
    let (memory, first) = after_a_loss(Kind::DataPack);
    let backend: Arc<dyn Backend> = memory.clone();
    assert!(open(&backend).read_records::<Forgotten>().unwrap().is_empty(), "a snapshot had been written");
    assert_only(&memory, first);
}

/// Between the first look at the lease and the snapshot a sweep may begin: the second look finds it.
#[test]
fn a_lease_that_went_while_the_snapshot_was_written_withdraws_it() {
    let (memory, first) = after_a_loss(Kind::Snapshot);
    let backend: Arc<dyn Backend> = memory.clone();
    let records = open(&backend).read_records::<Forgotten>().unwrap();
    let [(_, record)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.snapshots.len(), 1);
    assert!(record.snapshots[0].reason.contains("withdrawn"), "{record:?}");
    assert_only(&memory, first);
}

/// An hour before others ignore it, whichever clock says so: one stands still while a machine sleeps, one may be set back.
#[test]
fn a_lease_is_given_up_before_others_take_it_for_dead() {
    let last = LIFETIME.as_secs() - 3600;
    let ages =
        |monotonic: u64, calendar: i64| is_too_old(Duration::from_secs(monotonic), SignedDuration::from_secs(calendar));
    let calendar = last as i64;
    for (monotonic, calendar, expected) in [
        (0, 0, false),
        (last - 1, calendar - 1, false),
        (last, calendar, true),
        (last, 0, true),
        (last, -1_000_000, true),
        (0, calendar, true),
        (0, calendar - 1, false),
        (0, i64::MIN, false),
        (0, i64::MAX, true),
    ] {
        assert_eq!(ages(monotonic, calendar), expected, "{monotonic} s and {calendar} s");
    }
}
