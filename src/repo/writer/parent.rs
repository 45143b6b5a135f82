//! The parent's chunks as a sequence: where a new stream runs along its predecessor.
//!
//! Memory: a window of `AHEAD` chunk ids (2 GiB of stream at 32 KiB a chunk, about 5 MiB of memory) and a few behind.
//! What moved further than that is still found by the index, only not as a place to continue from.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::format::ChunkId;
use crate::format::content::Content;
use crate::format::list::ListKind;
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::lists::ListWalk;

/// Ids kept ahead of the cursor.
const AHEAD: usize = 64 << 10;
/// Ids kept behind the cursor.
const BEHIND: usize = 1 << 10;
/// Below this many ids a scan is faster than a map.
const SMALL: usize = 16;

/// A position in the parent's sequence.
pub type Position = usize;

/// The ids of one level of the parent's list, and where the new stream stands in it.
pub struct ParentSequence {
    walk: Option<ListWalk>,
    window: VecDeque<ChunkId>,
    /// Position of the window's first id.
    first: Position,
    /// Last known position of each id in the window; unused while the window is small.
    positions: HashMap<ChunkId, Position>,
    cursor: Position,
}

impl ParentSequence {
    /// The sequence of `level` of the parent's content, from its beginning.
    pub fn new(frames: &Arc<Frames>, kind: ListKind, parent: &Content, level: u8) -> Result<Self, RepoError> {
        let mut sequence = ParentSequence {
            walk: Some(ListWalk::new(frames.clone(), kind, parent, level)?),
            window: VecDeque::new(),
            first: 0,
            positions: HashMap::new(),
            cursor: 0,
        };
        sequence.fill()?;
        Ok(sequence)
    }

    /// Where the stream stands: the position after the last chunk that both have.
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// The id at a position of the window.
    pub fn id(&self, position: Position) -> Option<ChunkId> {
        self.window.get(position.checked_sub(self.first)?).copied()
    }

    /// Where this id is, the cursor's own position preferred.
    pub fn find(&self, id: &ChunkId) -> Option<Position> {
        if self.id(self.cursor) == Some(*id) {
            return Some(self.cursor);
        }
        if self.positions.is_empty() {
            return self.window.iter().position(|other| other == id).map(|index| self.first + index);
        }
        self.positions.get(id).copied()
    }

    /// Moves the cursor and the window with it.
    pub fn set_cursor(&mut self, position: Position) -> Result<(), RepoError> {
        self.cursor = position;
        let behind = self.cursor.saturating_sub(self.first);
        if self.walk.is_some() && behind > 2 * BEHIND {
            for _ in 0..behind - BEHIND {
                if let Some(id) = self.window.pop_front() {
                    if self.positions.get(&id) == Some(&self.first) {
                        self.positions.remove(&id);
                    }
                    self.first += 1;
                }
            }
            self.fill()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), RepoError> {
        let want = (self.cursor + AHEAD).saturating_sub(self.first);
        while self.window.len() < want {
            let Some(walk) = &mut self.walk else { break };
            match walk.next_entry() {
                Ok(Some(entry)) => {
                    let position = self.first + self.window.len();
                    self.window.push_back(entry.id);
                    if self.window.len() > SMALL || !self.positions.is_empty() {
                        self.remember(position);
                    }
                }
                Ok(None) => self.walk = None,
                // The parent only makes things smaller: where it cannot be read, the rest is stored without it.
                Err(error) if matches!(error, RepoError::Index { .. } | RepoError::Cache { .. }) => return Err(error),
                Err(_) => self.walk = None,
            }
        }
        Ok(())
    }

    fn remember(&mut self, position: Position) {
        if self.positions.is_empty() {
            for (index, id) in self.window.iter().enumerate() {
                self.positions.insert(*id, self.first + index);
            }
        } else if let Some(id) = self.id(position) {
            self.positions.insert(id, position);
        }
    }
}
