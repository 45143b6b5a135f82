//! How much may be decoded for the sake of one chunk.
//!
//! Invariant: reading a chunk ends after a bounded amount of work, whatever footers say. Depth alone does not bound it: a
//! frame may name 65,536 bases, each of those as many, eight levels down, and the cache of decoded frames is smaller
//! than what such a pyramid keeps asking for. What honest writers make stays far below the bound.

use crate::repo::error::RepoError;
use crate::repo::index::FrameInfo;

/// What may be spent on one chunk, in bytes: about a minute. The most that a chunk of a real dump took, changed all over,
/// was 1.1 GiB: what was written has to be readable, so the bound is far above that.
pub const MAX_WORK: u64 = 64 << 30;
/// What looking at one copy of a base counts, besides its bytes: tiny bases take time, too.
pub const LOOK: u64 = 4 << 10;

/// What is left to be spent on one chunk.
#[derive(Debug)]
pub struct Work {
    left: u64,
    limit: u64,
}

impl Work {
    /// Nothing is spent yet.
    pub fn new(limit: u64) -> Self {
        Work { left: limit, limit }
    }

    /// A frame is decoded.
    pub fn frame(&mut self, info: &FrameInfo) -> Result<(), RepoError> {
        self.spend(info.entry.raw_len() as u64)
    }

    /// So many copies of a base are looked at.
    pub fn copies(&mut self, copies: usize) -> Result<(), RepoError> {
        self.spend(LOOK.saturating_mul(copies.max(1) as u64))
    }

    /// A base becomes part of a prefix.
    pub fn base(&mut self, len: usize) -> Result<(), RepoError> {
        self.spend(len as u64)
    }

    /// Once nothing is left there is never enough again: no other copy is tried.
    fn spend(&mut self, bytes: u64) -> Result<(), RepoError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(RepoError::TooMuchWork { limit: self.limit })
            }
        }
    }
}
