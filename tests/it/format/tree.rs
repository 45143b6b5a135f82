//! Tree records: what is encoded comes back, and what would not come back is not encoded.

use std::cmp::Ordering;

use cairn::format::content::Content;
use cairn::format::tree::{
    BlockEncoder, Entry, Extent, FileTime, MAX_BLOCK, MAX_RECORDS, Node, Owner, compare_paths, decode_block,
    validate_path,
};
use cairn::format::{ChunkId, FormatError};
use proptest::prelude::{any, proptest};
use proptest::{collection::vec, prop_assert, prop_assert_eq};

use crate::support::entries::{path, sorted_entries};

fn encode(entries: &[Entry]) -> Result<Vec<u8>, FormatError> {
    let mut encoder = BlockEncoder::default();
    for entry in entries {
        encoder.push(entry.clone())?;
    }
    Ok(encoder.finish())
}

fn file(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        node: Node::File { size: 0, extents: None, content: Content::EMPTY },
        mode: 0o644,
        owner: Owner::default(),
        mtime: FileTime::default(),
        ctime: FileTime::default(),
        inode: 0,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}

proptest! {
    #[test]
    fn blocks_come_back(entries in sorted_entries(30)) {
        let block = encode(&entries).unwrap();
        prop_assert_eq!(decode_block(&block).unwrap(), entries);
    }

    #[test]
    fn paths_are_ordered_by_components(a in path(), b in path(), c in path()) {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            if path.is_empty() { Vec::new() } else { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() }
        };
        prop_assert_eq!(compare_paths(&a, &b), parts(&a).cmp(&parts(&b)));
        prop_assert_eq!(compare_paths(&a, &b), compare_paths(&b, &a).reverse());
        prop_assert_eq!(compare_paths(&a, &b) == Ordering::Equal, a == b);
        let mut sorted = [a, b, c];
        sorted.sort_by(|x, y| compare_paths(x, y));
        prop_assert!(compare_paths(&sorted[0], &sorted[2]) != Ordering::Greater);
    }

    #[test]
    fn only_harmless_paths_are_valid(bytes in vec(any::<u8>(), 0..12), good in path()) {
        validate_path(&good).unwrap();
        let harmless = bytes.is_empty()
            || bytes.split(|b| *b == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..");
        prop_assert_eq!(validate_path(&bytes).is_ok(), harmless && !bytes.contains(&0));
    }
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let long = [b'x'; 256];
    for bad in [&b"/"[..], b"/etc", b"a/", b"a//b", b".", b"..", b"a/..", b"../a", b"a/./b", b"a\0b", &long] {
        assert!(validate_path(bad).is_err(), "{bad:?}");
        assert!(encode(&[file(bad)]).is_err(), "{bad:?}");
        // The same, as somebody writes it who has the key: path after the tag and the shared length.
        let good = encode(&[file(b"q")]).unwrap();
        let mut forged = vec![b'R', 0];
        cairn::format::codec::put_bytes(&mut forged, bad);
        forged.extend_from_slice(&good[4..]);
        assert!(decode_block(&forged).is_err(), "{bad:?}");
    }
    for good in [&b""[..], b"a", b"...", b"..a", b"a/.b", b"\xff\xfe", b"a b\n", &long[1..]] {
        validate_path(good).unwrap();
    }
}

