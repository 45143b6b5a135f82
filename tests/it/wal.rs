//! The archive of PostgreSQL's log: what was archived is there, whole and durable; nothing else is ever reported.

mod command;
mod gap;
mod retention;
mod status;

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::backend::local::Local;
use cairn::format::crypto::{Keys, MasterKey};
use cairn::format::wal::{HEAD_END, SegmentName, WalHead, WalName};
use cairn::format::{Kind, RepositoryId};
use cairn::progress::Silent;
use cairn::repo::check::CheckOptions;
use cairn::repo::wal::{Archive, Archived, WalFile};
use cairn::repo::{RepoError, Repository};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{credential, init, open, tamper};

/// A cluster.
pub const CLUSTER: u64 = 7_012_345_678_901_234_567;
/// The smallest segments that there are.
pub const SIZE: u64 = 1 << 20;

/// A segment as PostgreSQL 15 writes one: its first page's header, then what `seed` makes.
pub fn segment(cluster: u64, name: SegmentName, size: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes[..size as usize / 4]);
    bytes[..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&name.timeline.to_le_bytes());
    bytes[8..16].copy_from_slice(&name.position(size).unwrap().to_le_bytes());
    bytes[24..32].copy_from_slice(&cluster.to_le_bytes());
    bytes[32..36].copy_from_slice(&(size as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}

/// What a cluster says of itself: as much of it as is read.
pub fn control_file() -> Vec<u8> {
    let mut control = vec![0; 8192];
    control[..8].copy_from_slice(&CLUSTER.to_le_bytes());
    control[8..12].copy_from_slice(&1300u32.to_le_bytes());
    control
}

pub fn numbered(timeline: u32, number: u64) -> SegmentName {
    SegmentName::holding(timeline, number * SIZE, SIZE)
}

/// Archives content under a name.
pub fn put(archive: &Archive, file: &WalFile, content: &[u8]) -> Result<Archived, RepoError> {
    let mut rest = content;
    let sealed = archive.seal(file, content.len() as u64, &mut |buffer: &mut [u8]| {
        let (head, tail) = rest.split_at(buffer.len());
        buffer.copy_from_slice(head);
        rest = tail;
        Ok::<(), RepoError>(())
    })?;
    archive.publish(sealed)
}

/// What is archived under a name.
pub fn get(archive: &Archive, file: &WalFile) -> Result<Option<Vec<u8>>, RepoError> {
    let mut content = Vec::new();
    let head = archive.fetch(file, &mut |block| {
        content.extend_from_slice(block);
        Ok::<(), RepoError>(())
    })?;
    Ok(head.map(|_| content))
}

pub fn made() -> (Arc<Memory>, Arc<dyn Backend>, Archive) {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let archive = Archive::open(backend.clone(), &credential()).unwrap();
    (memory, backend, archive)
}

fn file(name: &str) -> WalFile {
    WalFile { system_id: CLUSTER, name: WalName::parse(name).unwrap() }
}

fn first() -> (WalFile, Vec<u8>) {
    let name = numbered(1, 1);
    (WalFile { system_id: CLUSTER, name: WalName::Segment(name) }, segment(CLUSTER, name, SIZE, 1))
}

#[test]
fn names_are_those_that_postgresql_archives_and_no_others() {
    for name in [
        "000000010000000A000000FE",
        "0000000200000000000000FF.partial",
        "00000002.history",
        "000000010000000000000002.00000028.backup",
    ] {
        assert_eq!(WalName::parse(name).unwrap().to_string(), name);
    }
    for name in [
        "",
        "000000010000000A000000F",
        "000000010000000a000000fe",
        "000000000000000A000000FE",
        "00000000.history",
        "000000010000000A000000FE.ready",
        "000000010000000A000000FE/../../x",
        "RECOVERYXLOG",
        "+00000010000000A000000FE",
        "0000000100000000000000\u{c9}\u{c9}",
        "000000010000000000000002.0000028.backup",
    ] {
        assert_eq!(WalName::parse(name), None, "{name:?}");
    }
}

#[test]
fn segments_follow_each_other_over_the_end_of_four_gibibytes() {
    let last = SegmentName { timeline: 3, high: 1, low: 255 };
    assert_eq!(last.position(16 << 20), Some(0x1_FF00_0000));
    assert_eq!(last.next(16 << 20), Some(SegmentName { timeline: 3, high: 2, low: 0 }));
    assert_eq!(last.position(1 << 30), None, "there are four segments of a gibibyte");
    let end = SegmentName { timeline: 1, high: u32::MAX, low: 255 };
    assert_eq!(end.next(16 << 20), None);
}

#[test]
fn every_kind_of_file_comes_back_and_each_cluster_has_its_own() {
    let (_, _, archive) = made();
    let long = SegmentName { timeline: 1, high: 0, low: 3 };
    let files: [(WalFile, Vec<u8>); 5] = [
        first(),
        (WalFile { system_id: CLUSTER, name: WalName::Segment(long) }, segment(CLUSTER, long, 16 << 20, 2)),
        (file("000000010000000000000002.partial"), segment(CLUSTER, numbered(1, 2), SIZE, 3)),
        (file("00000002.history"), b"1\t0/3000000\tno recovery target specified\n".to_vec()),
        (file("000000010000000000000002.00000028.backup"), b"START WAL LOCATION: 0/2000028\n".to_vec()),
    ];
    for (file, content) in &files {
        assert_eq!(get(&archive, file).unwrap(), None, "{}", file.name);
        assert_eq!(put(&archive, file, content).unwrap(), Archived::Written);
    }
    for (file, content) in &files {
        assert!(get(&archive, file).unwrap().as_ref() == Some(content), "{}", file.name);
        assert_eq!(get(&archive, &WalFile { system_id: 1, ..*file }).unwrap(), None);
        let head = archive.head(file).unwrap().unwrap();
        assert_eq!((head.raw_len, head.hash), (content.len() as u64, *blake3::hash(content).as_bytes()));
    }
    assert_eq!(archive.catalog().unwrap().files.len(), files.len());
    assert_eq!(archive.catalog().unwrap().clusters(), [CLUSTER]);
}

#[test]
fn equal_content_is_archived_twice_and_other_content_never_replaces_it() {
    let (memory, backend, archive) = made();
    let (file, content) = first();
    put(&archive, &file, &content).unwrap();
    let before = memory.snapshot();
    assert_eq!(put(&archive, &file, &content).unwrap(), Archived::Found);
    let mut other = content.clone();
    other[5000] ^= 1;
    let error = put(&archive, &file, &other).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RepoError::OtherWal { .. }), "{error:?}");
    assert!(text.contains(&file.name.to_string()) && text.contains(&CLUSTER.to_string()), "{text}");
    assert!(archive.confirm(&file, SIZE, blake3::hash(&other).as_bytes()).is_err());
    assert!(archive.confirm(&file, SIZE, blake3::hash(&content).as_bytes()).unwrap());
    assert_eq!(memory.snapshot(), before);
    drop(backend);
}

