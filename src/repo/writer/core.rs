//! The middle of a writer: what is stored already, what is new, and how new runs become frames.
//!
//! Runs without a base gather into plain frames, runs with bases into delta frames whose prefix is all their bases:
//! one zstd frame for many small changes costs far less than one each. Memory: one open group of each sort and kind,
//! the frames in the queue, and the ids of chunks that no written pack holds yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::format::frame::MAX_DEPTH;
use crate::format::{ChunkId, Kind};
use crate::repo::Condemned;
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;
use crate::repo::index::Location;
use crate::repo::similar::{self, SimilarTable};
use crate::repo::writer::group::{BASE_WORK_KIB, Group, Offer, USUAL_GROUP};
use crate::repo::writer::lane::Run;
use crate::repo::writer::pipeline::{Job, Pipeline};

/// Similar chunks taken as bases of one chunk…
const SIMILAR: usize = 8;
/// …and of one that is shorter than this, for which looking further costs more than it saves.
const SMALL: usize = 4 << 10;
/// See [`SMALL`].
const SIMILAR_TO_SMALL: usize = 3;

/// Counts of a writer.
#[derive(Debug, Default, Clone, Copy)]
pub struct WriteStats {
    /// Raw bytes of new chunks.
    pub new_bytes: u64,
    /// New chunks.
    pub new_chunks: u64,
}

/// The state that all lanes of a writer share.
pub struct Core {
    frames: Arc<Frames>,
    pipeline: Pipeline,
    /// What listed tombstones name. A sweep may move what lives in those packs, so their chunks are noted by id.
    condemned: Condemned,
    used_packs: HashSet<u64>,
    used_moving: HashSet<ChunkId>,
    last: Option<Location>,
    groups: Vec<(Kind, bool, Group)>,
    gear: [u64; 256],
    similar: SimilarTable,
    /// Whether what is stored already counts only after it was read back, and nothing new is built on it.
    read_back: bool,
    /// What reading the bases of a new frame may cost.
    base_work_kib: u32,
    /// Counts so far.
    pub stats: WriteStats,
}

impl Core {
    /// Chunks that `condemned` names dead are treated as absent.
    pub fn new(frames: Arc<Frames>, pipeline: Pipeline, condemned: Condemned, similar: SimilarTable) -> Self {
        let gear = frames.keys().gear_table();
        let mut groups = Vec::new();
        for kind in [Kind::DataPack, Kind::MetaPack] {
            for delta in [false, true] {
                groups.push((kind, delta, Group::default()));
            }
        }
        Core {
            frames,
            pipeline,
            condemned,
            used_packs: HashSet::new(),
            used_moving: HashSet::new(),
            last: None,
            groups,
            gear,
            similar,
            read_back: false,
            base_work_kib: BASE_WORK_KIB,
            stats: WriteStats::default(),
        }
    }

    /// From here on a stored chunk counts only if it can be read back, and what is new is stored without bases: a lost
    /// chunk may be a base itself, and then only a copy in a frame of depth 0 serves every frame that needs it.
    pub fn read_back(&mut self) {
        self.read_back = true;
    }

    /// From here on reading the bases of a new frame costs at most this much.
    pub fn limit_base_work(&mut self, kib: u32) {
        self.base_work_kib = kib.min(BASE_WORK_KIB);
    }

    /// The reader of what is stored.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The id of a chunk with this content.
    pub fn chunk_id(&self, raw: &[u8]) -> ChunkId {
        self.frames.keys().chunk_id(raw)
    }

    /// Packs that this run relies on without having written them.
    pub fn used_packs(&self) -> &HashSet<u64> {
        &self.used_packs
    }

    /// True when no tombstone names a dead chunk.
    pub fn knows_no_dead(&self) -> bool {
        self.condemned.dead.is_empty()
    }

    /// What listed tombstones name, and what is known to be unreadable.
    pub fn condemned(&self) -> &Condemned {
        &self.condemned
    }

    /// Whether the chunk is stored, or on its way.
    pub fn has(&mut self, id: &ChunkId) -> Result<bool, RepoError> {
        if self.read_back {
            return self.has_readable(id);
        }
        // Chunks mostly follow each other as they were stored, so the next one of the same frame is tried first.
        if let Some(last) = &mut self.last {
            let next = last.position + 1;
            if last.frame.entry.chunks.get(next).is_some_and(|chunk| chunk.id == *id)
                && !self.condemned.dead.contains(last.frame.first + next as u64)
            {
                last.position = next;
                if self.condemned.packs.contains(&last.frame.pack) {
                    self.used_moving.insert(*id);
                }
                return Ok(true);
            }
        }
        if self.pipeline.is_pending(id) {
            return Ok(true);
        }
        let dead = &self.condemned.dead;
        let found = self.frames.index().find_for_writing(id)?;
        let found = found.into_iter().find(|location| !dead.contains(location.number()));
        if let Some(location) = found {
            self.rely_on(&location);
            self.last = Some(location);
            return Ok(true);
        }
        Ok(false)
    }

