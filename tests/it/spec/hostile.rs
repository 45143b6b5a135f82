//! Repositories that no writer writes: both readers must find a way through what is merely odd, and end on what is not
//! allowed.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::content::Content;
use cairn::format::crypto::{Envelope, Keys};
use cairn::format::key::{Credential, PasswordCost};
use cairn::format::list::{self, ListEntry, ListKind};
use cairn::format::pack::{self, ChunkEntry, FrameEntry};
use cairn::format::record::{Snapshot, SnapshotKind};
use cairn::format::tree::{BlockEncoder, Entry, FileTime, Node, Owner};
use cairn::format::{Kind, ObjectId, frame};
use cairn::orchestrate::restore;
use cairn::progress::Silent;
use cairn::repo::check::CheckOptions;
use cairn::repo::frames::Frames;
use cairn::repo::reader::ChunkReader;
use cairn::repo::{InitOptions, OpenOptions, Repository, chain};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{reader, reader_spending};
use crate::hostile::restore_options;
use crate::support::faulty::{Fault, Faulty, Operation, Rule};
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
        self.write(kind, &envelope, &entries, stored);
    }

    fn write(&self, kind: Kind, envelope: &Envelope, entries: &[FrameEntry], mut stored: Vec<u8>) -> ObjectId {
        pack::seal_footer(envelope, entries, &mut stored).unwrap();
        let id = ObjectId::of(&stored);
        self.repository.backend().write_new(kind, &id, &stored).unwrap();
        self.repository.refresh(&Silent).unwrap();
        id
    }

    /// A pack of one frame that opens and has the length promised, and whose one chunk is listed as `claimed`.
    fn lie(&self, raw: &[u8], claimed: &[u8]) -> ObjectId {
        let envelope = self.keys().new_envelope(Kind::DataPack).unwrap();
        let mut stored = envelope.header().to_vec();
        envelope.seal(0, &frame::compress(3, raw, &[]).unwrap(), &mut stored).unwrap();
        let stored_len = (stored.len() - envelope.header().len()) as u32;
        let chunks = vec![ChunkEntry { id: self.keys().chunk_id(claimed), len: raw.len() as u32 }];
        let offset = envelope.header().len() as u64;
        self.write(
            Kind::DataPack,
            &envelope,
            &[FrameEntry { offset, stored_len, depth: 0, bases: Vec::new(), chunks }],
            stored,
        )
    }

    /// All bytes of a content, or what is wrong with it.
    fn read(&self, content: &Content) -> Result<Vec<u8>, String> {
        let mut found = Vec::new();
        let read = self.repository.stream(content).unwrap().read_to_end(&mut found);
        read.map(|_| found).map_err(|error| chain(&error))
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

/// A frame that authenticates and has the right length, and other content than its chunk's id says, is refused by all who
/// read: until now nothing would have failed without the comparison.
#[test]
fn content_listed_under_the_id_of_other_content_was_read_back_by_no_test() {
    let store = Handmade::new();
    let pack = store.lie(b"AAAA", b"BBBB");
    let stream = store.content(4, 0, b"BBBB");
    let error = store.read(&stream).unwrap_err();
    assert!(error.contains("other content than its id says") && error.contains(&pack.to_string()), "{error}");
    store.snapshot(SnapshotKind::Stream, stream);
    store.assert_refused("is damaged");

    let options = CheckOptions { read_data_percent: Some(100.0) };
    let report = store.repository.check(&options, &Silent).unwrap();
    let told = |problem: &cairn::repo::check::Problem| {
        problem.subject.contains(&pack.to_string()) && problem.message.contains("other content than its id says")
    };
    assert!(report.problems.iter().any(told), "{:?}", report.problems);
    assert_eq!(report.bytes_read, 0, "what is not what its id says was counted as read");

    let snapshots = store.repository.snapshots().unwrap();
    let error = store.repository.verify(&snapshots[0], &Silent).unwrap_err();
    assert!(chain(&error).contains("other content than its id says"), "{}", chain(&error));
    assert!(store.repository.snapshots().unwrap()[0].proof.is_none(), "a proof was written");

    // The same content as a file of a tree.
    let mut file = entry("file", Node::Fifo);
    file.node = Node::File { size: 4, extents: None, content: stream };
    let raw = block(vec![file, entry("other", Node::Fifo)]);
    store.pack(Kind::MetaPack, &[(0, &[], &raw)]);
    let tree = Snapshot { kind: SnapshotKind::Tree, ..stream_record("tree", store.content(raw.len(), 0, &raw)) };
    let target = store.dir.path().join("target");
    let report = restore::to_directory(&store.repository, &tree, "lying", &restore_options(&target), &Silent).unwrap();
    assert_eq!((report.files, report.others, report.failed), (0, 1, 1));
    assert!(!target.join("file").exists(), "it was restored");

    // Where there is an honest copy besides, that one is taken.
    store.pack(Kind::DataPack, &[(0, &[], b"BBBB")]);
    assert_eq!(store.read(&store.content(4, 0, b"BBBB")).unwrap(), b"BBBB");
}

#[test]
fn a_base_that_is_not_what_its_id_says_is_refused() {
    let store = Handmade::new();
    let (base, lie) = (b"base ".repeat(50), b"lies ".repeat(50));
    let pack = store.lie(&lie, &base);
    // Without the comparison the copies from the prefix would be of the lie.
    let top = [base.as_slice(), b"more"].concat();
    store.pack(Kind::DataPack, &[(1, &[&base], &top)]);
    let error = store.read(&store.content(top.len(), 0, &top)).unwrap_err();
    let named = store.keys().chunk_id(&base).to_string();
    assert!(error.contains("other content than its id says") && error.contains(&named), "{pack}: {error}");
}

/// What is spent on a chunk in the test, in place of 64 GiB.
const FEW: u64 = 2 << 30;
/// Frames a level of the pyramid, and raw bytes of each: a level is more than either reader keeps decoded.
const WIDTH: u32 = 17;
const WIDE: usize = 8 << 20;

/// Nine levels of frames, each frame a difference to a piece of every frame one level down: 17^8 frames would be
/// decoded for the one at the top. In each, a small chunk that serves as base and one that fills it.
fn pyramid(store: &Handmade) -> Content {
    let piece = |depth: u8, number: u32| format!("piece {depth} {number}").into_bytes();
    for depth in 0..=8u8 {
        let envelope = store.keys().new_envelope(Kind::DataPack).unwrap();
        let mut stored = envelope.header().to_vec();
        let mut entries = Vec::new();
        for number in 0..if depth == 8 { 1 } else { WIDTH } {
            let piece_here = piece(depth, number);
            let filler = vec![0; 4 << 20];
            let rest = vec![depth; WIDE - piece_here.len() - filler.len()];
            let raw = [piece_here.as_slice(), &filler, &rest].concat();
            let offset = stored.len() as u64;
            envelope.seal(u64::from(number), &frame::compress(1, &raw, &[]).unwrap(), &mut stored).unwrap();
            let stored_len = (stored.len() as u64 - offset) as u32;
            let below = 0..if depth == 0 { 0 } else { WIDTH };
            let bases = below.map(|below| store.keys().chunk_id(&piece(depth - 1, below))).collect();
            // Nobody asks for the other chunks, so what they are called does not matter.
            let chunk = |id, len: usize| ChunkEntry { id, len: len as u32 };
            let other = |tail: &str| store.keys().chunk_id(format!("{depth} {number} {tail}").as_bytes());
            let chunks = vec![
                chunk(store.keys().chunk_id(&piece_here), piece_here.len()),
                chunk(other("filler"), filler.len()),
                chunk(other("rest"), rest.len()),
            ];
            entries.push(FrameEntry { offset, stored_len, depth, bases, chunks });
        }
        store.write(Kind::DataPack, &envelope, &entries, stored);
    }
    let top = piece(8, 0);
    store.content(top.len(), 0, &top)
}

#[test]
fn a_pyramid_of_deltas_kept_a_reader_busy_for_ever() {
    let store = Handmade::new();
    let content = pyramid(&store);
    let inner: Arc<dyn cairn::backend::Backend> = Arc::new(Local::open(&store.dir.path().join("repo")).unwrap());
    let storage = Faulty::new(inner);
    let frames = Frames::new(storage.clone(), store.keys().clone(), store.repository.index().clone());
    let frames = Arc::new(frames.with_max_work(FEW));
    // Whoever goes on for ever ends here, with another error: one read a frame, and one a pack.
    storage.add(Rule::on(Operation::Read, Fault::Error).kind(Kind::DataPack).after(FEW / WIDE as u64 + 9).always());
    let mut chunks = ChunkReader::new(&frames, &content, None).unwrap();
    let error = chain(&chunks.next_chunk().err().unwrap());
    assert!(error.contains("keep readers busy") && error.contains("do not trust"), "{error}");
    store.snapshot(SnapshotKind::Stream, content);
    let path = |name: &str| store.dir.path().join(name);
    if let Some(output) = reader_spending(FEW, &path("repo"), &path("password"), &["verify", "hostile"]) {
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("takes too much to decode"), "{error}");
    }
    // The bound that is in force lets pass what is wide and honest: 17 frames for one chunk.
    let wide = store.read(&store.content(b"piece 1 0".len(), 0, b"piece 1 0")).unwrap();
    assert_eq!(wide, b"piece 1 0");
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
