//! Tree records: the entries of a file tree in one sorted stream, cut into blocks.
//!
//! Order: paths compare component by component, each by its bytes, a directory before what is in it. Blocks are the
//! chunks of the tree's content and are listed by keyed nodes ([`crate::format::list`]), so that one path is found,
//! and two trees are compared, without reading everything.
//!
//! ```text
//! block  := 'R' record*
//! record := shared:varint suffix:length+bytes type:u8 flags:u8 mode:varint [owner] mtime ctime inode:zigzag
//!           [device:varint] body [xattrs]
//! ```
//! The path is the first `shared` bytes of the previous record's path and `suffix`. `owner` (absent with flag 1:
//! as in the previous record) is `uid:varint gid:varint user:length+bytes group:length+bytes`. `mtime` and `ctime`
//! are `seconds:zigzag nanoseconds:varint`; seconds and inode are differences to the previous record's (wrapping;
//! zero before the first). `device` is there with flag 8. `body` by type: file `size:varint [extents] [root]`,
//! symlink `target:length+bytes`, device `major:varint minor:varint`, else nothing. `extents` (flag 4):
//! `count:varint (gap:varint len:varint)*`, where a gap is counted from the end of the extent before. `root` is
//! there when the content has bytes: `levels:varint id:16`. `xattrs` (flag 2): `count:varint (name value)*`, each
//! length+bytes.

use std::cmp::Ordering;

use crate::format::FormatError;
use crate::format::codec::{Cursor, put_bytes, put_varint, put_zigzag};
use crate::format::content::Content;

/// A path in a tree is at most this many bytes.
pub const MAX_PATH: usize = 64 << 10;
/// One component of a path is at most this many bytes.
pub const MAX_COMPONENT: usize = 255;
/// A symlink's target, and a user's or group's name, is at most this long.
pub const MAX_TEXT: usize = 4096;
/// Data extents of one sparse file, at most.
pub const MAX_EXTENTS: usize = 4096;
/// Extended attributes of one entry: their number, and their names and values together, at most.
pub const MAX_XATTRS: usize = 1024;
/// See [`MAX_XATTRS`].
pub const MAX_XATTR_BYTES: usize = 512 << 10;
/// A block is at most this long.
pub const MAX_BLOCK: usize = 1 << 20;
/// A block that is not the last has at least this many records…
pub const MIN_RECORDS: usize = 16;
/// …and then ends after a record whose path hash has this many low bits zero…
pub const CUT_BITS: u32 = 6;
/// …or before it would become longer than this with one more record, or has this many records.
pub const SOFT_BLOCK: usize = 64 << 10;
/// See [`SOFT_BLOCK`].
pub const MAX_RECORDS: usize = 1024;

const TAG: u8 = b'R';
const SAME_OWNER: u8 = 1;
const XATTRS: u8 = 2;
const SPARSE: u8 = 4;
const LINKED: u8 = 8;
const UNSTABLE: u8 = 16;

/// A time as the file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Who owns an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// User name; empty when the id has none.
    pub user: Vec<u8>,
    /// Group name; empty when the id has none.
    pub group: Vec<u8>,
}

/// A run of bytes of a sparse file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length, at least 1.
    pub len: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length, holes included.
        size: u64,
        /// The data of a sparse file, sorted, not touching; `None` for a file without holes.
        /// The content is the extents' bytes, one after another.
        extents: Option<Vec<Extent>>,
        /// Where the bytes are. `content.bytes` is `size`, or the sum of the extents.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, any bytes.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A socket: recorded, never restored.
    Socket,
    /// Something that could not be read. It is recorded so that nobody takes it for deleted.
    Unread,
}

/// An extended attribute's name and value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the tree's root: components joined by `/`; empty for the root directory itself.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permission bits, set-id and sticky bits (the low 12 bits).
    pub mode: u32,
    /// Who owns it.
    pub owner: Owner,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Last change of the inode; for finding unchanged files, never restored.
    pub ctime: FileTime,
    /// Inode number; for finding unchanged files and hard links.
    pub inode: u64,
    /// The device of a file with more than one hard link; `None` for all others.
    pub link_device: Option<u64>,
    /// True when the file changed while it was read: the content may be mixed, and it is never taken as unchanged.
    pub unstable: bool,
    /// Extended attributes (POSIX ACLs among them), sorted by name.
    pub xattrs: Vec<Attribute>,
}

