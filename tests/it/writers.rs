//! Several writers at once, and what a backup writes.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use cairn::backend::{Backend, list_all};
use cairn::chunker::Chunker;
use cairn::format::Kind;
use cairn::format::pack::ChunkEntry;
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::backup;
use cairn::progress::{Monitor, Silent};
use cairn::repo::writer::packer::{EncodedFrame, Packer};
use cairn::repo::{InitOptions, RepoError, Repository};

use crate::support::memory::Memory;
use crate::support::{assert_sound, credential, init, load, next_day, open, open_with, options, rows, store};

fn fresh() -> (Arc<Memory>, Arc<dyn Backend>) {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    (memory, backend)
}

#[test]
fn writers_at_once_all_publish_and_all_restores_are_right() {
    let (memory, backend) = fresh();
    let common = rows(1, 1000);
    std::thread::scope(|scope| {
        for number in 0..6u64 {
            let (backend, common) = (&backend, &common);
            scope.spawn(move || {
                let mut bytes = common.clone();
                bytes.extend_from_slice(&rows(number + 10, 500));
                let id = store(&open(backend), &format!("w{number}"), &bytes).unwrap().id.unwrap();
                assert_eq!(load(&open(backend), &id).unwrap(), bytes);
            });
        }
    });
    let repository = open(&backend);
    assert_eq!(repository.snapshots().unwrap().len(), 6);
    assert_sound(&repository);
    let leases = memory.ids().into_iter().filter(|(kind, _)| *kind == Kind::Lease).count();
    assert_eq!(leases, 0, "a lease was left behind");
}

#[test]
fn an_unchanged_stream_writes_no_pack() {
    let (_, backend) = fresh();
    let bytes = rows(1, 3000);
    store(&open(&backend), "dump", &bytes).unwrap();
    let packs = |kind| list_all(backend.as_ref(), kind).unwrap();
    let before = (packs(Kind::DataPack), packs(Kind::MetaPack));
    let outcome = store(&open(&backend), "dump", &bytes).unwrap();
    assert_eq!((outcome.summary.new_bytes, outcome.summary.stored_bytes), (0, 0));
    assert_eq!(outcome.summary.read_bytes, bytes.len() as u64, "a stream is always read");
    assert_eq!((packs(Kind::DataPack), packs(Kind::MetaPack)), before);
}

/// Gives what it holds in pieces of these lengths, over and over.
struct Pieces<'a> {
    left: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.lengths.next().unwrap().min(&buffer.len()).min(&self.left.len()).to_owned();
        let (head, tail) = self.left.split_at(len);
        buffer[..len].copy_from_slice(head);
        self.left = tail;
        Ok(len)
    }
}

#[test]
fn a_long_stream_is_cut_alike_however_it_is_read() {
    let memory = Memory::new();
    Repository::init(memory.as_ref(), &credential(), &InitOptions::default()).unwrap();
    let backend: Arc<dyn Backend> = memory;
    // Long enough for many pieces, and with a stretch in which the longest chunks are cut.
    let mut bytes = rows(1, 300_000);
    bytes.splice(3_000_000..3_000_000, std::iter::repeat_n(0, 1_000_000));
    let repository = open(&backend);
    let chunker = Chunker::new(repository.keys().gear_table(), repository.config().chunk_sizes);
    for (round, lengths) in [[1 << 20, 1 << 20, 1 << 20], [70_001, 1, 8191], [3, 524_288, 262_143]].iter().enumerate() {
        let mut source = Pieces { left: &bytes, lengths: lengths.iter().cycle() };
        let outcome = backup::stream(&repository, &mut source, &options("dump"), &Silent).unwrap();
        assert_eq!(load(&repository, &outcome.id.unwrap()).unwrap(), bytes);
        assert!(round == 0 || outcome.summary.new_bytes == 0, "{lengths:?}");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(chunker.cut(rest));
            assert!(!repository.index().find(&repository.keys().chunk_id(chunk)).unwrap().is_empty(), "{lengths:?}");
            rest = tail;
        }
    }
    let outcome = store(&repository, "dump", &bytes).unwrap();
    assert_eq!((outcome.summary.new_bytes, outcome.summary.read_bytes), (0, bytes.len() as u64));
}

#[test]
fn a_small_change_costs_little_and_depth_stays_bounded() {
    let (_, backend) = fresh();
    let mut bytes = rows(1, 8000);
    let first = store(&open(&backend), "dump", &bytes).unwrap().summary.stored_bytes;
    let mut all = Vec::new();
    let mut stored = 0;
    for day in 0..14 {
        bytes = next_day(&bytes, day);
        let outcome = store(&open(&backend), "dump", &bytes).unwrap();
        // Where the secret cuts are unlucky, a day that finds its bases at the depth limit stores more than the others.
        assert!(outcome.summary.stored_bytes < first / 2, "day {day}: {} of {first}", outcome.summary.stored_bytes);
        stored += outcome.summary.stored_bytes;
        all.push((outcome.id.unwrap(), bytes.clone()));
    }
    assert!(stored < 14 * first / 4, "14 days took {stored}, the first dump {first}");
    let repository = open(&backend);
    let mut depths = BTreeSet::new();
    for pack in repository.index().packs().unwrap() {
        depths.extend(repository.index().frames_of_pack(pack.no).unwrap().iter().map(|frame| frame.entry.depth));
    }
    assert!(depths.contains(&3), "no delta of depth 3 was made: {depths:?}");
    assert!(depths.last().unwrap() <= &8, "{depths:?}");
    for (id, bytes) in &all {
        assert!(load(&repository, id).unwrap() == *bytes);
    }
    assert_sound(&repository);
}

