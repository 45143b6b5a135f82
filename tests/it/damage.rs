//! Damage to any object: `check` names it, nothing wrong is ever given out, and what does not need it still restores.

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::record::{Lease, Purpose, Tombstone};
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::check::CheckOptions;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::{RepoError, Repository, chain};

use crate::support::memory::Memory;
use crate::support::{assert_sound, fork, init, load, next_day, open, open_with, rows, store, tamper};

type Change = (&'static str, fn(Vec<u8>) -> Option<Vec<u8>>);

const CHANGES: [Change; 6] = [
    ("first byte flipped", |mut bytes| {
        bytes[0] ^= 1;
        Some(bytes)
    }),
    ("a byte in the middle flipped", |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        Some(bytes)
    }),
    ("last byte flipped", |mut bytes| {
        *bytes.last_mut().unwrap() ^= 0x80;
        Some(bytes)
    }),
    ("truncated by one", |mut bytes| {
        bytes.pop();
        Some(bytes)
    }),
    ("emptied", |_| Some(Vec::new())),
    ("removed", |_| None),
];

#[test]
fn damage_is_named_and_never_given_out() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let mut contents = Vec::new();
    let mut bytes = rows(1, 1500);
    for day in 0..3 {
        contents.push((store(&repository, "dump", &bytes).unwrap().id.unwrap(), bytes.clone()));
        bytes = next_day(&bytes, day);
    }
    let other = rows(99, 800);
    contents.push((store(&repository, "other", &other).unwrap().id.unwrap(), other));
    for info in repository.snapshots().unwrap() {
        repository.verify(&info, &Silent).unwrap();
    }
    // A set of what is there, and a record of a snapshot that is not: its content is that of another, so that no pack is
    // without a snapshot that needs it.
    let mut set = crate::support::full_set::set();
    let ids = contents.iter().map(|(id, _)| *id).cycle();
    let parts = set.components.iter_mut().flat_map(|component| &mut component.parts);
    parts.zip(ids).for_each(|(part, id)| part.snapshot = id);
    repository.write_record(&set).unwrap();
    let gone = store(&repository, "dump", &contents[2].1).unwrap().id.unwrap();
    repository.forget(&[(gone, "a test".to_owned())]).unwrap();
    let kinds = [
        Kind::DataPack,
        Kind::MetaPack,
        Kind::Snapshot,
        Kind::Set,
        Kind::Proof,
        Kind::Forgotten,
        Kind::Config,
        Kind::Key,
    ];
    for kind in kinds {
        assert!(memory.ids().iter().any(|(found, _)| *found == kind), "there is no {kind} to be damaged");
    }
    let mut survived = 0;
    for key in memory.ids().into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        for (name, change) in CHANGES {
            let copy = fork(&memory);
            tamper(&copy, key, change);
            survived += assert_damage_is_contained(copy, key, name, &contents);
        }
    }
    assert!(survived > 0, "no snapshot ever survived the damage of another's objects");
}

/// Fails unless `check` says which object is damaged, or, of what is gone, who needs it.
fn assert_named(repository: &Repository, key: (Kind, ObjectId), name: &str, what: &str) {
    let is_pack = matches!(key.0, Kind::DataPack | Kind::MetaPack);
    for read_data_percent in [None, Some(100.0)] {
        let problems = repository.check(&CheckOptions { read_data_percent }, &Silent).unwrap().problems;
        let about = |subject: &str| problems.iter().any(|problem| problem.subject.contains(subject));
        match (name, is_pack) {
            // Nobody but the storage knew the record, unless another object names it.
            ("removed", false) => {}
            // Nothing says in which pack a chunk was.
            ("removed", true) => {
                let chunk = problems.iter().any(|problem| problem.message.contains("is in no readable pack"));
                assert!(about("snapshot ") && chunk, "{what}: {problems:?}");
            }
            // What only a reading of all data shows.
            ("a byte in the middle flipped", true) if read_data_percent.is_none() => {}
            _ => assert!(about(&format!("{} {}", key.0, key.1)), "{what}: not named in {problems:?}"),
        }
    }
}