/// One that begins, writes half and is cut off has stored nothing that anybody sees.
#[test]
fn a_file_that_cannot_be_read_to_its_end_is_not_archived() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("repo");
    init(&Local::create(&place).unwrap());
    let local: Arc<dyn Backend> = Arc::new(Local::open(&place).unwrap());
    let archive = Archive::open(local, &credential()).unwrap();
    let name = SegmentName { timeline: 1, high: 0, low: 3 };
    let (file, content) =
        (WalFile { system_id: CLUSTER, name: WalName::Segment(name) }, segment(CLUSTER, name, 16 << 20, 2));
    let mut blocks = 0;
    let failed = archive.seal(&file, content.len() as u64, &mut |_: &mut [u8]| {
        blocks += 1;
        if blocks < 12 { Ok(()) } else { Err(RepoError::Interrupted) }
    });
    assert!(matches!(failed, Err(RepoError::Interrupted)), "it was read to its end");
    let unfinished = || std::fs::read_dir(place.join("tmp")).unwrap().count();
    assert_eq!((get(&archive, &file).unwrap(), unfinished()), (None, 0));
    assert_eq!(put(&archive, &file, &content).unwrap(), Archived::Written);
    assert_eq!(put(&archive, &file, &content).unwrap(), Archived::Found);
    assert!(get(&archive, &file).unwrap().unwrap() == content && unfinished() == 0);
}

#[test]
fn lengths_that_no_segment_has_are_refused() {
    let (_, _, archive) = made();
    let (file, _) = first();
    for len in [0, 1, SIZE - 1, SIZE + 1, 3 << 20] {
        assert!(put(&archive, &file, &vec![0; len as usize]).is_err(), "{len}");
    }
}

