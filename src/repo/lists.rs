//! Walking a chunk list from its root: the ids of one level, in order, with the list nodes on the way.
//!
//! Memory: one decoded node a level. Every node is checked against its id, its level and the length its parent
//! promised, so a walk that ends without an error has seen exactly the content's length.

use std::sync::Arc;

use crate::format::content::Content;
use crate::format::list::{ListEntry, ListKind, decode_node};
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;

/// The entries of one level of a chunk list, in order.
pub struct ListWalk {
    frames: Arc<Frames>,
    kind: ListKind,
    /// Entries of this level are given: 0 for the content's own chunks.
    level: u8,
    stack: Vec<Level>,
}

struct Level {
    level: u8,
    entries: std::vec::IntoIter<ListEntry>,
}

impl ListWalk {
    /// Starts at the first entry of `level`; a level that the list does not have gives nothing.
    pub fn new(frames: Arc<Frames>, kind: ListKind, content: &Content, level: u8) -> Result<Self, RepoError> {
        let mut stack = Vec::new();
        if let Some(id) = content.root.filter(|_| level <= content.levels) {
            let root = ListEntry { id, bytes: content.bytes, first_path: Vec::new() };
            stack.push(Level { level: content.levels, entries: vec![root].into_iter() });
        }
        Ok(ListWalk { frames, kind, level, stack })
    }

    /// Goes on with the last subtree whose first path is not after `path`; only in keyed lists.
    /// `before` says whether an entry's first path sorts at or before the wanted one.
    pub fn seek(&mut self, before: &dyn Fn(&[u8]) -> bool) -> Result<(), RepoError> {
        while let Some(top) = self.stack.last_mut() {
            // The first entry is taken anyway: what is wanted may sort before everything.
            let skip = top.entries.as_slice().iter().skip(1).take_while(|entry| before(&entry.first_path)).count();
            if skip > 0 {
                top.entries.nth(skip - 1);
            }
            if top.level == self.level || !self.descend()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Replaces the next entry of the topmost node by its children. False when there is no next entry.
    fn descend(&mut self) -> Result<bool, RepoError> {
        let Some(top) = self.stack.last_mut() else { return Ok(false) };
        let level = top.level;
        let Some(entry) = top.entries.next() else { return Ok(false) };
        let entries = self.node(&entry, level)?;
        self.stack.push(Level { level: level - 1, entries: entries.into_iter() });
        Ok(true)
    }

    fn node(&self, entry: &ListEntry, level: u8) -> Result<Vec<ListEntry>, RepoError> {
        let raw = self.frames.chunk(&entry.id)?;
        let entries = decode_node(&raw, self.kind, level)?;
        let mut total = 0u64;
        for child in &entries {
            total = total.checked_add(child.bytes).ok_or_else(too_long)?;
        }
        if total != entry.bytes {
            let why = format!("list node {} covers {total} bytes where {} were promised", entry.id, entry.bytes);
            return Err(RepoError::Malformed { why });
        }
        Ok(entries)
    }

    /// The next entry of the level.
    pub fn next_entry(&mut self) -> Result<Option<ListEntry>, RepoError> {
        loop {
            let Some(top) = self.stack.last_mut() else { return Ok(None) };
            if top.level == self.level {
                if let Some(entry) = top.entries.next() {
                    return Ok(Some(entry));
                }
                self.stack.pop();
            } else if !self.descend()? {
                self.stack.pop();
            }
        }
    }
}

fn too_long() -> RepoError {
    RepoError::Malformed { why: "a list node covers more bytes than can be counted".to_owned() }
}
