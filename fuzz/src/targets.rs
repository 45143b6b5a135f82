//! What each fuzz target does with its input. Ordinary tests run the same functions over `fuzz/corpus`
//! (`tests/it/corpus.rs`), so a crash that was found once stays found.
//!
//! No decoder may panic, hang or reserve more than its limits; besides, each function states what must hold of input
//! that is accepted.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cairn::format::codec::{Cursor, escape as escape_bytes, put_bytes, put_varint, put_zigzag, unescape};
use cairn::format::config::Config;
use cairn::format::content::Content;
use cairn::format::crypto::{FOOTER_POSITION, HEADER_LEN, Keys, MasterKey};
use cairn::format::frame::{MAX_DEPTH, MAX_FRAME_RAW, compress, decompress};
use cairn::format::key::KeyObject;
use cairn::format::list::{ListKind, begin_node, decode_node, put_entry};
use cairn::format::name;
use cairn::format::pack::{FrameEntry, decode_body, footer_len, open_footer};
use cairn::format::record::{self, Forgotten, Lease, Proof, Record, Snapshot, Tombstone};
use cairn::format::set::BackupSet;
use cairn::format::timeline::history;
use cairn::format::tree::{
    BlockEncoder, Entry, FileTime, MAX_RECORDS, Node, Owner, compare_paths, decode_block, validate_path,
};
use cairn::format::wal::{HEAD_END, WalHead, WalName};
use cairn::format::{Kind, ObjectId, RepositoryId};
use cairn::source::files::{Overwrite, Target, TargetOptions};
use cairn::source::postgres::PageHeader;

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target, by the name of its corpus directory.
pub const ALL: [(&str, Body); 12] = [
    ("cursor", cursor),
    ("escape", escape),
    ("config", config),
    ("key", key),
    ("record", record),
    ("sealed", sealed),
    ("pack_footer", pack_footer),
    ("list_node", list_node),
    ("tree_block", tree_block),
    ("frame", frame),
    ("restore_path", restore_path),
    ("wal", wal),
];

/// The keys that sealed corpus files are made with.
pub fn keys() -> Keys {
    Keys::derive(&MasterKey::from_bytes([7; 32]), RepositoryId::from_bytes([9; 32]))
}

/// An object of this kind around `plain`, sealed at `position`.
pub fn seal(kind: Kind, position: u64, plain: &[u8]) -> Vec<u8> {
    let envelope = keys().new_envelope(kind).expect("the system has random bytes");
    let mut stored = envelope.header().to_vec();
    envelope.seal(position, plain, &mut stored).expect("sealing works");
    stored
}

/// Primitives: the first byte of each step says what is read next.
pub fn cursor(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    while let Ok(step) = cursor.byte("step") {
        let before = cursor.rest().len();
        let mut again = Vec::new();
        let read = match step % 5 {
            0 => cursor.varint("number").map(|value| put_varint(&mut again, value)),
            1 => cursor.zigzag("number").map(|value| put_zigzag(&mut again, value)),
            2 => cursor.bytes(64, "bytes").map(|bytes| {
                assert!(bytes.len() <= 64);
                put_bytes(&mut again, bytes);
            }),
            3 => cursor.varint_up_to(1000, "number").map(|value| {
                assert!(value <= 1000);
                put_varint(&mut again, value);
            }),
            _ => cursor.take(usize::from(step), "bytes").map(|bytes| again.extend_from_slice(bytes)),
        };
        if read.is_err() {
            return;
        }
        // A longer form of the same number is read, but never written.
        assert!(again.len() <= before - cursor.rest().len());
    }
}

/// Escaped text keeps every byte; unescaping takes any text.
pub fn escape(data: &[u8]) {
    let text = escape_bytes(data);
    assert!(!text.chars().any(char::is_control));
    assert_eq!(unescape(&text).as_deref().ok(), Some(data));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unescape(text);
        let _ = name::validate(text);
    }
}

/// A configuration that is accepted is written and read back the same, and nobody without the key made it valid.
pub fn config(data: &[u8]) {
    if let Ok(config) = Config::decode(data) {
        assert!(config.verify(&keys()).is_err());
        let again = config.encode().expect("what was read can be written");
        assert_eq!(Config::decode(&again).ok(), Some(config));
    }
}

/// A key object. It is not unwrapped: that would spend the time and memory that it asks for, up to their limits.
pub fn key(data: &[u8]) {
    if let Ok(object) = KeyObject::decode(data) {
        let again = object.encode().expect("what was read can be written");
        assert_eq!(KeyObject::decode(&again).ok(), Some(object));
    }
}

