//! Where the bytes of a stream, a file or a tree's records are: the root of a chunk list.

use serde::{Deserialize, Serialize};

use crate::format::codec::{Cursor, put_varint};
use crate::format::{ChunkId, FormatError};

/// Chunk lists are at most this many levels high.
pub const MAX_LEVELS: u8 = 12;

/// The root of some content.
///
/// `levels` 0: the root is the one chunk with the content itself. `levels` n: the root is a list node
/// ([`crate::format::list`]) of level n. Without bytes there is no root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Length in bytes.
    pub bytes: u64,
    /// Height of the chunk list.
    pub levels: u8,
    /// The topmost chunk; none for no bytes.
    pub root: Option<ChunkId>,
}

impl Content {
    /// No bytes.
    pub const EMPTY: Content = Content { bytes: 0, levels: 0, root: None };

    /// Fails on a combination that the format does not allow.
    pub fn validate(&self) -> Result<(), FormatError> {
        if self.levels > MAX_LEVELS {
            let (found, limit) = (u64::from(self.levels), u64::from(MAX_LEVELS));
            return Err(FormatError::TooLarge { what: "chunk list height", found, limit });
        }
        if (self.bytes == 0) != self.root.is_none() || (self.bytes == 0 && self.levels != 0) {
            return Err(FormatError::invalid("content", "its length, height and root contradict each other"));
        }
        Ok(())
    }

    /// Appends `levels` and the root, for content whose length is stored elsewhere; nothing when empty.
    pub fn put_root(&self, out: &mut Vec<u8>) {
        if let Some(root) = self.root {
            put_varint(out, u64::from(self.levels));
            out.extend_from_slice(root.as_bytes());
        }
    }

    /// Reads what [`Content::put_root`] wrote.
    pub fn take_root(cursor: &mut Cursor<'_>, bytes: u64) -> Result<Self, FormatError> {
        if bytes == 0 {
            return Ok(Content::EMPTY);
        }
        let levels = cursor.varint_up_to(u64::from(MAX_LEVELS), "chunk list height")? as u8;
        let root = ChunkId::from_bytes(cursor.array("content root")?);
        Ok(Content { bytes, levels, root: Some(root) })
    }
}
