//! Repositories made by an enemy who has the key: every frame authenticates, and what it says is still not believed.

use std::path::Path;
use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::codec::{put_bytes, put_varint, put_zigzag};
use cairn::format::content::Content;
use cairn::format::crypto::Envelope;
use cairn::format::frame;
use cairn::format::pack::{ChunkEntry, FrameEntry, seal_footer};
use cairn::format::record::{Snapshot, SnapshotKind};
use cairn::format::{ChunkId, Kind, ObjectId};
use cairn::orchestrate::restore::{self, RestoreOptions};
use cairn::progress::Silent;
use cairn::repo::Repository;
use cairn::repo::check::CheckOptions;
use cairn::source::files::{Overwrite, Patterns};

use crate::support::memory::Memory;
use crate::support::{init, load, open, stream_record};

/// Writes packs that say whatever they are told.
struct Forger {
    backend: Arc<dyn Backend>,
    repository: Repository,
}

struct Pack {
    envelope: Envelope,
    bytes: Vec<u8>,
    frames: Vec<FrameEntry>,
}

impl Forger {
    fn new() -> Self {
        let memory = Memory::new();
        init(memory.as_ref());
        let backend: Arc<dyn Backend> = memory;
        let repository = open(&backend);
        Forger { backend, repository }
    }

    fn id(&self, raw: &[u8]) -> ChunkId {
        self.repository.keys().chunk_id(raw)
    }

    fn pack(&self, kind: Kind) -> Pack {
        let envelope = self.repository.keys().new_envelope(kind).unwrap();
        let bytes = envelope.header().to_vec();
        Pack { envelope, bytes, frames: Vec::new() }
    }

    fn write(&self, kind: Kind, mut pack: Pack) {
        seal_footer(&pack.envelope, &pack.frames, &mut pack.bytes).unwrap();
        self.backend.write_new(kind, &ObjectId::of(&pack.bytes), &pack.bytes).unwrap();
    }

    fn chunk(&self, kind: Kind, raw: &[u8]) -> ChunkId {
        let mut pack = self.pack(kind);
        pack.add(raw, &[(self.id(raw), raw.len() as u32)], 0, &[], &[]);
        self.write(kind, pack);
        self.id(raw)
    }

    fn snapshot(&self, kind: SnapshotKind, content: Content) -> ObjectId {
        let snapshot = Snapshot { kind, ..stream_record("forged", content) };
        self.repository.write_record(&snapshot).unwrap()
    }

    fn assert_refused(&self, id: &ObjectId, what: &str) {
        let repository = open(&self.backend);
        assert!(load(&repository, id).is_err(), "{what}: it was read");
        let report = repository.check(&CheckOptions { read_data_percent: Some(100.0) }, &Silent).unwrap();
        assert!(!report.problems.is_empty(), "{what}: check found nothing");
    }
}

impl Pack {
    fn add(&mut self, raw: &[u8], chunks: &[(ChunkId, u32)], depth: u8, bases: &[ChunkId], prefix: &[u8]) {
        let offset = self.bytes.len();
        let compressed = frame::compress(3, raw, prefix).unwrap();
        self.envelope.seal(self.frames.len() as u64, &compressed, &mut self.bytes).unwrap();
        let chunks = chunks.iter().map(|(id, len)| ChunkEntry { id: *id, len: *len }).collect();
        let stored_len = (self.bytes.len() - offset) as u32;
        self.frames.push(FrameEntry { offset: offset as u64, stored_len, depth, bases: bases.to_vec(), chunks });
    }
}

#[test]
fn a_frame_that_is_its_own_base_ends_in_an_error() {
    let forger = Forger::new();
    let raw = b"content that is its own base".as_slice();
    let id = forger.id(raw);
    let mut pack = forger.pack(Kind::DataPack);
    pack.add(raw, &[(id, raw.len() as u32)], 1, &[id], raw);
    forger.write(Kind::DataPack, pack);
    let content = Content { bytes: raw.len() as u64, levels: 0, root: Some(id) };
    forger.assert_refused(&forger.snapshot(SnapshotKind::Stream, content), "cycle of one");
}

#[test]
fn frames_that_are_each_others_bases_end_in_an_error() {
    let forger = Forger::new();
    let (a, b) = (vec![b'a'; 100], vec![b'b'; 100]);
    let (id_a, id_b) = (forger.id(&a), forger.id(&b));
    let mut pack = forger.pack(Kind::DataPack);
    pack.add(&a, &[(id_a, 100)], 2, &[id_b], &b);
    pack.add(&b, &[(id_b, 100)], 2, &[id_a], &a);
    forger.write(Kind::DataPack, pack);
    let content = Content { bytes: 100, levels: 0, root: Some(id_a) };
    forger.assert_refused(&forger.snapshot(SnapshotKind::Stream, content), "cycle of two");
}

