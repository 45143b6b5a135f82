//! Damage to any object: `check` names it, nothing wrong is ever given out, and what does not need it still restores.

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::check::CheckOptions;

use crate::support::memory::Memory;
use crate::support::{fork, init, load, next_day, open, open_with, rows, store, tamper};

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
    let kinds = [Kind::DataPack, Kind::MetaPack, Kind::Snapshot, Kind::Proof, Kind::Config, Kind::Key];
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
    let report = repository.check(&CheckOptions { read_data_percent: Some(100.0) }, &Silent).unwrap();
    let removed_record = name == "removed" && matches!(key.0, Kind::Snapshot | Kind::Proof);
    assert!(removed_record || !report.problems.is_empty(), "{what}: check found nothing");
    if matches!(key.0, Kind::Snapshot | Kind::Proof) && !removed_record {
        let named = report.problems.iter().any(|problem| problem.subject.contains(&key.1.to_string()));
        assert!(named, "{what}: not named in {:?}", report.problems);
        return 0;
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
