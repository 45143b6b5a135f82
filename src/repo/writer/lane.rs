//! A lane: one sequence of chunks on its way into the repository, beside the same sequence of the parent.
//!
//! A chunk is either stored already, or new. New ones gather into a run; the run ends at the next chunk that is stored
//! already. A run that lies between two chunks of the parent (its anchors) most probably replaces what lies between
//! them there: those chunks become the run's delta base (design: "anchored delta").

use std::sync::Arc;

use crate::format::content::Content;
use crate::format::list::ListKind;
use crate::format::pack::ChunkEntry;
use crate::format::{ChunkId, Kind};
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::index::Location;
use crate::repo::writer::core::Core;
use crate::repo::writer::parent::{ParentSequence, Position};

/// A run is handed on at this many raw bytes, whatever follows.
const MAX_RUN: usize = 1 << 20;
/// A base may be this many times as long as the run, plus [`BASE_SLACK`].
const BASE_FACTOR: usize = 4;
/// See [`BASE_FACTOR`]; also how much more than the run's length is taken when the right anchor is unknown.
const BASE_SLACK: usize = 64 << 10;

/// New chunks that follow one another.
#[derive(Default)]
pub struct Run {
    /// Their bytes, concatenated.
    pub raw: Vec<u8>,
    /// Their ids and lengths.
    pub chunks: Vec<ChunkEntry>,
}

/// One sequence of chunks.
pub struct Lane {
    kind: Kind,
    parent: Option<ParentSequence>,
    run: Run,
    /// Stored chunks that resemble the run's, wherever they stand.
    similar: Vec<Location>,
}

impl Lane {
    /// A lane for packs of this kind, along `level` of the parent's content.
    pub fn new(
        frames: &Arc<Frames>,
        kind: Kind,
        list: ListKind,
        parent: Option<&Content>,
        level: u8,
    ) -> Result<Self, RepoError> {
        let parent = parent.map(|content| ParentSequence::new(frames, list, content, level)).transpose()?;
        Ok(Lane { kind, parent, run: Run::default(), similar: Vec::new() })
    }

    /// Takes the next chunk.
    pub fn push(&mut self, core: &mut Core, id: ChunkId, raw: &[u8]) -> Result<(), RepoError> {
        if core.has(&id)? {
            let anchor = self.parent.as_ref().and_then(|parent| parent.find(&id));
            self.close_run(core, anchor)?;
            if let (Some(parent), Some(anchor)) = (&mut self.parent, anchor) {
                parent.set_cursor(anchor + 1)?;
            }
            return Ok(());
        }
        core.announce(id, raw.len());
        if self.kind == Kind::DataPack {
            let similar = core.similar(id, raw)?;
            self.similar.extend(similar);
        }
        self.run.raw.extend_from_slice(raw);
        self.run.chunks.push(ChunkEntry { id, len: raw.len() as u32 });
        if self.run.raw.len() >= MAX_RUN {
            self.close_run(core, None)?;
        }
        Ok(())
    }

    /// Ends the sequence.
    pub fn finish(&mut self, core: &mut Core) -> Result<(), RepoError> {
        self.close_run(core, None)
    }

    fn close_run(&mut self, core: &mut Core, right: Option<Position>) -> Result<(), RepoError> {
        if self.run.chunks.is_empty() {
            return Ok(());
        }
        let mut bases = self.bases(core, right)?;
        let anchored = bases.len();
        bases.append(&mut self.similar);
        core.add_run(self.kind, &self.run, bases, anchored)?;
        self.run.raw.clear();
        self.run.chunks.clear();
        Ok(())
    }

    /// The parent's chunks between the run's anchors, one more on each side: a cut that moved shares bytes with them.
    fn bases(&mut self, core: &mut Core, right: Option<Position>) -> Result<Vec<Location>, RepoError> {
        let Some(parent) = &mut self.parent else { return Ok(Vec::new()) };
        let want = self.run.raw.len();
        let cursor = parent.cursor();
        let limit = want * BASE_FACTOR + 4 * BASE_SLACK;
        let right = right.filter(|right| *right >= cursor);
        let mut bases: Vec<Location> = Vec::new();
        let mut bytes = 0;
        let mut position = cursor.saturating_sub(1);
        while let Some(id) = parent.id(position) {
            let beyond = match right {
                Some(right) => position > right,
                None => bytes > want + BASE_SLACK,
            };
            if beyond || bytes > limit {
                break;
            }
            if let Some(location) = core.base_after(bases.last(), &id)? {
                bytes += location.chunk().len as usize;
                bases.push(location);
            }
            position += 1;
        }
        if right.is_none() {
            // The run replaced what it was compared with; the next one is compared with what follows.
            parent.set_cursor(position.max(cursor))?;
        }
        Ok(bases)
    }
}