#[test]
fn lengths_beyond_memory_are_refused() {
    let forger = Forger::new();
    let raw = vec![0u8; 1000];
    let id = forger.id(&raw);
    // The footer promises more than the frame has, and the other way round.
    for promised in [999u32, 1001, 4 << 20] {
        let mut pack = forger.pack(Kind::DataPack);
        pack.add(&raw, &[(id, promised)], 0, &[], &[]);
        forger.write(Kind::DataPack, pack);
    }
    for bytes in [999, 1001, 4 << 20, u64::MAX] {
        let content = Content { bytes, levels: 0, root: Some(id) };
        forger.assert_refused(&forger.snapshot(SnapshotKind::Stream, content), "a length");
    }
}

#[test]
fn a_list_that_contains_itself_or_lies_about_lengths_is_refused() {
    let forger = Forger::new();
    let leaf = forger.chunk(Kind::DataPack, b"leaf");
    for claim in [3u64, 5, u64::MAX] {
        let mut node = vec![b'L', 1];
        node.extend_from_slice(leaf.as_bytes());
        put_varint(&mut node, claim);
        let root = Some(forger.chunk(Kind::MetaPack, &node));
        let content = Content { bytes: claim, levels: 1, root };
        forger.assert_refused(&forger.snapshot(SnapshotKind::Stream, content), "a lying list");
        // A node of level 1 cannot stand where level 2 belongs, so no node is its own ancestor.
        let content = Content { bytes: claim, levels: 2, root };
        forger.assert_refused(&forger.snapshot(SnapshotKind::Stream, content), "a list of the wrong level");
    }
}

/// One tree block with a file of this path, written without the encoder, which would refuse it.
fn block(path: &[u8], content: Option<(ChunkId, u64)>) -> Vec<u8> {
    let mut out = vec![b'R'];
    put_varint(&mut out, 0);
    put_bytes(&mut out, path);
    out.extend_from_slice(&[1, 0]);
    put_varint(&mut out, 0o644);
    for _ in 0..2 {
        put_varint(&mut out, 0);
    }
    for _ in 0..2 {
        put_bytes(&mut out, b"");
    }
    for _ in 0..2 {
        put_zigzag(&mut out, 0);
        put_varint(&mut out, 0);
    }
    put_zigzag(&mut out, 1);
    put_varint(&mut out, content.map_or(0, |(_, len)| len));
    if let Some((id, _)) = content {
        put_varint(&mut out, 0);
        out.extend_from_slice(id.as_bytes());
    }
    out
}

pub fn restore_options(target: &Path) -> RestoreOptions {
    RestoreOptions {
        path: Vec::new(),
        target: target.to_owned(),
        include: Patterns::default(),
        exclude: Patterns::default(),
        overwrite: Overwrite::Always,
        delete: false,
        dry_run: false,
        verify: false,
        owner_lookup: Default::default(),
    }
}

#[test]
fn paths_that_lead_out_of_the_target_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    for path in [b"../escaped".as_slice(), b"/escaped", b"a/../../escaped", b"..", b".", b"a//b", b"a/", b"nul\0byte"] {
        let forger = Forger::new();
        let data = forger.chunk(Kind::DataPack, b"evil");
        let raw = block(path, Some((data, 4)));
        let content = Content { bytes: raw.len() as u64, levels: 0, root: Some(forger.chunk(Kind::MetaPack, &raw)) };
        let id = forger.snapshot(SnapshotKind::Tree, content);
        let repository = open(&forger.backend);
        let snapshots = repository.snapshots().unwrap();
        let snapshot = &snapshots.iter().find(|info| info.id == id).unwrap().snapshot;
        let result = restore::to_directory(&repository, snapshot, "forged", &restore_options(&target), &Silent);
        assert!(result.is_err(), "{path:?} was restored");
        assert!(!outside.path().join("escaped").exists() && !Path::new("/escaped").exists());
        let inside: Vec<_> = std::fs::read_dir(&target).map(Iterator::collect).unwrap_or_default();
        assert!(inside.is_empty(), "{path:?}: {inside:?}");
    }
}

/// Borg CVE-2026-62268 and restic issue 1445: a link in the target, planted before or by the snapshot, is not followed.
#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir(outside.path().join("victim")).unwrap();
    std::os::unix::fs::symlink("../victim", target.join("dir")).unwrap();
    let forger = Forger::new();
    let data = forger.chunk(Kind::DataPack, b"evil");
    // The tree names a file below "dir" and never "dir" itself.
    let raw = block(b"dir/escaped", Some((data, 4)));
    let content = Content { bytes: raw.len() as u64, levels: 0, root: Some(forger.chunk(Kind::MetaPack, &raw)) };
    let id = forger.snapshot(SnapshotKind::Tree, content);
    let repository = open(&forger.backend);
    let snapshots = repository.snapshots().unwrap();
    let snapshot = &snapshots.iter().find(|info| info.id == id).unwrap().snapshot;
    let report = restore::to_directory(&repository, snapshot, "forged", &restore_options(&target), &Silent).unwrap();
    assert_eq!((report.files, report.failed), (0, 1));
    assert!(std::fs::read_dir(outside.path().join("victim")).unwrap().next().is_none(), "the link was followed");
}