/// How many snapshots still restore; each must be right or refused.
fn assert_damage_is_contained(
    copy: Arc<Memory>,
    key: (Kind, ObjectId),
    name: &str,
    contents: &[(ObjectId, Vec<u8>)],
) -> usize {
    let what = format!("{} {}: {name}", key.0, key.1);
    let backend: Arc<dyn Backend> = copy;
    let repository = match open_with(&backend, None) {
        Ok(repository) => repository,
        Err(error) => {
            assert!(matches!(key.0, Kind::Config | Kind::Key), "{what}: cannot be opened: {error}");
            return 0;
        }
    };
    assert!(!matches!(key.0, Kind::Config | Kind::Key), "{what}: it still opens");
    assert_named(&repository, key, name, &what);
    if matches!(key.0, Kind::Snapshot | Kind::Proof | Kind::Set | Kind::Forgotten) && name != "removed" {
        // One record takes nothing with it but itself.
        for (id, bytes) in contents.iter().filter(|(id, _)| *id != key.1) {
            assert_eq!(load(&repository, id).as_ref(), Ok(bytes), "{what}");
        }
    }
    let mut good = 0;
    for (id, bytes) in contents.iter().filter(|(id, _)| *id != key.1) {
        match load(&repository, id) {
            Ok(found) => {
                assert!(found == *bytes, "{what}: wrong content given out");
                good += 1;
            }
            Err(error) => assert!(!error.is_empty()),
        }
    }
    good
}

#[test]
fn a_snapshot_that_vanishes_without_a_record_is_reported() {
    let cache = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open_with(&backend, Some(cache.path().to_owned())).unwrap();
    let first = store(&repository, "dump", &rows(1, 100)).unwrap().id.unwrap();
    let second = store(&repository, "dump", &rows(2, 100)).unwrap().id.unwrap();
    let third = store(&repository, "dump", &rows(3, 100)).unwrap().id.unwrap();
    repository.forget(&[(first, "a test".to_owned())]).unwrap();
    tamper(&memory, (Kind::Snapshot, second), |_| None);
    let repository = open_with(&backend, Some(cache.path().to_owned())).unwrap();
    let vanished = repository.vanished(&[(third, Some(second))]).unwrap();
    assert_eq!(vanished.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [second]);
    // A machine that never saw it knows it by the next one's predecessor.
    let repository = open(&backend);
    let report = repository.check(&CheckOptions::default(), &Silent).unwrap();
    assert!(report.problems.iter().any(|problem| problem.subject.contains(&second.to_string())), "{report:?}");
}

#[test]
fn a_backup_stores_again_what_was_lost() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let bytes = rows(5, 2000);
    store(&open(&backend), "dump", &bytes).unwrap();
    for key in memory.ids().into_iter().filter(|(kind, _)| *kind == Kind::DataPack) {
        tamper(&memory, key, |_| None);
    }
    let repository = open(&backend);
    let id = store(&repository, "dump", &bytes).unwrap().id.unwrap();
    assert_eq!(load(&repository, &id).unwrap(), bytes);
}

/// Flips a bit in every object of a kind.
fn damage_all(memory: &Memory, kind: Kind) -> Vec<ObjectId> {
    let ids: Vec<_> = memory.ids().into_iter().filter(|(found, _)| *found == kind).collect();
    for key in &ids {
        tamper(memory, *key, |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Some(bytes)
        });
    }
    ids.into_iter().map(|(_, id)| id).collect()
}

const NOW: GcOptions = GcOptions { grace: Some(std::time::Duration::ZERO), dry_run: false };

#[test]
fn a_damaged_snapshot_stops_no_backup_and_no_other_restore_but_what_decides_is_refused() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let bytes = rows(1, 800);
    let lost = store(&repository, "dump", &bytes).unwrap().id.unwrap();
    tamper(&memory, (Kind::Snapshot, lost), |mut bytes| {
        bytes[60] ^= 1;
        Some(bytes)
    });
    let second = store(&repository, "dump", &bytes).unwrap();
    assert_eq!(second.parent, None, "what cannot be read is no parent");
    assert_eq!(load(&repository, &second.id.unwrap()).unwrap(), bytes);
    let all = repository.readable_snapshots().unwrap();
    assert_eq!(all.damaged.iter().map(|info| info.id).collect::<Vec<_>>(), [lost]);
    assert_eq!(all.damaged[0].name.as_deref(), Some("dump"), "this machine remembers it");
    let error = gc::run(&repository, &NOW, &Silent).unwrap_err();
    assert!(matches!(error, RepoError::Unread { id, .. } if id == lost), "{}", chain(&error));
    assert!(chain(&error).contains("cairn forget"), "{}", chain(&error));
    repository.snapshots().unwrap_err();
    // Given up by name, with a record, so that nobody takes it for stolen.
    repository.forget(&[(lost, "a test".to_owned())]).unwrap();
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(repository.vanished(&[]).unwrap().iter().all(|gone| gone.id != lost));
    assert_eq!(load(&repository, &second.id.unwrap()).unwrap(), bytes);
}

