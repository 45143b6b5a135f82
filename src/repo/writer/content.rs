//! Writing one content: its chunks, and the list over them up to one root.

use std::sync::Arc;

use crate::format::content::{Content, MAX_LEVELS};
use crate::format::list::{self, ListEntry, ListKind, MAX_ENTRIES, MIN_ENTRIES, is_cut};
use crate::format::{ChunkId, FormatError, Kind};
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::writer::core::Core;
use crate::repo::writer::lane::Lane;

/// A list node is cut before it gets longer than this, so that paths cannot make it too long.
const SOFT_NODE: usize = 256 << 10;

/// Takes chunks and gives a [`Content`].
pub struct ContentWriter {
    frames: Arc<Frames>,
    list: ListKind,
    lane: Lane,
    parent: Option<Content>,
    levels: Vec<Level>,
    bytes: u64,
}

/// One level of the list: entries that no node holds yet.
struct Level {
    lane: Lane,
    held: Vec<ListEntry>,
    held_bytes: usize,
    nodes: u64,
}

impl ContentWriter {
    /// Starts an empty content. Its chunks go to packs of `kind`; `parent` is what it most probably resembles.
    pub fn new(frames: &Arc<Frames>, kind: Kind, list: ListKind, parent: Option<Content>) -> Result<Self, RepoError> {
        let lane = Lane::new(frames, kind, list, parent.as_ref(), 0)?;
        Ok(ContentWriter { frames: frames.clone(), list, lane, parent, levels: Vec::new(), bytes: 0 })
    }

    /// Takes the next chunk. `first_path` is empty in plain lists.
    pub fn push(&mut self, core: &mut Core, raw: &[u8], first_path: &[u8]) -> Result<(), RepoError> {
        self.push_hashed(core, core.chunk_id(raw), raw, first_path)
    }

    /// The same, for who knows its id.
    pub fn push_hashed(
        &mut self,
        core: &mut Core,
        id: ChunkId,
        raw: &[u8],
        first_path: &[u8],
    ) -> Result<(), RepoError> {
        self.lane.push(core, id, raw)?;
        self.bytes += raw.len() as u64;
        self.push_entry(core, 0, ListEntry { id, bytes: raw.len() as u64, first_path: first_path.to_vec() })
    }

    fn push_entry(&mut self, core: &mut Core, index: usize, entry: ListEntry) -> Result<(), RepoError> {
        if index >= usize::from(MAX_LEVELS) {
            let (found, limit) = (index as u64 + 1, u64::from(MAX_LEVELS));
            return Err(FormatError::TooLarge { what: "chunk list height", found, limit }.into());
        }
        if index == self.levels.len() {
            let level = index as u8 + 1;
            // A parent without this level has no nodes to compare with.
            let parent = self.parent.as_ref().filter(|parent| parent.levels >= level);
            let lane = Lane::new(&self.frames, Kind::MetaPack, self.list, parent, level)?;
            self.levels.push(Level { lane, held: Vec::new(), held_bytes: 0, nodes: 0 });
        }
        let level = &mut self.levels[index];
        let cut = is_cut(&entry.id);
        level.held_bytes += entry.first_path.len() + 32;
        level.held.push(entry);
        let count = level.held.len();
        if (cut && count >= MIN_ENTRIES) || count >= MAX_ENTRIES || level.held_bytes >= SOFT_NODE {
            self.cut(core, index)?;
        }
        Ok(())
    }

    /// Makes a node of the entries held on a level and hands it to the level above.
    fn cut(&mut self, core: &mut Core, index: usize) -> Result<(), RepoError> {
        let level = &mut self.levels[index];
        let mut raw = list::begin_node(self.list, index as u8 + 1);
        let mut bytes = 0;
        for entry in &level.held {
            list::put_entry(&mut raw, self.list, entry);
            bytes += entry.bytes;
        }
        let id = core.chunk_id(&raw);
        level.lane.push(core, id, &raw)?;
        let first_path = level.held.drain(..).next().map(|entry| entry.first_path).unwrap_or_default();
        level.held_bytes = 0;
        level.nodes += 1;
        self.push_entry(core, index + 1, ListEntry { id, bytes, first_path })
    }

    /// Ends the content.
    pub fn finish(mut self, core: &mut Core) -> Result<Content, RepoError> {
        self.lane.finish(core)?;
        let mut index = 0;
        while let Some(level) = self.levels.get(index) {
            if level.nodes == 0 && level.held.len() == 1 {
                let root = Some(level.held[0].id);
                return Ok(Content { bytes: self.bytes, levels: index as u8, root });
            }
            if !level.held.is_empty() {
                self.cut(core, index)?;
            }
            self.levels[index].lane.finish(core)?;
            index += 1;
        }
        Ok(Content::EMPTY)
    }
}