/// Sealed records of each type: the first byte chooses the type, and whether the rest is the JSON or the zstd frame.
pub fn record(data: &[u8]) {
    fn open<R: Record + PartialEq + Debug>(compressed: &[u8]) {
        let stored = seal(R::KIND, 0, compressed);
        let Ok(found) = record::open::<R>(&keys(), &ObjectId::of(&stored), stored) else { return };
        let (id, again) = record::seal(&keys(), &found).expect("what was read can be written");
        assert_eq!(record::open::<R>(&keys(), &id, again).ok(), Some(found));
    }
    let Some((choice, rest)) = data.split_first() else { return };
    let compressed = if choice & 0x80 != 0 { rest.to_vec() } else { compress(1, rest, &[]).expect("zstd works") };
    match choice % 6 {
        0 => open::<Snapshot>(&compressed),
        1 => open::<Tombstone>(&compressed),
        2 => open::<Lease>(&compressed),
        3 => open::<Proof>(&compressed),
        4 => open::<Forgotten>(&compressed),
        _ => open::<BackupSet>(&compressed),
    }
}

/// Stored bytes as they come: nothing that was not sealed with the key is accepted, in any place.
pub fn sealed(data: &[u8]) {
    let keys = keys();
    let id = ObjectId::of(data);
    if record::open::<Lease>(&keys, &id, data.to_vec()).is_ok() {
        // Only the corpus file with a real lease in it may come here; every other kind must refuse it.
        assert!(record::open::<Proof>(&keys, &id, data.to_vec()).is_err());
        assert!(record::open::<Lease>(&keys, &ObjectId::ZERO, data.to_vec()).is_err());
    }
    let len = data.len() as u64;
    if let Some(trailer) = data.len().checked_sub(8)
        && let Ok(footer) = footer_len(len, &data[trailer..])
    {
        let start = trailer - footer as usize;
        let mut stored = data[start..trailer].to_vec();
        let _ = open_footer(&keys, Kind::DataPack, data, len, &mut stored);
    }
}

fn require_sound(frames: &[FrameEntry], frames_end: u64) {
    let mut offset = HEADER_LEN as u64;
    for frame in frames {
        assert_eq!(frame.offset, offset);
        assert!(frame.depth <= MAX_DEPTH && (frame.depth == 0) == frame.bases.is_empty());
        assert!(!frame.chunks.is_empty() && frame.raw_len() <= MAX_FRAME_RAW);
        offset += u64::from(frame.stored_len);
    }
    assert_eq!(offset, frames_end);
}

/// A footer's body: the first four bytes say where the frames end, then the body; also as a sealed zstd frame.
pub fn pack_footer(data: &[u8]) {
    let Some((end, body)) = data.split_first_chunk::<4>() else { return };
    let frames_end = u64::from(u32::from_le_bytes(*end));
    if let Ok(frames) = decode_body(body, frames_end) {
        require_sound(&frames, frames_end);
    }
    let keys = keys();
    for plain in [body.to_vec(), compress(1, body, &[]).expect("zstd works")] {
        let stored = seal(Kind::MetaPack, FOOTER_POSITION, &plain);
        let (header, footer) = stored.split_at(HEADER_LEN);
        let pack_len = frames_end + footer.len() as u64 + 8;
        if let Ok(frames) = open_footer(&keys, Kind::MetaPack, header, pack_len, &mut footer.to_vec()) {
            require_sound(&frames, frames_end);
        }
    }
}

/// A list node, as both kinds, with the level it says.
pub fn list_node(data: &[u8]) {
    for kind in [ListKind::Plain, ListKind::Keyed] {
        let level = data.get(1).copied().unwrap_or(1);
        let Ok(entries) = decode_node(data, kind, level) else { continue };
        let mut again = begin_node(kind, level);
        entries.iter().for_each(|entry| put_entry(&mut again, kind, entry));
        assert_eq!(decode_node(&again, kind, level).ok(), Some(entries));
        assert!(decode_node(data, kind, level + 1).is_err());
    }
}

/// A tree block that is accepted is sorted, safe, and survives encoding.
pub fn tree_block(data: &[u8]) {
    let Ok(entries) = decode_block(data) else { return };
    assert!(!entries.is_empty() && entries.len() <= MAX_RECORDS);
    let mut encoder = BlockEncoder::default();
    for pair in entries.windows(2) {
        assert_eq!(compare_paths(&pair[0].path, &pair[1].path), Ordering::Less);
    }
    for entry in &entries {
        require_safe(&entry.path);
        encoder.push(entry.clone()).expect("what was read can be written");
    }
    assert_eq!(decode_block(&encoder.finish()).ok(), Some(entries));
}

/// A zstd frame with lengths that need not be true, and a round trip. The first four bytes are the length of the
/// prefix and of the result.
pub fn frame(data: &[u8]) {
    let Some((&[a, b, c, d], rest)) = data.split_first_chunk::<4>() else { return };
    let prefix = &rest[..rest.len().min(usize::from(u16::from_le_bytes([a, b])))];
    let raw_len = usize::from(u16::from_le_bytes([c, d]));
    if let Ok(raw) = decompress(&rest[prefix.len()..], raw_len, prefix) {
        assert_eq!(raw.len(), raw_len);
    }
    let compressed = compress(1, rest, prefix).expect("zstd works");
    assert_eq!(decompress(&compressed, rest.len(), prefix).as_deref().ok(), Some(rest));
    assert!(decompress(&compressed, MAX_FRAME_RAW + 1, prefix).is_err());
}

