//! L0: the stored format, bytes to types and back. `format-spec/objects.md` is its truth.
//!
//! Nothing here reads a file or a clock. Every decoder takes hostile bytes: it bounds each length before it
//! allocates, never panics, and refuses what it does not know by name.

pub mod codec;
pub mod config;
pub mod content;
pub mod crypto;
pub mod error;
pub mod frame;
pub mod id;
pub mod key;
pub mod list;
pub mod name;
pub mod pack;
pub mod record;
pub mod set;
pub mod timeline;
pub mod tree;
pub mod wal;

pub use error::FormatError;
pub use id::{ChunkId, Kind, ObjectId, RepositoryId};

/// The format version that this program writes, and the newest that it reads.
pub const VERSION: u8 = 1;