#[test]
fn two_that_archive_one_file_at_once_both_succeed_and_it_is_stored_once() {
    let (memory, _, archive) = made();
    let (file, content) = first();
    let results: Vec<Archived> = std::thread::scope(|scope| {
        let pushers: Vec<_> = (0..4).map(|_| scope.spawn(|| put(&archive, &file, &content).unwrap())).collect();
        pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| **result == Archived::Written).count(), 1, "{results:?}");
    assert_eq!(memory.ids().iter().filter(|(kind, _)| *kind == Kind::Wal).count(), 1);
    assert_eq!(get(&archive, &file).unwrap().unwrap(), content);
}

#[test]
fn under_every_failing_call_no_success_is_reported_without_a_durable_file() {
    let (file, content) = first();
    for found_first in [false, true] {
        for number in 0..6 {
            for fault in [
                ChangeFault::Crash(number),
                ChangeFault::Fail(number),
                ChangeFault::Full(number),
                ChangeFault::LostAcknowledgement(number),
                ChangeFault::ShortWrite(number),
            ] {
                let (memory, backend, archive) = made();
                if found_first {
                    // Another process wrote it and died before it was durable.
                    let sealed = {
                        let donor = Memory::with_state(memory.snapshot());
                        let backend: Arc<dyn Backend> = donor.clone();
                        put(&Archive::open(backend, &credential()).unwrap(), &file, &content).unwrap();
                        let (_, id) = *donor.ids().iter().find(|(kind, _)| *kind == Kind::Wal).unwrap();
                        (id, donor.peek(Kind::Wal, &id).unwrap())
                    };
                    memory.write_new(Kind::Wal, &sealed.0, &sealed.1).unwrap();
                }
                let failing: Arc<dyn Backend> = Arc::new(NthChange::new(backend.clone(), fault));
                let result = Archive::open(failing, &credential()).and_then(|archive| put(&archive, &file, &content));
                if result.is_ok() {
                    let left: Arc<dyn Backend> = Memory::with_state(memory.snapshot().after_power_loss());
                    let left = Archive::open(left, &credential()).unwrap();
                    assert!(get(&left, &file).unwrap().as_ref() == Some(&content), "{fault:?}: success, and no file");
                }
                put(&archive, &file, &content).unwrap_or_else(|error| panic!("after {fault:?}: {error}"));
                assert!(get(&archive, &file).unwrap().as_ref() == Some(&content));
            }
        }
    }
}

/// The repository, checked with every byte read: what it says of the log.
fn problems(backend: &Arc<dyn Backend>, read: bool) -> Vec<String> {
    let repository: Repository = open(backend);
    let options = CheckOptions { read_data_percent: read.then_some(100.0) };
    let report = repository.check(&options, &Silent).unwrap();
    assert_eq!(report.log_files, 1);
    report.problems.into_iter().map(|problem| format!("{}: {}", problem.subject, problem.message)).collect()
}

#[test]
fn damage_anywhere_is_found_and_never_taken_for_a_missing_file() {
    let (memory, backend, archive) = made();
    let (file, content) = first();
    put(&archive, &file, &content).unwrap();
    assert_eq!(problems(&backend, true), Vec::<String>::new());
    let key = *memory.ids().iter().find(|(kind, _)| *kind == Kind::Wal).unwrap();
    let good = memory.peek(key.0, &key.1).unwrap();
    let len = good.len();
    for at in [0, 6, 7, 8, 39, 40, 60, HEAD_END - 1, HEAD_END, HEAD_END + 1000, len - 1] {
        tamper(&memory, key, |mut bytes| {
            bytes[at] ^= 4;
            Some(bytes)
        });
        get(&archive, &file).expect_err("damage was not noticed");
        let found = problems(&backend, true);
        assert!(found.len() == 1 && found[0].contains(&key.1.to_string()), "byte {at}: {found:?}");
        assert_eq!(problems(&backend, false).len(), usize::from(at < HEAD_END), "byte {at}");
        memory.overwrite(key.0, &key.1, &good);
    }
    for left in [0, 39, HEAD_END - 1, HEAD_END, len - 1] {
        tamper(&memory, key, |bytes| Some(bytes[..left].to_vec()));
        get(&archive, &file).expect_err("a missing end was not noticed");
        assert_eq!(problems(&backend, false).len(), 1, "cut at {left}");
        // It is no success to find what is not whole.
        assert!(archive.confirm(&file, SIZE, blake3::hash(&content).as_bytes()).is_err(), "cut at {left}");
        memory.overwrite(key.0, &key.1, &good);
    }
    // Another file's object under this name.
    let other = WalFile { name: WalName::Segment(numbered(1, 2)), ..file };
    put(&archive, &other, &segment(CLUSTER, numbered(1, 2), SIZE, 2)).unwrap();
    let (_, id) = *memory.ids().iter().rev().find(|(kind, id)| *kind == Kind::Wal && *id != key.1).unwrap();
    memory.overwrite(key.0, &key.1, &memory.peek(Kind::Wal, &id).unwrap());
    get(&archive, &file).expect_err("another file was taken for it");
}

