//! List nodes: the ids of chunks, cut by content and stored as chunks themselves, up to one root.
//!
//! ```text
//! node  := 'L' level:u8 entry*
//! entry := id:16 bytes:varint                          plain lists (streams, files)
//! node  := 'T' level:u8 keyed*
//! keyed := id:16 bytes:varint first_path:length+bytes  lists over tree blocks
//! ```
//! `bytes` is the length of the content below the entry; entries of a level 1 node are the content's own chunks.
//! A node ends after an entry whose id has its low [`CUT_BITS`] bits zero (first four bytes, little-endian), once
//! it has [`MIN_ENTRIES`], and at [`MAX_ENTRIES`] in any case: so an unchanged region keeps its nodes.

use crate::format::codec::{Cursor, put_bytes, put_varint};
use crate::format::content::MAX_LEVELS;
use crate::format::tree::MAX_PATH;
use crate::format::{ChunkId, FormatError};

/// A node has at least this many entries, unless it is the last of its level.
pub const MIN_ENTRIES: usize = 32;
/// A node has at most this many entries.
pub const MAX_ENTRIES: usize = 1024;
/// One id in 2^7 ends a node.
pub const CUT_BITS: u32 = 7;
/// A node's raw length is at most this (paths make keyed entries long).
pub const MAX_NODE: usize = 1 << 20;

/// Plain or keyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Over the chunks of a stream or file.
    Plain,
    /// Over tree blocks; entries carry the first path below them.
    Keyed,
}

impl ListKind {
    fn tag(self) -> u8 {
        match self {
            ListKind::Plain => b'L',
            ListKind::Keyed => b'T',
        }
    }
}

/// One child of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// The child chunk.
    pub id: ChunkId,
    /// Bytes of content below it, at least 1.
    pub bytes: u64,
    /// The first path below it; empty in plain lists.
    pub first_path: Vec<u8>,
}

/// True when this entry may end its node.
pub fn is_cut(id: &ChunkId) -> bool {
    let b = id.as_bytes();
    u32::from_le_bytes([b[0], b[1], b[2], b[3]]).trailing_zeros() >= CUT_BITS
}

/// Begins a node.
pub fn begin_node(kind: ListKind, level: u8) -> Vec<u8> {
    vec![kind.tag(), level]
}

/// Appends an entry to a node.
pub fn put_entry(out: &mut Vec<u8>, kind: ListKind, entry: &ListEntry) {
    out.extend_from_slice(entry.id.as_bytes());
    put_varint(out, entry.bytes);
    if kind == ListKind::Keyed {
        put_bytes(out, &entry.first_path);
    }
}

/// Reads a whole node, which must have this kind and level.
pub fn decode_node(raw: &[u8], kind: ListKind, level: u8) -> Result<Vec<ListEntry>, FormatError> {
    if raw.len() > MAX_NODE {
        return Err(FormatError::TooLarge { what: "list node", found: raw.len() as u64, limit: MAX_NODE as u64 });
    }
    let mut cursor = Cursor::new(raw);
    if cursor.byte("list node")? != kind.tag() {
        return Err(FormatError::invalid("list node", "it is of another kind"));
    }
    let found = cursor.byte("list node")?;
    if found != level || found == 0 || found > MAX_LEVELS {
        return Err(FormatError::invalid("list node", format!("level {found} where {level} belongs")));
    }
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        if entries.len() == MAX_ENTRIES {
            let (found, limit) = (MAX_ENTRIES as u64 + 1, MAX_ENTRIES as u64);
            return Err(FormatError::TooLarge { what: "list node entry count", found, limit });
        }
        let id = ChunkId::from_bytes(cursor.array("list entry")?);
        let bytes = cursor.varint("list entry")?;
        if bytes == 0 {
            return Err(FormatError::invalid("list entry", "it covers no bytes"));
        }
        let first_path = match kind {
            ListKind::Plain => Vec::new(),
            ListKind::Keyed => cursor.bytes(MAX_PATH, "list entry path")?.to_vec(),
        };
        entries.push(ListEntry { id, bytes, first_path });
    }
    if entries.is_empty() {
        return Err(FormatError::invalid("list node", "it is empty"));
    }
    Ok(entries)
}
