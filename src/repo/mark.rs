//! Following references: from the snapshots through chunk lists and tree blocks to every chunk.
//!
//! Memory: one bit a chunk, and one path of list nodes. A list node or tree block that was met before is not read again,
//! so the work grows with what differs between snapshots, not with their number. Data packs are never read.

use crate::format::ChunkId;
use crate::format::content::Content;
use crate::format::list::{ListKind, decode_node};
use crate::format::record::{Snapshot, SnapshotKind};
use crate::format::tree::decode_block;
use crate::progress::Monitor;
use crate::repo::Repository;
use crate::repo::bitmap::Bitmap;
use crate::repo::error::RepoError;
use crate::repo::index::Location;

/// After so many chunks it is told how many were reached. The units of the phase are snapshots, since nobody knows how
/// many chunks they have.
const TOLD: u64 = 4096;

/// What was reached.
pub struct Mark<'r> {
    repository: &'r Repository,
    monitor: &'r dyn Monitor,
    /// The numbers of reached chunks: of each, one copy.
    pub reached: Bitmap,
    /// Those of them that were followed as list node or tree block. A chunk of somebody's file may have the same
    /// bytes as a list node; reached only as that, it has not been followed.
    followed: Bitmap,
    /// Chunks reached.
    pub chunks: u64,
    /// Whether, of several copies, one counts only if it can be read.
    read_copies: bool,
}

impl<'r> Mark<'r> {
    /// Nothing reached yet.
    pub fn new(repository: &'r Repository, monitor: &'r dyn Monitor) -> Self {
        Mark {
            repository,
            monitor,
            reached: Bitmap::default(),
            followed: Bitmap::default(),
            chunks: 0,
            read_copies: false,
        }
    }

    /// As [`Mark::new`], for whoever removes what is not reached: of a chunk with several copies one that can be read is
    /// reached, and all of them if none can.
    pub fn reading_copies(repository: &'r Repository, monitor: &'r dyn Monitor) -> Self {
        Mark { read_copies: true, ..Mark::new(repository, monitor) }
    }

    /// Reaches everything that a snapshot needs. Each failure goes to `problem`, which may end the walk by returning it.
    pub fn snapshot(
        &mut self,
        snapshot: &Snapshot,
        problem: &mut dyn FnMut(RepoError) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        match snapshot.kind {
            SnapshotKind::Stream => self.content(&snapshot.content, ListKind::Plain, problem),
            SnapshotKind::Tree => self.content(&snapshot.content, ListKind::Keyed, problem),
        }
    }

    fn content(
        &mut self,
        content: &Content,
        kind: ListKind,
        problem: &mut dyn FnMut(RepoError) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let mut stack: Vec<(ChunkId, u8, u64)> = Vec::new();
        stack.extend(content.root.map(|root| (root, content.levels, content.bytes)));
        while let Some((id, level, bytes)) = stack.pop() {
            if self.monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            match self.visit(&id, level, bytes, kind, &mut stack) {
                Ok(None) => {}
                Ok(Some(entries)) => {
                    for content in entries {
                        self.content(&content, ListKind::Plain, problem)?;
                    }
                }
                Err(error) => problem(error)?,
            }
        }
        Ok(())
    }

    /// Reaches one chunk. Children of a list node go to the stack; the contents named by a tree block are returned.
    fn visit(
        &mut self,
        id: &ChunkId,
        level: u8,
        bytes: u64,
        kind: ListKind,
        stack: &mut Vec<(ChunkId, u8, u64)>,
    ) -> Result<Option<Vec<Content>>, RepoError> {
        let copies = self.repository.index().find(id)?;
        let first = copies.first().ok_or(RepoError::MissingChunk { id: *id })?;
        let is_block = level == 0 && kind == ListKind::Keyed;
        let is_leaf = level == 0 && !is_block;
        let done = if is_leaf { &self.reached } else { &self.followed };
        if copies.iter().any(|copy| done.contains(copy.number())) {
            return Ok(None);
        }
        if level == 0 && u64::from(first.chunk().len) != bytes {
            let why = format!("chunk {id} has {} bytes where {bytes} were promised", first.chunk().len);
            return Err(RepoError::Malformed { why });
        }
        let mut contents = None;
        if level > 0 {
            let raw = self.repository.frames().chunk(id)?;
            let entries = decode_node(&raw, kind, level)?;
            let total = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes));
            if total != Some(bytes) {
                let why = format!("list node {id} does not cover the {bytes} bytes that were promised");
                return Err(RepoError::Malformed { why });
            }
            stack.extend(entries.into_iter().rev().map(|entry| (entry.id, level - 1, entry.bytes)));
        } else if is_block {
            let raw = self.repository.frames().chunk(id)?;
            let entries = decode_block(&raw)?;
            contents = Some(entries.iter().filter_map(|entry| entry.content().copied()).collect());
        }
        if !is_leaf {
            self.followed.insert(first.number());
        }
        if !copies.iter().any(|copy| self.reached.contains(copy.number())) {
            for copy in self.needed(&copies)? {
                self.reached.insert(copy.number());
            }
            self.chunks += 1;
            if self.chunks.is_multiple_of(TOLD) {
                self.monitor.item(&format!("{} chunks", self.chunks));
            }
        }
        Ok(contents)
    }

    fn needed<'c>(&self, copies: &'c [Location]) -> Result<&'c [Location], RepoError> {
        if copies.len() <= 1 || !self.read_copies {
            return Ok(&copies[..copies.len().min(1)]);
        }
        for (position, copy) in copies.iter().enumerate() {
            if self.repository.frames().is_readable(copy)? {
                return Ok(&copies[position..=position]);
            }
        }
        Ok(copies)
    }
}