impl Entry {
    /// The content of a file, `None` for other entries.
    pub fn content(&self) -> Option<&Content> {
        match &self.node {
            Node::File { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Fails on an entry that a decoder would refuse: what cannot be read back is never written.
    pub fn validate(&self) -> Result<(), FormatError> {
        validate_path(&self.path)?;
        at_most("mode", self.mode as usize, 0o7777)?;
        at_most("user name", self.owner.user.len(), MAX_TEXT)?;
        at_most("group name", self.owner.group.len(), MAX_TEXT)?;
        for time in [self.mtime, self.ctime] {
            at_most("nanoseconds", time.nanoseconds as usize, 999_999_999)?;
        }
        at_most("attribute count", self.xattrs.len(), MAX_XATTRS)?;
        at_most("attribute length", self.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum(), MAX_XATTR_BYTES)?;
        for (name, _) in &self.xattrs {
            at_most("attribute name", name.len(), MAX_COMPONENT)?;
        }
        match &self.node {
            Node::Symlink { target } => at_most("symlink target", target.len(), MAX_TEXT),
            Node::File { size, extents, content } => validate_file(*size, extents.as_deref(), content),
            _ => Ok(()),
        }
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), FormatError> {
    if found > limit {
        return Err(FormatError::TooLarge { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// The order of a tree: component by component, so `/` sorts before every other byte.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Accepts the empty path and components joined by single slashes, none of them empty, `.`, `..`, longer than
/// [`MAX_COMPONENT`] or with a NUL byte.
pub fn validate_path(path: &[u8]) -> Result<(), FormatError> {
    if path.len() > MAX_PATH {
        return Err(FormatError::TooLarge { what: "path", found: path.len() as u64, limit: MAX_PATH as u64 });
    }
    let bad = |part: &[u8]| {
        part.is_empty() || part == b"." || part == b".." || part.len() > MAX_COMPONENT || part.contains(&0)
    };
    if !path.is_empty() && path.split(|b| *b == b'/').any(bad) {
        return Err(FormatError::invalid("path", format!("{:?}", crate::format::codec::escape(path))));
    }
    Ok(())
}

fn validate_file(size: u64, extents: Option<&[Extent]>, content: &Content) -> Result<(), FormatError> {
    if size > i64::MAX as u64 {
        return Err(FormatError::TooLarge { what: "file size", found: size, limit: i64::MAX as u64 });
    }
    let mut bytes = size;
    if let Some(extents) = extents {
        if extents.len() > MAX_EXTENTS {
            let (found, limit) = (extents.len() as u64, MAX_EXTENTS as u64);
            return Err(FormatError::TooLarge { what: "extent count", found, limit });
        }
        let mut end = None;
        for extent in extents {
            let next = extent.offset.checked_add(extent.len).filter(|next| *next <= size);
            if extent.len == 0 || next.is_none() || end.is_some_and(|end| extent.offset <= end) {
                return Err(FormatError::invalid("extent", "it is empty, outside the file, or touches the one before"));
            }
            end = next;
        }
        bytes = extents.iter().map(|extent| extent.len).sum();
    }
    if content.bytes != bytes {
        let why = format!("its content has {} bytes where {bytes} belong", content.bytes);
        return Err(FormatError::invalid("file", why));
    }
    content.validate()
}

/// Encodes the records of one block.
pub struct BlockEncoder {
    out: Vec<u8>,
    previous: Option<Entry>,
    records: usize,
}

impl Default for BlockEncoder {
    fn default() -> Self {
        BlockEncoder { out: vec![TAG], previous: None, records: 0 }
    }
}

impl BlockEncoder {
    /// True before the first record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records so far.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Encoded bytes so far.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Appends an entry, which must be valid and sort after the one before.
    pub fn push(&mut self, entry: Entry) -> Result<(), FormatError> {
        entry.validate()?;
        at_most("tree block record count", self.records + 1, MAX_RECORDS)?;
        let start = self.out.len();
        let first = Entry::before_first();
        let previous = self.previous.as_ref().unwrap_or(&first);
        if self.records > 0 && compare_paths(&previous.path, &entry.path) != Ordering::Less {
            return Err(FormatError::invalid("tree record", "paths are not in order"));
        }
        put_record(&mut self.out, &entry, previous, self.records == 0);
        if self.out.len() > MAX_BLOCK {
            let found = (self.out.len() - start) as u64;
            self.out.truncate(start);
            return Err(FormatError::TooLarge { what: "tree record", found, limit: (MAX_BLOCK - start) as u64 });
        }
        self.previous = Some(entry);
        self.records += 1;
        Ok(())
    }

    /// The finished block; the encoder begins a new one.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(self).out
    }
}

impl Entry {
    fn before_first() -> Entry {
        Entry {
            path: Vec::new(),
            node: Node::Directory,
            mode: 0,
            owner: Owner::default(),
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode: 0,
            link_device: None,
            unstable: false,
            xattrs: Vec::new(),
        }
    }
}

fn put_record(out: &mut Vec<u8>, entry: &Entry, previous: &Entry, first: bool) {
    let shared = entry.path.iter().zip(&previous.path).take_while(|(a, b)| a == b).count();
    put_varint(out, shared as u64);
    put_bytes(out, &entry.path[shared..]);
    let (number, sparse) = match &entry.node {
        Node::Directory => (0, false),
        Node::File { extents, .. } => (1, extents.is_some()),
        Node::Symlink { .. } => (2, false),
        Node::Fifo => (3, false),
        Node::CharDevice { .. } => (4, false),
        Node::BlockDevice { .. } => (5, false),
        Node::Socket => (6, false),
        Node::Unread => (7, false),
    };
    out.push(number);
    let same_owner = !first && entry.owner == previous.owner;
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(same_owner, SAME_OWNER)
            | flag(!entry.xattrs.is_empty(), XATTRS)
            | flag(sparse, SPARSE)
            | flag(entry.link_device.is_some(), LINKED)
            | flag(entry.unstable, UNSTABLE),
    );
    put_varint(out, u64::from(entry.mode));
    if !same_owner {
        put_varint(out, u64::from(entry.owner.uid));
        put_varint(out, u64::from(entry.owner.gid));
        put_bytes(out, &entry.owner.user);
        put_bytes(out, &entry.owner.group);
    }
    for (time, before) in [(entry.mtime, previous.mtime), (entry.ctime, previous.ctime)] {
        put_zigzag(out, time.seconds.wrapping_sub(before.seconds));
        put_varint(out, u64::from(time.nanoseconds));
    }
    put_zigzag(out, entry.inode.wrapping_sub(previous.inode) as i64);
    if let Some(device) = entry.link_device {
        put_varint(out, device);
    }
    put_node(out, &entry.node);
    if !entry.xattrs.is_empty() {
        put_varint(out, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::File { size, extents, content } => {
            put_varint(out, *size);
            if let Some(extents) = extents {
                put_varint(out, extents.len() as u64);
                let mut end = 0;
                for extent in extents {
                    put_varint(out, extent.offset - end);
                    put_varint(out, extent.len);
                    end = extent.offset + extent.len;
                }
            }
            content.put_root(out);
        }
        Node::Symlink { target } => put_bytes(out, target),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            put_varint(out, u64::from(*major));
            put_varint(out, u64::from(*minor));
        }
        Node::Directory | Node::Fifo | Node::Socket | Node::Unread => {}
    }
}

/// Reads a whole block.
pub fn decode_block(raw: &[u8]) -> Result<Vec<Entry>, FormatError> {
    if raw.len() > MAX_BLOCK {
        return Err(FormatError::TooLarge { what: "tree block", found: raw.len() as u64, limit: MAX_BLOCK as u64 });
    }
    let mut cursor = Cursor::new(raw);
    if cursor.byte("tree block")? != TAG {
        return Err(FormatError::invalid("tree block", "it does not begin like one"));
    }
    let mut entries: Vec<Entry> = Vec::new();
    let first = Entry::before_first();
    while !cursor.is_empty() {
        if entries.len() == MAX_RECORDS {
            let (found, limit) = (MAX_RECORDS as u64 + 1, MAX_RECORDS as u64);
            return Err(FormatError::TooLarge { what: "tree block record count", found, limit });
        }
        let is_first = entries.is_empty();
        let entry = take_record(&mut cursor, entries.last().unwrap_or(&first), is_first)?;
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(FormatError::invalid("tree block", "it is empty"));
    }
    Ok(entries)
}

fn take_record(cursor: &mut Cursor<'_>, previous: &Entry, first: bool) -> Result<Entry, FormatError> {
    let what = "tree record";
    let shared = cursor.varint_up_to(previous.path.len() as u64, "shared path length")? as usize;
    let suffix = cursor.bytes(MAX_PATH - shared, "path")?;
    let path = [&previous.path[..shared], suffix].concat();
    validate_path(&path)?;
    if !first && compare_paths(&previous.path, &path) != Ordering::Less {
        return Err(FormatError::invalid(what, "paths are not in order"));
    }
    let number = cursor.byte(what)?;
    let flags = cursor.byte(what)?;
    if flags & !(SAME_OWNER | XATTRS | SPARSE | LINKED | UNSTABLE) != 0 || (first && flags & SAME_OWNER != 0) {
        return Err(FormatError::invalid(what, format!("flags {flags:#x}")));
    }
    let mode = cursor.varint_up_to(0o7777, "mode")? as u32;
    let owner = if flags & SAME_OWNER != 0 { previous.owner.clone() } else { take_owner(cursor)? };
    let mtime = take_time(cursor, previous.mtime)?;
    let ctime = take_time(cursor, previous.ctime)?;
    let inode = previous.inode.wrapping_add(cursor.zigzag("inode")? as u64);
    let link_device = if flags & LINKED != 0 { Some(cursor.varint("device")?) } else { None };
    let node = take_node(cursor, number, flags & SPARSE != 0)?;
    let xattrs = if flags & XATTRS != 0 { take_xattrs(cursor)? } else { Vec::new() };
    let unstable = flags & UNSTABLE != 0;
    Ok(Entry { path, node, mode, owner, mtime, ctime, inode, link_device, unstable, xattrs })
}

fn take_owner(cursor: &mut Cursor<'_>) -> Result<Owner, FormatError> {
    Ok(Owner {
        uid: cursor.varint_up_to(u64::from(u32::MAX), "user id")? as u32,
        gid: cursor.varint_up_to(u64::from(u32::MAX), "group id")? as u32,
        user: cursor.bytes(MAX_TEXT, "user name")?.to_vec(),
        group: cursor.bytes(MAX_TEXT, "group name")?.to_vec(),
    })
}

fn take_time(cursor: &mut Cursor<'_>, previous: FileTime) -> Result<FileTime, FormatError> {
    let seconds = previous.seconds.wrapping_add(cursor.zigzag("time")?);
    let nanoseconds = cursor.varint_up_to(999_999_999, "nanoseconds")? as u32;
    Ok(FileTime { seconds, nanoseconds })
}

fn take_node(cursor: &mut Cursor<'_>, number: u8, sparse: bool) -> Result<Node, FormatError> {
    let device = |cursor: &mut Cursor<'_>| -> Result<(u32, u32), FormatError> {
        let limit = u64::from(u32::MAX);
        Ok((cursor.varint_up_to(limit, "device")? as u32, cursor.varint_up_to(limit, "device")? as u32))
    };
    if sparse && number != 1 {
        return Err(FormatError::invalid("tree record", "a sparse entry that is no file"));
    }
    Ok(match number {
        0 => Node::Directory,
        1 => {
            let size = cursor.varint_up_to(i64::MAX as u64, "file size")?;
            let extents = if sparse { Some(take_extents(cursor, size)?) } else { None };
            let bytes = extents.as_ref().map_or(size, |all| all.iter().map(|extent| extent.len).sum());
            Node::File { size, extents, content: Content::take_root(cursor, bytes)? }
        }
        2 => Node::Symlink { target: cursor.bytes(MAX_TEXT, "symlink target")?.to_vec() },
        3 => Node::Fifo,
        4 => device(cursor).map(|(major, minor)| Node::CharDevice { major, minor })?,
        5 => device(cursor).map(|(major, minor)| Node::BlockDevice { major, minor })?,
        6 => Node::Socket,
        7 => Node::Unread,
        _ => return Err(FormatError::invalid("tree record", format!("type {number}"))),
    })
}

fn take_extents(cursor: &mut Cursor<'_>, size: u64) -> Result<Vec<Extent>, FormatError> {
    let what = "extent";
    let count = cursor.varint_up_to(MAX_EXTENTS as u64, "extent count")?;
    let mut extents = Vec::new();
    let mut end = 0u64;
    for index in 0..count {
        let gap = cursor.varint_up_to(size - end, what)?;
        let offset = end + gap;
        let len = cursor.varint_up_to(size - offset, what)?;
        if len == 0 || (gap == 0 && index > 0) {
            return Err(FormatError::invalid(what, "it is empty or touches the one before"));
        }
        end = offset + len;
        extents.push(Extent { offset, len });
    }
    Ok(extents)
}

fn take_xattrs(cursor: &mut Cursor<'_>) -> Result<Vec<Attribute>, FormatError> {
    let count = cursor.varint_up_to(MAX_XATTRS as u64, "attribute count")?;
    let mut xattrs = Vec::new();
    let mut room = MAX_XATTR_BYTES;
    for _ in 0..count {
        let name = cursor.bytes(MAX_COMPONENT.min(room), "attribute name")?.to_vec();
        room -= name.len();
        let value = cursor.bytes(room, "attribute value")?.to_vec();
        room -= value.len();
        xattrs.push((name, value));
    }
    Ok(xattrs)
}