#[test]
fn a_flipped_bit_in_memory_or_on_the_way_is_no_content() {
    use crate::support::faulty::{Fault, Faulty, Operation, Rule};
    let (_, backend, archive) = made();
    let (file, content) = first();
    put(&archive, &file, &content).unwrap();
    for fault in [Fault::FlipBit(100), Fault::Truncate(50), Fault::Error] {
        for call in 0..2 {
            let faulty = Faulty::new(backend.clone());
            let archive = Archive::open(faulty.clone(), &credential()).unwrap();
            faulty.add(Rule::on(Operation::Read, fault).kind(Kind::Wal).after(call));
            get(&archive, &file).expect_err("it was not noticed");
            assert!(get(&archive, &file).unwrap().as_ref() == Some(&content), "and once more");
        }
    }
}

fn keys() -> Keys {
    Keys::derive(&MasterKey::from_bytes([7; 32]), RepositoryId::from_bytes([9; 32]))
}

fn head() -> WalHead {
    WalHead {
        system_id: CLUSTER,
        name: WalName::Segment(numbered(1, 1)),
        raw_len: 16 << 20,
        hash: [3; 32],
        time: jiff::Timestamp::from_microsecond(1_767_225_600_000_001).unwrap(),
        block_len: 2 << 20,
        stored: (1..=8).map(|block| block * 1000).collect(),
    }
}

#[test]
fn heads_come_back_and_belong_to_their_names() {
    let (keys, head) = (keys(), head());
    let stored = head.seal(&keys.new_envelope(Kind::Wal).unwrap()).unwrap();
    assert_eq!(stored.len(), HEAD_END);
    assert_eq!(WalHead::open(&keys, &head.id(&keys), stored.clone()).unwrap().0, head);
    assert!(WalHead::open(&keys, &keys.wal_id(CLUSTER, "00000002.history"), stored.clone()).is_err());
    assert!(WalHead::open(&keys, &head.id(&keys), stored[..HEAD_END - 1].to_vec()).is_err());
    let spans: Vec<_> = head.blocks().collect();
    assert_eq!(spans[1], (HEAD_END as u64 + 1000, 2000, 2 << 20));
    assert_eq!(spans.iter().map(|span| span.2 as u64).sum::<u64>(), head.raw_len);
}

#[test]
fn impossible_heads_are_refused() {
    let keys = keys();
    let opened = |head: &WalHead| {
        let stored = head.seal(&keys.new_envelope(Kind::Wal).unwrap()).unwrap();
        WalHead::open(&keys, &head.id(&keys), stored).map(|(head, _)| head)
    };
    opened(&head()).unwrap();
    for spoil in [
        |head: &mut WalHead| head.raw_len = 17 << 20,
        |head: &mut WalHead| head.raw_len = 1 << 31,
        |head: &mut WalHead| head.raw_len = 0,
        |head: &mut WalHead| head.name = WalName::History(2),
        |head: &mut WalHead| head.block_len = 0,
        |head: &mut WalHead| head.block_len = 1 << 20,
        |head: &mut WalHead| head.block_len = 16 << 20,
        |head: &mut WalHead| head.stored.truncate(7),
        |head: &mut WalHead| head.stored.push(1000),
        |head: &mut WalHead| head.stored[3] = 15,
        |head: &mut WalHead| head.stored[3] = u32::MAX,
    ] {
        let mut head = head();
        spoil(&mut head);
        assert!(opened(&head).is_err(), "{head:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_heads_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = WalHead::decode(&bytes);
    }

    #[test]
    fn names_that_are_accepted_are_written_the_same(text in "[0-9A-Fa-f.historybackupartl]{0,42}") {
        if let Some(name) = WalName::parse(&text) {
            prop_assert!(name.to_string() == text);
        }
    }
}