#[test]
fn contents_of_every_awkward_length_come_back() {
    let (_, backend) = fresh();
    let all = rows(3, 2000);
    for len in [0, 1, 511, 512, 513, 2048, 8191, 8192, 8193, 65_537, all.len()] {
        let id = store(&open(&backend), "length", &all[..len]).unwrap().id.unwrap();
        assert_eq!(load(&open(&backend), &id).unwrap(), all[..len], "{len} bytes");
    }
    let zeros = vec![0; 1 << 20];
    let id = store(&open(&backend), "zeros", &zeros).unwrap().id.unwrap();
    assert_eq!(load(&open(&backend), &id).unwrap(), zeros);
    assert_sound(&open(&backend));
}

/// From the ninth day of a series on, deltas were as deep as they may be, and what changed was stored whole.
#[test]
fn days_after_the_deepest_delta_cost_no_more_than_those_before() {
    let (_, backend) = fresh();
    let cache = tempfile::tempdir().unwrap();
    let mut bytes = rows(1, 20_000);
    let mut stored = Vec::new();
    for day in 0..25 {
        let repository = open_with(&backend, Some(cache.path().to_owned())).unwrap();
        stored.push(store(&repository, "dump", &bytes).unwrap().summary.stored_bytes);
        bytes = next_day(&bytes, day);
    }
    let most = stored[1..].iter().max().unwrap();
    assert!(*most < stored[0] / 4, "the first took {}, and a later one {most}", stored[0]);
}

struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::Error::other("the disk went away"));
        }
        let len = self.0.min(buffer.len());
        buffer[..len].fill(b'x');
        self.0 -= len;
        Ok(len)
    }
}

#[test]
fn a_stream_that_fails_publishes_nothing_and_the_next_backup_works() {
    let (_, backend) = fresh();
    let repository = open(&backend);
    // The second one while it is cut on other threads.
    for length in [300_000, 3_000_000] {
        let error = backup::stream(&repository, &mut Failing(length), &options("dump"), &Silent).unwrap_err();
        assert!(matches!(error, OrchestrateError::Input(_)), "{error:?}");
        assert!(repository.snapshots().unwrap().is_empty());
    }
    let bytes = vec![b'x'; 300_000];
    let id = store(&repository, "dump", &bytes).unwrap().id.unwrap();
    assert_eq!(load(&open(&backend), &id).unwrap(), bytes);
}

struct Interrupting;

impl Monitor for Interrupting {
    fn interrupted(&self) -> bool {
        true
    }
}

#[test]
fn an_interrupted_backup_publishes_nothing() {
    let (_, backend) = fresh();
    let repository = open(&backend);
    let bytes = rows(1, 1000);
    let error = backup::stream(&repository, &mut bytes.as_slice(), &options("dump"), &Interrupting).unwrap_err();
    assert!(matches!(error, OrchestrateError::Repo(RepoError::Interrupted)), "{error:?}");
    assert!(repository.snapshots().unwrap().is_empty());
}

#[test]
fn the_parent_of_another_kind_or_name_is_not_chosen() {
    let (_, backend) = fresh();
    let repository = open(&backend);
    let first = store(&repository, "a", &rows(1, 200)).unwrap();
    assert_eq!(first.parent, None);
    assert_eq!(store(&repository, "b", &rows(2, 200)).unwrap().parent, None);
    assert_eq!(store(&repository, "a", &rows(3, 200)).unwrap().parent, first.id);
}

#[test]
fn a_frame_that_compression_broke_is_found_before_anything_is_written() {
    let (_, backend) = fresh();
    let repository = open(&backend);
    let raw = rows(1, 200);
    let other = {
        let mut other = raw.clone();
        other[raw.len() / 2] ^= 1;
        other
    };
    let compressed = |bytes: &[u8]| cairn::format::frame::compress(3, bytes, &[]).unwrap();
    let add = |bytes: Vec<u8>| {
        let packer = Packer::new(Kind::DataPack, backend.clone(), repository.keys().clone());
        let chunk = ChunkEntry { id: repository.keys().chunk_id(&raw), len: raw.len() as u32 };
        let encoded = EncodedFrame { depth: 0, bases: Vec::new(), chunks: vec![chunk], bytes };
        packer.add(&encoded, &raw, &[], &|_| Ok(()))?;
        packer.finish(&|_| Ok(()))
    };
    let mut flipped = compressed(&raw);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (what, broken) in [
        ("other content of the same length", compressed(&other)),
        ("less content", compressed(&raw[..raw.len() - 1])),
        ("more content", compressed(&[raw.as_slice(), b"x"].concat())),
        ("one bit", flipped),
    ] {
        assert!(add(broken).is_err(), "{what}");
        assert_eq!(list_all(backend.as_ref(), Kind::DataPack).unwrap(), [], "{what}");
    }
    assert!(add(compressed(&raw)).unwrap() > 0);
    assert_eq!(list_all(backend.as_ref(), Kind::DataPack).unwrap().len(), 1);
}