fn require_safe(path: &[u8]) {
    assert!(!path.contains(&0) && !path.starts_with(b"/"));
    assert!(path.is_empty() || path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
}

fn entry(path: &[u8], node: Node) -> Entry {
    Entry {
        path: path.to_vec(),
        node,
        mode: 0o700,
        owner: Owner { uid: 12345, gid: 12345, ..Owner::default() },
        mtime: FileTime { seconds: 1, nanoseconds: 0 },
        ctime: FileTime::default(),
        inode: 1,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}

/// Everything of a directory beside the target that a restore could change.
fn state(path: &Path) -> (u32, u32, i64, usize, u64, Vec<u8>) {
    let directory = fs::metadata(path).expect("it is still there");
    let file = path.join("keep");
    let links = fs::metadata(&file).expect("it is still there").nlink();
    let names = fs::read_dir(path).expect("it is a directory").count();
    let content = fs::read(&file).expect("it is a file");
    (directory.permissions().mode(), directory.uid(), directory.mtime(), names, links, content)
}

/// Restores entries with hostile paths, among them links that lead out, and looks whether anything outside changed.
/// The input is steps: what to do, a length, and so many bytes of path, where byte 1 stands for `..`, 2 for a directory
/// that was likely made before, and 3 for a link that was.
pub fn restore_path(data: &[u8]) {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    let (inside, outside) = (scratch.path().join("inside"), scratch.path().join("outside"));
    fs::create_dir(&outside).expect("a directory can be made");
    fs::write(outside.join("keep"), b"untouched").expect("a file can be written");
    let before = state(&outside);
    let target = Target::open(&inside, TargetOptions { overwrite: Overwrite::Always, ..TargetOptions::default() })
        .expect("the target can be opened");
    let absolute = outside.as_os_str().as_encoded_bytes().to_vec();
    let mut cursor = Cursor::new(data);
    for _ in 0..32 {
        let Ok(step) = cursor.byte("step") else { break };
        let Ok(raw) = cursor.bytes(300, "path") else { break };
        let path: Vec<u8> = raw.iter().fold(Vec::new(), |mut path, byte| {
            match byte {
                1 => path.extend_from_slice(b".."),
                2 => path.extend_from_slice(b"d"),
                3 => path.extend_from_slice(b"link"),
                byte => path.push(*byte),
            }
            path
        });
        if validate_path(&path).is_ok() {
            require_safe(&path);
        }
        // A failure is an answer too: what counts is what happened outside.
        let _ = match step % 8 {
            0 => target.directory(&entry(&path, Node::Directory)),
            1 => target.special(&entry(&path, Node::Symlink { target: b"../outside".to_vec() })).map(drop),
            2 => target.special(&entry(&path, Node::Symlink { target: absolute.clone() })).map(drop),
            3 => target.special(&entry(&path, Node::Symlink { target: b"../outside/keep".to_vec() })).map(drop),
            4 => target
                .hard_link(&entry(&path, Node::Fifo), b"link/keep")
                .or_else(|_| target.hard_link(&entry(b"hard", Node::Fifo), &path)),
            5 => target.finish_directory(&entry(&path, Node::Directory)).map(drop),
            6 => target.special(&entry(&path, Node::Fifo)).map(drop),
            _ => {
                let file = entry(&path, Node::File { size: 0, extents: None, content: Content::EMPTY });
                target.begin_file(&file).and_then(|writer| writer.finish(&file)).map(drop)
            }
        };
    }
    assert_eq!(state(&outside), before);
    assert_eq!(fs::read_dir(scratch.path()).expect("it is a directory").count(), 2);
}

/// What is read of PostgreSQL's log and of its archive: by the first byte a name, a head, a segment's first page, or a
/// history file.
pub fn wal(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    match step % 4 {
        0 => {
            let name = std::str::from_utf8(data).unwrap_or_default();
            if let Some(parsed) = WalName::parse(name) {
                assert_eq!(parsed.to_string(), name);
            }
        }
        1 => {
            if let Ok(head) = WalHead::decode(data) {
                assert_eq!(head.encode().as_slice(), data);
                let (mut end, mut raw) = (HEAD_END as u64, 0);
                for (offset, stored_len, raw_len) in head.blocks() {
                    assert_eq!(offset, end);
                    (end, raw) = (offset + stored_len, raw + raw_len as u64);
                }
                assert_eq!((end, raw), (head.stored_len(), head.raw_len));
            }
        }
        2 => drop(PageHeader::decode(data)),
        _ => {
            if let Ok(forks) = history(u32::MAX, data) {
                assert!(!forks.is_empty() && forks.len() <= data.len());
            }
        }
    }
}
