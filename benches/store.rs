//! Speed of the parts, each alone: `cargo bench`. For whole programs side by side there is `scripts/compare`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use cairn::chunker::{Chunker, Splitter};
use cairn::format::config::ChunkSizes;
use cairn::format::crypto::{Keys, MasterKey};
use cairn::format::pack::{ChunkEntry, FrameEntry};
use cairn::format::{ChunkId, Kind, ObjectId, RepositoryId, frame};
use cairn::repo::cache::CacheDir;
use cairn::repo::index::Index;
use cairn::repo::similar;
use cairn::source::files::{Walk, WalkOptions};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn keys() -> Keys {
    Keys::derive(&MasterKey::from_bytes([1; 32]), RepositoryId::from_bytes([2; 32]))
}

/// Rows as a database dumps them, made from a seed.
fn rows(bytes: usize) -> Vec<u8> {
    let (mut out, mut state) = (Vec::with_capacity(bytes + 128), 1u64);
    while out.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, kind) = (state >> 20, state >> 61);
        out.extend_from_slice(
            format!("{id}\tindicator-{kind}\t{{\"type\": \"domain\", \"score\": {}}}\n", id % 100).as_bytes(),
        );
    }
    out.truncate(bytes);
    out
}

const MIB: usize = 1 << 20;

#[divan::bench]
fn chunker(bencher: Bencher<'_, '_>) {
    let data = rows(16 * MIB);
    let chunker = Chunker::new(keys().gear_table(), ChunkSizes::DEFAULT);
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let (mut rest, mut chunks) = (data.as_slice(), 0);
        while !rest.is_empty() {
            rest = &rest[chunker.cut(rest)..];
            chunks += 1;
        }
        chunks
    });
}

#[divan::bench]
fn splitter_and_ids(bencher: Bencher<'_, '_>) {
    let data = rows(16 * MIB);
    let keys = keys();
    let mut splitter = Splitter::new(Chunker::new(keys.gear_table(), ChunkSizes::DEFAULT));
    bencher.counter(BytesCount::new(data.len())).bench_local(|| {
        let mut rest = data.as_slice();
        let mut at_end = false;
        while !at_end {
            let room = splitter.room();
            let len = room.len().min(rest.len());
            room[..len].copy_from_slice(&rest[..len]);
            splitter.filled(len);
            rest = &rest[len..];
            at_end = len == 0;
            while let Some(chunk) = splitter.next_chunk(at_end) {
                black_box(keys.chunk_id(chunk));
            }
        }
        splitter.clear();
    });
}

#[divan::bench]
fn sketches(bencher: Bencher<'_, '_>) {
    let data = rows(MIB);
    let gear = keys().gear_table();
    bencher
        .counter(BytesCount::new(data.len()))
        .bench(|| data.chunks(16 << 10).map(|chunk| similar::sketch(&gear, chunk)[0]).fold(0, u32::wrapping_add));
}

#[divan::bench(args = [3, 6])]
fn compress_plain(bencher: Bencher<'_, '_>, level: i32) {
    let data = rows(MIB);
    bencher.counter(BytesCount::new(data.len())).bench(|| frame::compress(level, &data, &[]).unwrap());
}

#[divan::bench(args = [3, 6])]
fn compress_delta(bencher: Bencher<'_, '_>, level: i32) {
    let base = rows(2 * MIB);
    let data = base[MIB / 2..MIB + MIB / 2].to_vec();
    bencher.counter(BytesCount::new(data.len())).bench(|| frame::compress(level, &data, &base).unwrap());
}

#[divan::bench]
fn decompress(bencher: Bencher<'_, '_>) {
    let data = rows(MIB);
    let compressed = frame::compress(3, &data, &[]).unwrap();
    bencher.counter(BytesCount::new(data.len())).bench(|| frame::decompress(&compressed, data.len(), &[]).unwrap());
}

#[divan::bench]
fn seal(bencher: Bencher<'_, '_>) {
    let data = rows(MIB);
    let envelope = keys().new_envelope(Kind::DataPack).unwrap();
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let mut out = Vec::with_capacity(data.len() + 64);
        envelope.seal(0, &data, &mut out).unwrap();
        out
    });
}

fn id(number: u64) -> ChunkId {
    let hash = blake3::hash(&number.to_le_bytes());
    ChunkId::from_slice(&hash.as_bytes()[..ChunkId::LEN]).unwrap()
}

/// A pack of 100 frames with 64 chunks each.
fn pack(number: u64) -> (ObjectId, Vec<FrameEntry>) {
    let frames = (0..100u64)
        .map(|slot| FrameEntry {
            offset: 40 + slot * 1000,
            stored_len: 1000,
            depth: 0,
            bases: Vec::new(),
            chunks: (0..64).map(|at| ChunkEntry { id: id((number * 100 + slot) * 64 + at), len: 16 << 10 }).collect(),
        })
        .collect();
    (ObjectId::of(&number.to_le_bytes()), frames)
}

const PACK_CHUNKS: u64 = 6400;

fn index(packs: u64) -> (tempfile::TempDir, Index) {
    let directory = tempfile::tempdir().unwrap();
    let repository = RepositoryId::from_bytes([3; 32]);
    let cache = CacheDir::open(Some(directory.path()), repository).unwrap();
    let index = Index::open(&cache, repository).unwrap();
    for number in 0..packs {
        let (id, frames) = pack(number);
        index.add_pack(Kind::DataPack, &id, 1 << 20, &[0; 40], &frames).unwrap();
    }
    (directory, index)
}

#[divan::bench]
fn index_insert(bencher: Bencher<'_, '_>) {
    let (_directory, index) = index(10);
    let mut number = 10;
    bencher.counter(ItemsCount::new(PACK_CHUNKS)).bench_local(|| {
        let (id, frames) = pack(number);
        number += 1;
        index.add_pack(Kind::DataPack, &id, 1 << 20, &[0; 40], &frames).unwrap();
    });
}

#[divan::bench]
fn index_look_up_known(bencher: Bencher<'_, '_>) {
    let (_directory, index) = index(100);
    bencher
        .counter(ItemsCount::new(1000u64))
        .bench(|| (0..1000u64).map(|number| index.find(&id(number * 641)).unwrap().len()).sum::<usize>());
}

#[divan::bench]
fn index_look_up_novel(bencher: Bencher<'_, '_>) {
    let (_directory, index) = index(100);
    bencher
        .counter(ItemsCount::new(1000u64))
        .bench(|| (0..1000u64).map(|number| index.find(&id(u64::MAX - number)).unwrap().len()).sum::<usize>());
}

fn make_tree(root: &Path) {
    for directory in 0..50 {
        let directory = root.join(format!("directory{directory}"));
        std::fs::create_dir(&directory).unwrap();
        for file in 0..100 {
            std::fs::write(directory.join(format!("file{file}.json")), "{}").unwrap();
        }
    }
}

#[divan::bench]
fn walk(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    make_tree(directory.path());
    bencher.counter(ItemsCount::new(5000u64)).bench(|| {
        let options = WalkOptions { roots: vec![directory.path().to_owned()], ..WalkOptions::default() };
        Walk::new(options).unwrap().count()
    });
}
