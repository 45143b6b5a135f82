//! Bytes that somebody made up: no decoder panics on them, or reserves more memory than its input can justify.

use std::process::Command;

use cairn::format::config::Config;
use cairn::format::content::Content;
use cairn::format::crypto::{Envelope, FOOTER_POSITION, HEADER_LEN, Keys};
use cairn::format::key::KeyObject;
use cairn::format::list::{ListKind, decode_node};
use cairn::format::record::{self, Snapshot};
use cairn::format::tree::{BlockEncoder, Entry, Extent, FileTime, Node, Owner, decode_block};
use cairn::format::{ChunkId, Kind, ObjectId, frame, pack};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, proptest};
use proptest::sample::Index;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::keys;
use super::seal::{lease, snapshot};
use crate::support::entries::sorted_entries;

/// The greatest integer, as LEB128.
const HUGE: &[u8] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";

/// Gives the bytes to every decoder that takes bytes which no hash or tag protects, and to those behind a seal with
/// a seal that is right: whoever has the key, or wrote the repository, may be hostile too.
fn decode_all(keys: &Keys, bytes: &[u8]) {
    let _ = decode_block(bytes);
    for level in [0, 1, 2, 12, 13] {
        let _ = decode_node(bytes, ListKind::Plain, level);
        let _ = decode_node(bytes, ListKind::Keyed, level);
    }
    let _ = pack::decode_body(bytes, 40);
    let _ = pack::footer_len(bytes.len() as u64, bytes);
    let _ = pack::footer_len(u64::MAX, &bytes[bytes.len().saturating_sub(pack::TRAILER_LEN)..]);
    let _ = Config::decode(bytes);
    let _ = KeyObject::decode(bytes);
    for len in [0, 1, 1000, frame::MAX_FRAME_RAW, usize::MAX] {
        let _ = frame::decompress(bytes, len, &[]);
        let _ = frame::decompress(bytes, len, b"some prefix");
    }
    let _ = keys.open_envelope(Kind::DataPack, bytes);
    let _ = record::open::<Snapshot>(keys, &ObjectId::of(bytes), bytes.to_vec());

    let (header, envelope) = envelope(keys, Kind::Snapshot);
    for plain in [bytes, &frame::compress(3, bytes, &[]).unwrap()] {
        let mut stored = header.clone();
        envelope.seal(0, plain, &mut stored).unwrap();
        let _ = record::open::<Snapshot>(keys, &ObjectId::of(&stored), stored);
    }
    let (header, envelope) = self::envelope(keys, Kind::MetaPack);
    for plain in [bytes, &frame::compress(3, bytes, &[]).unwrap()] {
        let mut footer = Vec::new();
        envelope.seal(FOOTER_POSITION, plain, &mut footer).unwrap();
        for frames in [0, 1, 1 << 20] {
            let pack_len = (HEADER_LEN + footer.len() + pack::TRAILER_LEN) as u64 + frames;
            let _ = pack::open_footer(keys, Kind::MetaPack, &header, pack_len, &mut footer.clone());
        }
        let _ = pack::open_footer(keys, Kind::MetaPack, &header, 1, &mut footer);
    }
}

fn envelope(keys: &Keys, kind: Kind) -> (Vec<u8>, Envelope) {
    let envelope = keys.new_envelope(kind).unwrap();
    (envelope.header().to_vec(), envelope)
}

