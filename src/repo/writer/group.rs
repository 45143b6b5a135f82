//! Groups: new runs on their way to become one frame, with the chunks that they may be a delta of.
//!
//! Invariant: what a reader has to decode for the bases of a group is bounded, however deep those lie and however far they
//! are spread. Runs come with more bases than may be read for them; those frames are taken that give most for their cost.

use std::cmp::Reverse;
use std::collections::HashSet;

use crate::format::pack::ChunkEntry;
use crate::repo::index::Location;
use crate::repo::writer::lane::Run;

/// Raw bytes after which a frame is handed on.
const FRAME_BYTES: usize = 1 << 20;
/// What a group mostly has when it is handed on.
pub const USUAL_GROUP: usize = FRAME_BYTES + FRAME_BYTES / 4;
/// Bytes of bases after which a delta frame is handed on.
const FRAME_BASE_BYTES: usize = 4 << 20;
/// Chunks, or bases, after which a frame is handed on.
const FRAME_CHUNKS: usize = 8 << 10;
/// Frames that bases lie in after which a delta frame is handed on: more would be decoded for a little of each.
const BASE_FRAMES: usize = 16;

/// What reading the bases of one frame may cost, in KiB, unless less is asked for: 60 MiB are decoded in 40 ms. Four real dumps
/// took 18.9 MB without a limit, and a restore decoded 4.6 times the dump; 18.0 MB and 2.0 times with this one, 18.8 MB and 2.2
/// times with half of it.
pub const BASE_WORK_KIB: u32 = 60 << 10;

/// Bytes that may be decoded for one byte of a base that only resembles what is new.
const WORTH: u64 = 64;

/// A frame that bases of a run lie in.
pub struct Offer {
    /// The number of its first chunk.
    pub frame: u64,
    /// Bytes of the bases in it.
    pub bytes: u64,
    /// Whether one of them stands in the parent where the run stands, so that it most probably is what the run was.
    pub anchored: bool,
    /// What reading it costs ([`Index::work_kib`](crate::repo::index::Index::work_kib)).
    pub work_kib: u32,
}

impl Offer {
    /// A chunk of a small file that only resembles another one saves less than it costs to decode a whole frame for it.
    fn is_worth_it(&self) -> bool {
        self.anchored || self.bytes * WORTH >= u64::from(self.work_kib) << 10
    }
}

/// What becomes a frame.
#[derive(Default)]
pub struct Group {
    /// The runs' bytes.
    pub raw: Vec<u8>,
    /// Their chunks.
    pub chunks: Vec<ChunkEntry>,
    /// What they may be a delta of.
    pub bases: Vec<Location>,
    /// What reading the frames of the bases costs.
    pub base_work_kib: u32,
    base_numbers: HashSet<u64>,
    base_frames: HashSet<u64>,
    base_bytes: usize,
}

impl Group {
    /// Whether it is handed on as it is.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= FRAME_BYTES
            || self.base_bytes >= FRAME_BASE_BYTES
            || self.chunks.len() >= FRAME_CHUNKS
            || self.bases.len() >= FRAME_CHUNKS
            || self.base_frames.len() >= BASE_FRAMES
    }

    /// Whether a run with bases in these frames would cost too much here, so that it is better off in a group of its own.
    pub fn costs_too_much_with(&self, offers: &[Offer], limit_kib: u32) -> bool {
        let new = offers.iter().filter(|offer| !self.base_frames.contains(&offer.frame));
        let work_kib = new.fold(self.base_work_kib, |sum, offer| sum.saturating_add(offer.work_kib));
        !self.base_frames.is_empty() && work_kib > limit_kib
    }

    /// Takes a run, and of its bases those that may still be read for it: first from the frames that have most of them for
    /// what they cost.
    pub fn add(&mut self, run: &Run, bases: Vec<Location>, mut offers: Vec<Offer>, limit_kib: u32) {
        self.raw.extend_from_slice(&run.raw);
        self.chunks.extend_from_slice(&run.chunks);
        offers.sort_by_key(|offer| Reverse((offer.bytes << 20) / u64::from(offer.work_kib.max(1))));
        for offer in offers.iter().filter(|offer| offer.is_worth_it()) {
            let work_kib = self.base_work_kib.saturating_add(offer.work_kib);
            if work_kib <= limit_kib && self.base_frames.insert(offer.frame) {
                self.base_work_kib = work_kib;
            }
        }
        for base in bases {
            if self.base_frames.contains(&base.frame.first) && self.base_numbers.insert(base.number()) {
                self.base_bytes += base.chunk().len as usize;
                self.bases.push(base);
            }
        }
    }
}