#[test]
fn what_could_not_be_read_back_is_not_encoded() {
    let root = Some(ChunkId::from_bytes([1; 16]));
    let content = |bytes| Content { bytes, levels: 0, root };
    let sparse = |size, extents: &[(u64, u64)], bytes| Node::File {
        size,
        extents: Some(extents.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect()),
        content: if bytes == 0 { Content::EMPTY } else { content(bytes) },
    };
    let whole = |size, content| Node::File { size, extents: None, content };
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = file(b"a");
        change(&mut entry);
        entry
    };
    let bad: Vec<(&str, Entry)> = vec![
        ("mode", with(&|e| e.mode = 0o10000)),
        ("nanoseconds", with(&|e| e.mtime.nanoseconds = 1_000_000_000)),
        ("nanoseconds", with(&|e| e.ctime.nanoseconds = u32::MAX)),
        ("user name", with(&|e| e.owner.user = vec![b'u'; 4097])),
        ("group name", with(&|e| e.owner.group = vec![b'g'; 4097])),
        ("symlink target", with(&|e| e.node = Node::Symlink { target: vec![b't'; 4097] })),
        ("attribute name", with(&|e| e.xattrs = vec![(vec![b'n'; 256], Vec::new())])),
        ("attribute count", with(&|e| e.xattrs = vec![(Vec::new(), Vec::new()); 1025])),
        ("attribute length", with(&|e| e.xattrs = vec![(b"n".to_vec(), vec![0; 200 << 10]); 3])),
        ("file size", with(&|e| e.node = whole(1 << 63, content(1 << 63)))),
        ("its content has", with(&|e| e.node = whole(2, content(1)))),
        ("its content has", with(&|e| e.node = sparse(10, &[(0, 3), (5, 1)], 5))),
        ("contradict", with(&|e| e.node = whole(1, Content { bytes: 1, levels: 0, root: None }))),
        ("height", with(&|e| e.node = whole(1, Content { bytes: 1, levels: 13, root }))),
        ("extent", with(&|e| e.node = sparse(10, &[(5, 1), (0, 3)], 4))),
        ("extent", with(&|e| e.node = sparse(10, &[(0, 3), (3, 1)], 4))),
        ("extent", with(&|e| e.node = sparse(10, &[(0, 3), (2, 2)], 5))),
        ("extent", with(&|e| e.node = sparse(10, &[(0, 0)], 0))),
        ("extent", with(&|e| e.node = sparse(10, &[(9, 2)], 2))),
        ("extent", with(&|e| e.node = sparse(10, &[(u64::MAX, 2)], 2))),
    ];
    for (expected, entry) in bad {
        let error = encode(std::slice::from_ref(&entry)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let good = [
        with(&|e| e.node = sparse(10, &[], 0)),
        with(&|e| e.node = sparse(u64::MAX >> 1, &[(0, 1), (2, (u64::MAX >> 1) - 2)], (u64::MAX >> 1) - 1)),
        with(&|e| e.xattrs = vec![(b"n".to_vec(), vec![0; (512 << 10) - 1])]),
    ];
    for entry in good {
        let block = encode(std::slice::from_ref(&entry)).unwrap();
        assert_eq!(decode_block(&block).unwrap(), [entry]);
    }
}

#[test]
fn blocks_have_bounds_and_order() {
    let names: Vec<Entry> = (0..=MAX_RECORDS).map(|number| file(format!("{number:06}").as_bytes())).collect();
    assert_eq!(decode_block(&encode(&names[..MAX_RECORDS]).unwrap()).unwrap().len(), MAX_RECORDS);
    assert!(encode(&names).is_err());
    assert!(encode(&[file(b"b"), file(b"a")]).is_err());
    assert!(encode(&[file(b"a"), file(b"a")]).is_err());
    assert!(encode(&[file(b"a-b"), file(b"a/b")]).is_err());
    encode(&[file(b"a"), file(b"a/b"), file(b"a-b")]).unwrap();

    // An entry that does not fit is refused, and the encoder goes on without it.
    let heavy = |name: &[u8]| Entry { xattrs: vec![(b"n".to_vec(), vec![0; 500 << 10])], ..file(name) };
    let mut encoder = BlockEncoder::default();
    encoder.push(heavy(b"a")).unwrap();
    encoder.push(heavy(b"b")).unwrap();
    assert!(matches!(encoder.push(heavy(b"c")), Err(FormatError::TooLarge { .. })));
    encoder.push(file(b"d")).unwrap();
    let block = encoder.finish();
    assert!(block.len() <= MAX_BLOCK);
    assert_eq!(decode_block(&block).unwrap().len(), 3);
    assert!(encoder.is_empty());
}