#[test]
fn a_damaged_proof_loses_only_the_proof() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    store(&repository, "dump", &rows(1, 300)).unwrap();
    repository.verify(&repository.snapshots().unwrap()[0], &Silent).unwrap();
    assert_eq!(damage_all(&memory, Kind::Proof).len(), 1);
    assert!(repository.snapshots().unwrap()[0].proof.is_none());
    gc::run(&repository, &NOW, &Silent).unwrap();
    store(&repository, "dump", &rows(2, 300)).unwrap();
}

#[test]
fn a_damaged_tombstone_stops_backups_until_a_gc_marks_anew() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let bytes = rows(1, 4000);
    let first = store(&repository, "a", &bytes).unwrap().id.unwrap();
    store(&repository, "b", &rows(2, 100)).unwrap();
    repository.forget(&[(first, "a test".to_owned())]).unwrap();
    let hour = GcOptions { grace: Some(std::time::Duration::from_secs(3600)), dry_run: false };
    gc::run(&repository, &hour, &Silent).unwrap();
    assert_eq!(damage_all(&memory, Kind::Tombstone).len(), 1);
    let error = store(&repository, "a", &bytes).unwrap_err();
    assert!(chain(&error).contains("tombstone") && chain(&error).contains("cairn gc"), "{}", chain(&error));
    gc::run(&repository, &hour, &Silent).unwrap();
    let tombstones = repository.read_records::<Tombstone>().unwrap();
    assert_eq!(tombstones.len(), 1, "the new one is readable");
    let id = store(&repository, "a", &bytes).unwrap().id.unwrap();
    memory.advance_clock(4000);
    gc::run(&repository, &hour, &Silent).unwrap();
    assert_eq!(load(&open(&backend), &id).unwrap(), bytes);
    assert_sound(&open(&backend));
}

#[test]
fn a_damaged_lease_counts_as_held_until_it_ends() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    store(&repository, "a", &rows(1, 500)).unwrap();
    let lease = Lease {
        host: "elsewhere".to_owned(),
        machine: String::new(),
        process: 1,
        time: jiff::Timestamp::now(),
        purpose: Purpose::Write,
        lifetime_seconds: 60,
    };
    repository.write_record(&lease).unwrap();
    damage_all(&memory, Kind::Lease);
    store(&repository, "a", &rows(2, 500)).unwrap();
    let error = gc::run(&repository, &NOW, &Silent).unwrap_err();
    assert!(matches!(error, RepoError::UnreadLease { .. }), "{}", chain(&error));
    memory.advance_clock(8 * 24 * 3600);
    gc::run(&repository, &NOW, &Silent).unwrap();
    assert!(memory.ids().iter().all(|(kind, _)| *kind != Kind::Lease), "it ended by itself");
}

#[test]
fn unknown_fields_of_records_are_ignored_and_unknown_kinds_cost_only_their_record() {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let bytes = rows(1, 300);
    let id = store(&repository, "dump", &bytes).unwrap().id.unwrap();
    let json = serde_json::to_value(&repository.snapshots().unwrap()[0].snapshot).unwrap();
    let seal = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        let envelope = repository.keys().new_envelope(Kind::Snapshot).unwrap();
        let mut stored = envelope.header().to_vec();
        let plain = cairn::format::frame::compress(3, &serde_json::to_vec(&json).unwrap(), &[]).unwrap();
        envelope.seal(0, &plain, &mut stored).unwrap();
        let id = ObjectId::of(&stored);
        backend.write_new(Kind::Snapshot, &id, &stored).unwrap();
        id
    };
    let more = seal(&|json| json["invented"] = "later".into());
    let other = seal(&|json| json["kind"] = "volume".into());
    let all = repository.readable_snapshots().unwrap();
    assert_eq!(all.damaged.iter().map(|info| info.id).collect::<Vec<_>>(), [other]);
    for id in [id, more] {
        assert_eq!(load(&repository, &id).unwrap(), bytes);
    }
}
