//! Repositories that no writer writes: both readers must find a way through what is merely odd, and end on what is not
//! allowed.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::content::Content;
use cairn::format::crypto::Keys;
use cairn::format::key::{Credential, PasswordCost};
use cairn::format::list::{self, ListEntry, ListKind};
use cairn::format::pack::{self, ChunkEntry, FrameEntry};
use cairn::format::record::{Snapshot, SnapshotKind};
use cairn::format::tree::{BlockEncoder, Entry, FileTime, Node, Owner};
use cairn::format::{Kind, ObjectId, frame};
use cairn::progress::Silent;
use cairn::repo::{InitOptions, OpenOptions, Repository};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::reader;
use crate::support::stream_record;

/// A frame's depth, its bases, and its one chunk.
type Frame<'a> = (u8, &'a [&'a [u8]], &'a [u8]);

struct Handmade {
    repository: Repository,
    dir: TempDir,
}

impl Handmade {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("repo");
        fs::write(dir.path().join("password"), "correct horse").unwrap();
        let credential = Credential::Password(Zeroizing::new(b"correct horse".to_vec()));
        let cost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
        let backend = Local::create(&root).unwrap();
        Repository::init(&backend, &credential, &InitOptions { cost, ..InitOptions::default() }).unwrap();
        let repository = Repository::open(Arc::new(backend), &credential, &OpenOptions::default(), &Silent).unwrap();
        Handmade { repository, dir }
    }

    fn keys(&self) -> &Keys {
        self.repository.keys()
    }

    /// Writes a pack of frames. The bases' content is the prefix.
    fn pack(&self, kind: Kind, frames: &[Frame<'_>]) {
        let envelope = self.keys().new_envelope(kind).unwrap();
        let mut stored = envelope.header().to_vec();
        let mut entries = Vec::new();
        for (slot, (depth, bases, raw)) in (0..).zip(frames) {
            let offset = stored.len() as u64;
            let compressed = frame::compress(3, raw, &bases.concat()).unwrap();
            envelope.seal(slot, &compressed, &mut stored).unwrap();
            let stored_len = (stored.len() as u64 - offset) as u32;
            let bases = bases.iter().map(|base| self.keys().chunk_id(base)).collect();
            let chunks = vec![ChunkEntry { id: self.keys().chunk_id(raw), len: raw.len() as u32 }];
            entries.push(FrameEntry { offset, stored_len, depth: *depth, bases, chunks });
        }
        pack::seal_footer(&envelope, &entries, &mut stored).unwrap();
        self.repository.backend().write_new(kind, &ObjectId::of(&stored), &stored).unwrap();
        self.repository.refresh(&Silent).unwrap();
    }

    /// A content of one chunk, or below list nodes that name it.
    fn content(&self, bytes: usize, levels: u8, root: &[u8]) -> Content {
        Content { bytes: bytes as u64, levels, root: Some(self.keys().chunk_id(root)) }
    }

    fn snapshot(&self, kind: SnapshotKind, content: Content) {
        let snapshot = Snapshot { kind, ..stream_record("hostile", content) };
        self.repository.write_record(&snapshot).unwrap();
    }

    /// What `reader.py verify` says: the error, or nothing when all is sound.
    fn verdict(&self) -> Option<String> {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let output = reader(&path("repo"), &path("password"), &["verify", "hostile"])?;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), error.is_empty(), "{error}");
        assert!(!error.contains("Traceback"), "{error}");
        Some(error)
    }

    fn assert_refused(&self, words: &str) {
        if let Some(error) = self.verdict() {
            assert!(error.contains(words), "{words:?} is not in {error:?}");
        }
    }
}

