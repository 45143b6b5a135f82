//! Writing a tree: entries in order, cut into blocks by the paths' secret hash.

use std::sync::Arc;

use crate::format::Kind;
use crate::format::content::Content;
use crate::format::list::ListKind;
use crate::format::tree::{BlockEncoder, CUT_BITS, Entry, MAX_RECORDS, MIN_RECORDS, SOFT_BLOCK};
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::writer::content::ContentWriter;
use crate::repo::writer::core::Core;

/// Takes entries and gives the content of the tree's records.
pub struct TreeWriter {
    content: ContentWriter,
    block: BlockEncoder,
    first_path: Vec<u8>,
}

impl TreeWriter {
    /// Starts an empty tree beside the parent's.
    pub fn new(frames: &Arc<Frames>, parent: Option<Content>) -> Result<Self, RepoError> {
        let content = ContentWriter::new(frames, Kind::MetaPack, ListKind::Keyed, parent)?;
        Ok(TreeWriter { content, block: BlockEncoder::default(), first_path: Vec::new() })
    }

    /// Takes the next entry, which must sort after the one before.
    pub fn push(&mut self, core: &mut Core, entry: Entry) -> Result<(), RepoError> {
        // A record with many attributes may be long: it gets a block of its own rather than overflow one.
        let long = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > SOFT_BLOCK;
        if !self.block.is_empty() && (long || self.block.bytes() >= SOFT_BLOCK) {
            self.cut(core)?;
        }
        if self.block.is_empty() {
            self.first_path = entry.path.clone();
        }
        let hash = core.frames().keys().path_hash(&entry.path);
        self.block.push(entry)?;
        let records = self.block.records();
        if records == MAX_RECORDS || (records >= MIN_RECORDS && hash.trailing_zeros() >= CUT_BITS) {
            self.cut(core)?;
        }
        Ok(())
    }

    fn cut(&mut self, core: &mut Core) -> Result<(), RepoError> {
        let raw = self.block.finish();
        self.content.push(core, &raw, &self.first_path)
    }

    /// Ends the tree.
    pub fn finish(mut self, core: &mut Core) -> Result<Content, RepoError> {
        if !self.block.is_empty() {
            self.cut(core)?;
        }
        self.content.finish(core)
    }
}
