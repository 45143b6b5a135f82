//! Fills an index with synthetic chunks and looks them up: what `scripts/scale index` runs.
//!
//! `fill_index fill DIRECTORY CHUNKS` makes the index; `fill_index look DIRECTORY CHUNKS` opens it and asks for chunks that
//! it has, in the order in which they were stored, and for chunks that it does not have. Each prints one line of JSON.
//!
//! Ids are uniform, as those of real chunks are; a pack has 100 frames of 64 chunks, as the packs of dumps do.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::time::Instant;

use cairn::format::pack::{ChunkEntry, FrameEntry};
use cairn::format::{ChunkId, Kind, ObjectId, RepositoryId};
use cairn::repo::cache::CacheDir;
use cairn::repo::index::Index;
use serde_json::json;

const FRAMES: u64 = 100;
const FRAME_CHUNKS: u64 = 64;
const PACK_CHUNKS: u64 = FRAMES * FRAME_CHUNKS;
const LOOK_UPS: u64 = 1_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    assert_eq!(words.len(), 3, "usage: fill_index fill|look DIRECTORY CHUNKS");
    let (directory, chunks) = (Path::new(&words[1]), words[2].parse::<u64>().unwrap());
    let report = if words[0] == "fill" { fill(directory, chunks) } else { look(directory, chunks) };
    println!("{report}");
}

fn open(directory: &Path) -> Index {
    let repository = RepositoryId::from_bytes([3; 32]);
    let cache = CacheDir::open(Some(directory), repository).unwrap();
    Index::open(&cache, repository).unwrap()
}

/// SplitMix64's finish: a bijection, so no two numbers have the same id.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn id(number: u64) -> ChunkId {
    let mut bytes = [0; ChunkId::LEN];
    bytes[..8].copy_from_slice(&mix(number).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(!number).to_le_bytes());
    ChunkId::from_slice(&bytes).unwrap()
}

fn pack(number: u64) -> (ObjectId, Vec<FrameEntry>) {
    let frames = (0..FRAMES)
        .map(|slot| FrameEntry {
            offset: 40 + slot * 160_000,
            stored_len: 160_000,
            depth: 0,
            bases: Vec::new(),
            chunks: (0..FRAME_CHUNKS)
                .map(|at| ChunkEntry { id: id((number * FRAMES + slot) * FRAME_CHUNKS + at), len: 16 << 10 })
                .collect(),
        })
        .collect();
    (ObjectId::of(&number.to_le_bytes()), frames)
}

fn fill(directory: &Path, chunks: u64) -> serde_json::Value {
    let index = open(directory);
    let started = Instant::now();
    for number in 0..chunks.div_ceil(PACK_CHUNKS) {
        let (id, frames) = pack(number);
        index.add_pack(Kind::DataPack, &id, 16 << 20, &[0; 40], &frames).unwrap();
    }
    json!({ "seconds": started.elapsed().as_secs_f64() })
}

/// Asks for chunks by their numbers, as a writer does: how many a second are answered, and each as expected.
fn ask(index: &Index, numbers: impl Iterator<Item = u64>, places: usize) -> f64 {
    let (started, mut asked) = (Instant::now(), 0u64);
    for number in numbers {
        assert_eq!(index.find_for_writing(&id(number)).unwrap().len(), places, "chunk {number}");
        asked += 1;
        if asked.is_multiple_of(1000) && started.elapsed().as_secs() >= 20 {
            break;
        }
    }
    asked as f64 / started.elapsed().as_secs_f64()
}

fn look(directory: &Path, chunks: u64) -> serde_json::Value {
    let started = Instant::now();
    let index = open(directory);
    // What the beginning of every backup does besides: all packs, to compare them with storage, and a first question.
    let packs = index.packs().unwrap().len();
    assert!(index.find(&id(u64::MAX)).unwrap().is_empty());
    let open_seconds = started.elapsed().as_secs_f64();
    let start = chunks / 3;
    json!({
        "packs": packs,
        "open_seconds": open_seconds,
        "novel_per_second": ask(&index, (0..LOOK_UPS).map(|number| u64::MAX / 2 + number), 0),
        "known_in_order_per_second": ask(&index, start..(start + LOOK_UPS).min(chunks), 1),
        "known_anywhere_per_second": ask(&index, (0..LOOK_UPS).map(|number| mix(number) % chunks), 1),
    })
}