fn entry(path: &str, node: Node) -> Entry {
    let time = FileTime::default();
    Entry {
        path: path.into(),
        node,
        mode: 0o644,
        owner: Owner::default(),
        mtime: time,
        ctime: time,
        inode: 1,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}

fn block(entries: Vec<Entry>) -> Vec<u8> {
    let mut encoder = BlockEncoder::default();
    entries.into_iter().for_each(|entry| encoder.push(entry).unwrap());
    encoder.finish()
}

#[test]
fn a_base_is_taken_from_a_copy_of_smaller_depth() {
    let store = Handmade::new();
    // "base" also lies in a frame as deep as the one that needs it; that copy must not be taken.
    let (base, other, top) = (b"base ".repeat(50), b"other ".repeat(50), b"base base and more".repeat(9));
    store.pack(Kind::DataPack, &[(0, &[], &other), (1, &[&other], &base), (1, &[&base], &top)]);
    store.pack(Kind::DataPack, &[(0, &[], &base)]);
    let content = store.content(top.len(), 0, &top);
    let mut found = Vec::new();
    store.repository.stream(&content).unwrap().read_to_end(&mut found).unwrap();
    assert_eq!(found, top);
    store.snapshot(SnapshotKind::Stream, content);
    assert_eq!(store.verdict().unwrap_or_default(), "");
}

#[test]
fn frames_that_need_each_other_end_in_an_error() {
    let store = Handmade::new();
    let (one, two) = (b"one ".repeat(50), b"two ".repeat(50));
    store.pack(Kind::DataPack, &[(1, &[&two], &one), (1, &[&one], &two)]);
    let content = store.content(one.len(), 0, &one);
    let mut stream = store.repository.stream(&content).unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).is_err());
    store.snapshot(SnapshotKind::Stream, content);
    store.assert_refused("in no frame of a depth less than 1");
}

#[test]
fn a_chunk_that_is_not_what_its_id_says_is_refused() {
    let store = Handmade::new();
    let raw = b"content".repeat(9);
    store.pack(Kind::DataPack, &[(0, &[], &raw)]);
    store.snapshot(SnapshotKind::Stream, store.content(raw.len() + 1, 0, &raw));
    store.assert_refused("is not as long as its list says");
}

#[test]
fn a_tree_with_an_entry_below_a_link_is_refused() {
    let store = Handmade::new();
    let raw = block(vec![entry("a", Node::Symlink { target: b"/etc".to_vec() }), entry("a/b", Node::Fifo)]);
    store.pack(Kind::MetaPack, &[(0, &[], &raw)]);
    store.snapshot(SnapshotKind::Tree, store.content(raw.len(), 0, &raw));
    store.assert_refused("a/b lies below what is not a directory");
}

#[test]
fn lists_that_contradict_what_is_below_are_refused() {
    let (one, two) = (block(vec![entry("a", Node::Fifo)]), block(vec![entry("b", Node::Fifo)]));
    for (paths, order, grown, words) in [
        (["a", "b"], [&one, &two], 0, ""),
        (["a", "c"], [&one, &two], 0, "a tree block begins at another path than promised"),
        (["b", "a"], [&two, &one], 0, "a is out of order"),
        (["a", "b"], [&one, &two], 1, "the lengths in a list node do not add up"),
    ] {
        let store = Handmade::new();
        let mut node = list::begin_node(ListKind::Keyed, 1);
        for (raw, path) in order.iter().zip(paths) {
            let (id, bytes) = (store.keys().chunk_id(raw), raw.len() as u64);
            list::put_entry(&mut node, ListKind::Keyed, &ListEntry { id, bytes, first_path: path.into() });
        }
        store.pack(Kind::MetaPack, &[(0, &[], &one), (0, &[], &two), (0, &[], &node)]);
        store.snapshot(SnapshotKind::Tree, store.content(one.len() + two.len() + grown, 1, &node));
        match store.verdict() {
            Some(error) if words.is_empty() => assert_eq!(error, ""),
            Some(error) => assert!(error.contains(words), "{words:?} is not in {error:?}"),
            None => return,
        }
    }
}
