//! The frames that were looked up last, so that neighbours are found without asking SQLite and decoding a row again.
//!
//! Invariant: rows never change, so what is remembered stays true for as long as its pack is there; whoever removes packs
//! forgets all of it. Memory: at most [`BYTES`], counted by what the frames' entries take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::format::pack::ChunkEntry;
use crate::repo::index::{ChunkNo, FrameInfo};

/// What is kept at most: at 32 KiB a chunk the frames of about 6 GiB.
const BYTES: usize = 4 << 20;

/// Frames by the numbers of their chunks. The oldest goes first.
#[derive(Default)]
pub(super) struct RecentFrames {
    frames: BTreeMap<ChunkNo, Arc<FrameInfo>>,
    order: VecDeque<ChunkNo>,
    bytes: usize,
}

impl RecentFrames {
    /// The frame that holds the chunk of this number.
    pub(super) fn find(&self, number: ChunkNo) -> Option<Arc<FrameInfo>> {
        let (_, frame) = self.frames.range(..=number).next_back()?;
        frame.holds(number).then(|| frame.clone())
    }

    /// Remembers a frame.
    pub(super) fn insert(&mut self, frame: Arc<FrameInfo>) {
        let (first, bytes) = (frame.first, size(&frame));
        if self.frames.insert(first, frame).is_none() {
            self.order.push_back(first);
            self.bytes += bytes;
        }
        while self.bytes > BYTES {
            let Some(gone) = self.order.pop_front().and_then(|first| self.frames.remove(&first)) else { return };
            self.bytes -= size(&gone);
        }
    }
}

fn size(frame: &FrameInfo) -> usize {
    size_of::<FrameInfo>() + frame.entry.chunks.len() * size_of::<ChunkEntry>() + frame.entry.bases.len() * 16
}
