//! Which chunks stay. Memory: one bit a chunk, and the numbers of the condemned packs.

use std::collections::HashSet;

use crate::format::ChunkId;
use crate::format::frame::MAX_DEPTH;
use crate::repo::Repository;
use crate::repo::bitmap::Bitmap;
use crate::repo::error::RepoError;
use crate::repo::index::{FrameInfo, PackInfo};

/// The chunks that stay, and the packs that do not.
pub struct Keep {
    kept: Bitmap,
    condemned: HashSet<u64>,
    /// Copies that were read, because their chunk has several.
    readable: Bitmap,
    /// Whether a frame that stays needs a base that is in no usable pack.
    lacks_base: bool,
}

impl Keep {
    /// What is reached stays; no pack is condemned yet.
    pub fn new(reached: Bitmap) -> Self {
        Keep { kept: reached, condemned: HashSet::new(), readable: Bitmap::default(), lacks_base: false }
    }

    /// Condemns packs; [`Keep::acquit`] takes one back.
    pub fn condemn_all(&mut self, packs: &[PackInfo]) {
        self.condemned.extend(packs.iter().map(|pack| pack.no));
    }

    /// Whether a pack goes.
    pub fn is_condemned(&self, pack: u64) -> bool {
        self.condemned.contains(&pack)
    }

    /// A pack stays after all, with all that is in it.
    pub fn acquit(&mut self, repository: &Repository, pack: &PackInfo) -> Result<(), RepoError> {
        self.condemned.remove(&pack.no);
        self.keep_pack(repository, pack.no)
    }

    /// Everything in a pack stays.
    pub fn keep_pack(&mut self, repository: &Repository, pack: u64) -> Result<(), RepoError> {
        for frame in frames_of(repository, pack)? {
            for number in frame.first..frame.first + frame.entry.chunks.len() as u64 {
                self.kept.insert(number);
            }
        }
        Ok(())
    }

    /// A chunk stays.
    pub fn insert(&mut self, number: u64) {
        self.kept.insert(number);
    }

    /// Whether a chunk stays.
    pub fn contains(&self, number: u64) -> bool {
        self.kept.contains(number)
    }

    /// Adds the bases of every frame of which something stays. Bases lie in frames of smaller depth, so one pass from
    /// the greatest depth down reaches all.
    pub fn close(&mut self, repository: &Repository) -> Result<(), RepoError> {
        for depth in (1..=MAX_DEPTH).rev() {
            repository.index().frames_of_depth(depth, &mut |frame| {
                if !self.keeps_some(&frame) {
                    return Ok(());
                }
                for base in &frame.entry.bases {
                    self.keep_base(repository, base, depth)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Keeps a copy of a base that can be read; all of them if none can. A base that is in no usable pack cannot be lost
    /// by removing others.
    fn keep_base(&mut self, repository: &Repository, base: &ChunkId, depth: u8) -> Result<(), RepoError> {
        let mut copies = repository.index().find(base)?;
        copies.retain(|copy| copy.frame.entry.depth < depth);
        if let [copy] = copies.as_slice() {
            self.kept.insert(copy.number());
            return Ok(());
        }
        self.lacks_base |= copies.is_empty();
        // Those that stay anyway come first.
        copies.sort_by_key(|copy| !self.contains(copy.number()));
        for copy in &copies {
            if self.readable.contains(copy.number()) || repository.frames().is_readable(copy)? {
                self.readable.insert(copy.number());
                self.kept.insert(copy.number());
                return Ok(());
            }
        }
        for copy in &copies {
            self.kept.insert(copy.number());
        }
        Ok(())
    }

    /// Whether [`Keep::close`] met a base that is in no usable pack.
    pub fn lacks_base(&self) -> bool {
        self.lacks_base
    }

    fn keeps_some(&self, frame: &FrameInfo) -> bool {
        (0..frame.entry.chunks.len() as u64).any(|position| self.contains(frame.first + position))
    }

    /// About how many stored bytes of a pack are dead: each frame's, in proportion to its dead raw bytes.
    pub fn dead_bytes(&self, repository: &Repository, pack: &PackInfo) -> Result<u64, RepoError> {
        let mut dead = 0;
        for frame in frames_of(repository, pack.no)? {
            let raw: u64 = frame.entry.raw_len() as u64;
            let lens = frame.entry.chunks.iter().zip(frame.first..);
            let dead_raw: u64 =
                lens.filter(|(_, number)| !self.contains(*number)).map(|(chunk, _)| u64::from(chunk.len)).sum();
            dead += u64::from(frame.entry.stored_len) * dead_raw / raw.max(1);
        }
        Ok(dead)
    }

    /// Whether nothing of a pack stays.
    pub fn is_all_dead(&self, repository: &Repository, pack: &PackInfo) -> Result<bool, RepoError> {
        Ok(!frames_of(repository, pack.no)?.iter().any(|frame| self.keeps_some(frame)))
    }
}

/// The frames of a pack. That it is not in the index any more does not mean that nothing in it is needed: only a collector
/// removes packs, and this is the one, so somebody has changed the index.
pub fn frames_of(repository: &Repository, pack: u64) -> Result<Vec<FrameInfo>, RepoError> {
    let frames = repository.index().frames_of_pack(pack)?;
    if frames.is_empty() && repository.index().pack(pack)?.is_none() {
        return Err(RepoError::IndexChanged);
    }
    Ok(frames)
}