    fn has_readable(&mut self, id: &ChunkId) -> Result<bool, RepoError> {
        if self.pipeline.is_pending(id) {
            return Ok(true);
        }
        for location in self.frames.index().find(id)? {
            if !self.condemned.dead.contains(location.number()) && self.frames.is_readable(&location)? {
                self.rely_on(&location);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rely_on(&mut self, location: &Location) {
        if self.condemned.packs.contains(&location.frame.pack) {
            self.used_moving.insert(location.chunk().id);
        } else {
            self.used_packs.insert(location.frame.pack);
        }
    }

    /// Chunks that this run relies on and that a sweep may move meanwhile.
    pub fn used_moving(&self) -> &HashSet<ChunkId> {
        &self.used_moving
    }

    /// Where a chunk can serve as delta base: stored, not condemned, not too deep.
    pub fn base(&self, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        if self.read_back {
            return Ok(None);
        }
        Ok(self.frames.index().find(id)?.into_iter().find(|location| self.may_be_base(location)))
    }

    /// The same, for what most probably follows another base as it was stored.
    pub fn base_after(&self, last: Option<&Location>, id: &ChunkId) -> Result<Option<Location>, RepoError> {
        match last.and_then(|last| last.soon(id)).filter(|next| self.may_be_base(next)) {
            Some(next) => Ok(Some(next)),
            None => self.base(id),
        }
    }

    fn may_be_base(&self, location: &Location) -> bool {
        location.frame.entry.depth < MAX_DEPTH && !self.condemned.dead.contains(location.number())
    }

    /// Stored chunks that resemble this new one; remembers the new one.
    pub fn similar(&mut self, id: ChunkId, raw: &[u8]) -> Result<Vec<Location>, RepoError> {
        let sketch = similar::sketch(&self.gear, raw);
        let mut found = Vec::new();
        let limit = if raw.len() < SMALL { SIMILAR_TO_SMALL } else { SIMILAR };
        for id in self.similar.find(&sketch, limit) {
            // Most of a first backup is: asking the index for all of that took a sixth of its time.
            if self.pipeline.is_pending(&id) {
                continue;
            }
            match self.base(&id)? {
                Some(base) => found.push(base),
                None => self.similar.reject(&id, &sketch),
            }
        }
        self.similar.insert(id, sketch);
        Ok(found)
    }

    /// Says that a new chunk is on its way, so that the next one like it is not stored again.
    pub fn announce(&mut self, id: ChunkId, len: usize) {
        self.pipeline.announce(id);
        self.stats.new_bytes += len as u64;
        self.stats.new_chunks += 1;
    }

    /// Takes a run and the chunks it may be a delta of, of which the first `anchored` stand where it stands in the parent.
    pub fn add_run(&mut self, kind: Kind, run: &Run, bases: Vec<Location>, anchored: usize) -> Result<(), RepoError> {
        let delta = !bases.is_empty();
        let offers = self.offers(&bases, anchored)?;
        for base in &bases {
            self.rely_on(base);
        }
        let Some((_, _, group)) = self.groups.iter_mut().find(|(k, d, _)| *k == kind && *d == delta) else {
            return Err(RepoError::Malformed { why: format!("a run for a {kind}") });
        };
        let before = group.costs_too_much_with(&offers, self.base_work_kib).then(|| std::mem::take(group));
        if group.chunks.is_empty() {
            group.raw = self.frames.buffers().take(USUAL_GROUP);
        }
        group.add(run, bases, offers, self.base_work_kib);
        let full = group.is_full().then(|| std::mem::take(group));
        for group in before.into_iter().chain(full) {
            self.submit(kind, group)?;
        }
        Ok(())
    }

    /// The frames that bases lie in, and what reading each costs.
    fn offers(&self, bases: &[Location], anchored: usize) -> Result<Vec<Offer>, RepoError> {
        let mut offers: Vec<Offer> = Vec::new();
        let mut places = HashMap::new();
        for (number, base) in bases.iter().enumerate() {
            let place = match places.get(&base.frame.first) {
                Some(place) => *place,
                None => {
                    let work_kib = self.frames.index().work_kib(&base.frame)?;
                    offers.push(Offer { frame: base.frame.first, bytes: 0, anchored: false, work_kib });
                    places.insert(base.frame.first, offers.len() - 1);
                    offers.len() - 1
                }
            };
            offers[place].bytes += u64::from(base.chunk().len);
            offers[place].anchored |= number < anchored;
        }
        Ok(offers)
    }

    fn submit(&mut self, kind: Kind, group: Group) -> Result<(), RepoError> {
        let Group { raw, chunks, bases, base_work_kib, .. } = group;
        self.pipeline.submit(Job { kind, raw, chunks, bases, base_work_kib })
    }

    /// What was learnt of similar chunks.
    pub fn similar_table(&self) -> &SimilarTable {
        &self.similar
    }

    /// Hands on what is left, waits until every pack is written, and returns the bytes of packs written.
    pub fn finish(&mut self) -> Result<u64, RepoError> {
        for index in 0..self.groups.len() {
            let kind = self.groups[index].0;
            let group = std::mem::take(&mut self.groups[index].2);
            if !group.chunks.is_empty() {
                self.submit(kind, group)?;
            }
        }
        self.pipeline.finish()
    }
}