/// Good bytes of many formats, to be spoilt.
fn good() -> impl Strategy<Value = Vec<u8>> {
    (sorted_entries(8), 0usize..6).prop_map(|(entries, choice)| match choice {
        0 => {
            let mut encoder = BlockEncoder::default();
            entries.into_iter().for_each(|entry| encoder.push(entry).unwrap());
            encoder.finish()
        }
        1 => serde_json::to_vec(&snapshot()).unwrap(),
        2 => record::seal(&keys(), &lease()).unwrap().1,
        3 => frame::compress(3, &[b"abcabcabc".repeat(100), entries[0].path.clone()].concat(), &[]).unwrap(),
        4 => [&[b'T', 1][..], &[9; 16], &[5, 3], b"a/b", &[8; 16], &[5, 1], b"c"].concat(),
        _ => [&[1, 20, 1, 1][..], &[2; 16], &[2, 5, 6], &[3; 32]].concat(),
    })
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..400)) {
        let keys = keys();
        decode_all(&keys, &bytes);
        for tag in [&b"R"[..], b"L\x01", b"T\x01", b"{\"version\":1,", b"\x28\xb5\x2f\xfd"] {
            decode_all(&keys, &[tag, &bytes].concat());
        }
    }

    #[test]
    fn spoilt_bytes_do_not_panic(good in good(), spoil in vec((any::<Index>(), any::<u8>(), 0u8..5), 1..5)) {
        let mut bytes = good;
        for (at, value, how) in spoil {
            let at = at.index(bytes.len().max(1));
            match how {
                0 if at < bytes.len() => bytes[at] = value,
                1 => bytes.insert(at, value),
                2 => bytes.truncate(at),
                3 if at < bytes.len() => drop(bytes.splice(at..=at, HUGE.iter().copied())),
                _ => bytes.extend_from_within(at.min(bytes.len())..),
            }
        }
        decode_all(&keys(), &bytes);
    }
}

#[test]
fn huge_numbers_in_a_tree_block_do_not_overflow() {
    let extents = [(5, 5), (20, 5), (40, 1)].map(|(offset, len)| Extent { offset, len });
    let content = Content { bytes: 11, levels: 1, root: Some(ChunkId::from_bytes([1; 16])) };
    let file = Node::File { size: i64::MAX as u64, extents: Some(extents.to_vec()), content };
    let mut encoder = BlockEncoder::default();
    for (path, node) in [("a", file), ("b", Node::CharDevice { major: 1, minor: 2 })] {
        let (path, owner) = (path.into(), Owner { uid: 1, ..Owner::default() });
        let time = FileTime { seconds: 1, nanoseconds: 1 };
        let (mtime, ctime) = (time, time);
        let xattrs = vec![(b"n".to_vec(), b"v".to_vec())];
        let link_device = Some(7);
        let entry =
            Entry { path, node, mode: 0o644, owner, mtime, ctime, inode: 9, link_device, unstable: false, xattrs };
        encoder.push(entry).unwrap();
    }
    let block = encoder.finish();
    for at in 0..block.len() {
        for number in [HUGE, &HUGE[1..], b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x0f"] {
            let _ = decode_block(&[&block[..at], number, &block[at + 1..]].concat());
        }
    }
}

const CHILD: &str = "CAIRN_TEST_LITTLE_MEMORY";

/// The child of the next test: decodes what promises more than there is, with little memory. A reservation beyond it
/// would abort the process.
#[test]
fn little_memory() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let limit = Some(600 << 20);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    let keys = keys();
    let large = b"\xff\xff\xff\xff\x0f".as_slice();
    for number in [HUGE, large, b"\xff\xff\x03", b"\x80\x80\x04"] {
        // The number at each place where a length or a count may be.
        for tag in [&b""[..], b"R", b"R\0\x01a\x01", b"L\x01", b"T\x01"] {
            for place in 0..40 {
                let bytes = [tag, &vec![0; place], number, number, &[1; 64]].concat();
                decode_all(&keys, &bytes);
            }
        }
    }
    // zstd frames that promise 2^63 bytes, 256 GiB, and more than a record or footer may have.
    for promised in [1u64 << 63, 1 << 38, (8 << 20) + 1, (32 << 20) + 1] {
        decode_all(&keys, &[&b"\x28\xb5\x2f\xfd\xe0"[..], &promised.to_le_bytes(), &[1, 0, 0]].concat());
    }
    // A bomb: 400 MiB in a few KiB, more than any raw length here may be.
    let zeros = vec![0; 4 << 20];
    let bomb = frame::compress(19, &zeros, &[]).unwrap().repeat(100);
    decode_all(&keys, &bomb);
    println!("decoded all");
}

#[test]
fn what_promises_more_than_there_is_does_not_take_memory() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "format::bytes::little_memory", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("decoded all"), "{}\n{text}\n{errors}", run.status);
}
