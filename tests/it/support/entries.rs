//! Arbitrary tree entries, for property tests.

use cairn::format::ChunkId;
use cairn::format::content::{Content, MAX_LEVELS};
use cairn::format::tree::{Entry, Extent, FileTime, MAX_COMPONENT, Node, Owner, compare_paths};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// One component of a path: letters that collide often, any legal bytes, or one of the greatest length.
pub fn component() -> impl Strategy<Value = Vec<u8>> {
    let legal = any::<u8>().prop_filter("legal in names", |byte| !matches!(byte, 0 | b'/'));
    let bytes = prop_oneof![
        4 => vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'.'), Just(b'-'), Just(b'0')], 1..4),
        4 => vec(legal, 1..20),
        1 => any::<u8>().prop_map(|byte| vec![byte.max(b'0'); MAX_COMPONENT]),
    ];
    bytes.prop_filter("not a dot name", |name| name != b"." && name != b"..")
}

/// A valid path, the empty one included.
pub fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(component(), 0..5).prop_map(|parts| parts.join(&b'/'))
}

/// The root of content of this length.
pub fn content(bytes: u64) -> impl Strategy<Value = Content> {
    (any::<[u8; ChunkId::LEN]>(), 0..=MAX_LEVELS).prop_map(move |(id, levels)| match bytes {
        0 => Content::EMPTY,
        _ => Content { bytes, levels, root: Some(ChunkId::from_bytes(id)) },
    })
}

/// Any valid entry. Parents of its path need not exist anywhere.
pub fn entry() -> impl Strategy<Value = Entry> {
    let names = || prop_oneof![Just(Vec::new()), Just(b"root".to_vec()), vec(any::<u8>(), 0..40)];
    let owner = prop_oneof![
        Just(Owner::default()),
        (any::<u32>(), any::<u32>(), names(), names()).prop_map(|(uid, gid, user, group)| Owner {
            uid,
            gid,
            user,
            group
        }),
    ];
    let xattrs = vec((vec(any::<u8>(), 0..=MAX_COMPONENT), vec(any::<u8>(), 0..300)), 0..4);
    let identity = (any::<u64>(), option::of(any::<u64>()), any::<bool>());
    (path(), node(), 0u32..=0o7777, owner, (time(), time()), identity, xattrs).prop_map(
        |(path, node, mode, owner, (mtime, ctime), (inode, link_device, unstable), xattrs)| Entry {
            path,
            node,
            mode,
            owner,
            mtime,
            ctime,
            inode,
            link_device,
            unstable,
            xattrs,
        },
    )
}

/// Up to `max` valid entries in tree order, without two of one path.
pub fn sorted_entries(max: usize) -> impl Strategy<Value = Vec<Entry>> {
    vec(entry(), 1..=max).prop_map(|mut entries| {
        entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        entries
    })
}

fn time() -> impl Strategy<Value = FileTime> {
    let seconds = prop_oneof![any::<i64>(), 1_700_000_000i64..1_800_000_000, Just(i64::MIN), Just(i64::MAX)];
    (seconds, 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| FileTime { seconds, nanoseconds })
}

fn node() -> impl Strategy<Value = Node> {
    let size = prop_oneof![Just(0), 1u64..100_000, Just(i64::MAX as u64)];
    prop_oneof![
        2 => Just(Node::Directory),
        4 => size.prop_flat_map(|size| {
            content(size).prop_map(move |content| Node::File { size, extents: None, content })
        }),
        2 => sparse_file(),
        1 => vec(any::<u8>(), 0..200).prop_map(|target| Node::Symlink { target }),
        1 => Just(Node::Fifo),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Node::CharDevice { major, minor }),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        1 => Just(Node::Socket),
        1 => Just(Node::Unread),
    ]
}

/// A sparse file, also one that is a single hole, and one that does not end in a hole.
fn sparse_file() -> impl Strategy<Value = Node> {
    let runs = vec((1u64..1 << 40, 1u64..1 << 40), 0..6);
    (any::<bool>(), runs, 0u64..3).prop_flat_map(|(begins_with_data, runs, tail)| {
        let (mut end, mut extents) = (0, Vec::new());
        for (index, (gap, len)) in runs.into_iter().enumerate() {
            let offset = if index == 0 && begins_with_data { 0 } else { end + gap };
            extents.push(Extent { offset, len });
            end = offset + len;
        }
        let bytes = extents.iter().map(|extent| extent.len).sum();
        content(bytes).prop_map(move |content| Node::File { size: end + tail, extents: Some(extents.clone()), content })
    })
}
