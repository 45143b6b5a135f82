//! What the tests share: storage in memory, storage that fails, and a repository that is quick to use.

pub mod conformance;
pub mod entries;
pub mod faulty;
pub mod full_set;
pub mod log;
pub mod machine;
pub mod memory;
pub mod nth;
pub mod pty;
pub mod recording;
pub mod trees;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::config::ChunkSizes;
use cairn::format::content::Content;
use cairn::format::key::Credential;
use cairn::format::record::{Snapshot, SnapshotKind};
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::backup::{self, BackupOptions, Outcome, Parent};
use cairn::progress::Silent;
use cairn::repo::{InitOptions, OpenOptions, RepoError, Repository};
use memory::Memory;

/// Small chunks make many of them from little data.
pub const CHUNKS: ChunkSizes = ChunkSizes { min: 512, average: 2048, max: 8192 };

/// A key file costs no key derivation.
pub fn credential() -> Credential {
    Credential::KeyFile([7; 32].into())
}

pub fn init(backend: &dyn Backend) {
    Repository::init(backend, &credential(), &InitOptions { chunk_sizes: CHUNKS, ..InitOptions::default() }).unwrap();
}

/// A copy of the present state: what is left after a crash of the process, or a stolen copy.
pub fn fork(memory: &Memory) -> Arc<Memory> {
    Memory::with_state(memory.snapshot())
}

/// Changes an object's bytes behind everybody's back; `None` removes it.
pub fn tamper(memory: &Memory, key: (Kind, ObjectId), change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let bytes = memory.peek(key.0, &key.1).unwrap().to_vec();
    memory.remove(key.0, &key.1).unwrap();
    memory.sync().unwrap();
    if let Some(bytes) = change(bytes) {
        memory.overwrite(key.0, &key.1, &bytes);
    }
}

/// Opens with a cache of its own, so that nothing is remembered from before.
pub fn open(backend: &Arc<dyn Backend>) -> Repository {
    open_with(backend, None).unwrap()
}

pub fn open_with(backend: &Arc<dyn Backend>, cache: Option<PathBuf>) -> Result<Repository, RepoError> {
    let options = OpenOptions { cache, host: "test".to_owned() };
    Repository::open(backend.clone(), &credential(), &options, &Silent)
}

pub fn options(name: &str) -> BackupOptions {
    BackupOptions { name: name.to_owned(), tags: Default::default(), parent: Parent::Newest, force: false }
}

pub fn store(repository: &Repository, name: &str, mut bytes: &[u8]) -> Result<Outcome, OrchestrateError> {
    backup::stream(repository, &mut bytes, &options(name), &Silent)
}

/// The record of a stream with this content, made now.
pub fn stream_record(name: &str, content: Content) -> Snapshot {
    Snapshot {
        name: name.to_owned(),
        host: "test".to_owned(),
        time: jiff::Timestamp::now(),
        kind: SnapshotKind::Stream,
        paths: Vec::new(),
        excludes: Vec::new(),
        tags: Default::default(),
        content,
        parent: None,
        previous: None,
        summary: Default::default(),
        program: "test".to_owned(),
    }
}

/// The bytes of a stream snapshot.
pub fn load(repository: &Repository, id: &ObjectId) -> Result<Vec<u8>, String> {
    let snapshots = repository.readable_snapshots().map_err(|error| cairn::repo::chain(&error))?;
    let info = snapshots.found.iter().find(|info| info.id == *id).ok_or("no such snapshot")?;
    let mut bytes = Vec::new();
    let mut stream = repository.stream(&info.snapshot.content).map_err(|error| cairn::repo::chain(&error))?;
    stream.read_to_end(&mut bytes).map_err(|error| cairn::repo::chain(&error))?;
    Ok(bytes)
}

/// Lines that look like a database's rows: compressible, and never twice the same for different seeds.
pub fn rows(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::new();
    for row in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(
            format!("{row}\tentity--{state:016x}\t{{\"type\": \"indicator\", \"rev\": {}}}\n", state % 97).as_bytes(),
        );
    }
    out
}

/// Bytes that look random and are always the same.
pub fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The next day's version: some rows changed in place, some new at the end.
pub fn next_day(before: &[u8], seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(before.len() + 4096);
    for (index, line) in before.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if (index as u64).wrapping_mul(31).wrapping_add(seed).is_multiple_of(211) {
            out.extend_from_slice(format!("{index}\tchanged on day {seed}\n").as_bytes());
        } else {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&rows(seed ^ 0xabcd, 20));
    out
}

/// Fails unless the repository is sound, every chunk read back.
pub fn assert_sound(repository: &Repository) {
    let options = cairn::repo::check::CheckOptions { read_data_percent: Some(100.0) };
    let report = repository.check(&options, &Silent).unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}
