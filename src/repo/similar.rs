//! Finding a stored chunk that resembles a new one, wherever it stood: rows that moved, records written again.
//!
//! Each chunk has a sketch of [`FEATURES`] min-hashes over its 64-byte windows (Broder's resemblance; windows sampled
//! by content as in Odess, Zou et al., ICDE 2021). A bounded table remembers which recent chunk had a feature; the
//! stored chunk that shares most features with a new one becomes a delta base.
//!
//! Invariant: the table only ever proposes. It is kept in the cache directory, it can be lost or stale, two processes
//! may overwrite each other's, and nothing but compression depends on it.

use std::cmp::Reverse;

use crate::format::ChunkId;

/// Features a chunk.
pub const FEATURES: usize = 8;
/// Chunks remembered: the last ones written. 16 bytes each.
const CHUNKS: usize = 128 << 10;
/// Bytes of one encoded row.
const ROW: usize = ChunkId::LEN + 4 * FEATURES;
/// One window in 2^5 is looked at.
const SAMPLE_BITS: u32 = 5;

const MAGIC: [u8; 8] = *b"CSIMILA1";

/// A chunk's min-hashes.
pub type Sketch = [u32; FEATURES];

/// Odd multipliers of the min-hashes' permutations (from the fractional part of square roots of primes).
const MULTIPLIERS: [u64; FEATURES] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// The sketch of a chunk.
pub fn sketch(gear: &[u64; 256], raw: &[u8]) -> Sketch {
    let mut least = [u64::MAX; FEATURES];
    let mut hash = 0u64;
    for byte in raw {
        hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
        // The high bits depend on all 64 bytes of the window.
        if hash >> (64 - SAMPLE_BITS) == 0 {
            for (least, multiplier) in least.iter_mut().zip(MULTIPLIERS) {
                *least = (*least).min(hash.wrapping_mul(multiplier).rotate_left(29));
            }
        }
    }
    least.map(|value| (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32)
}

/// Which recent chunks had which feature: the first one, and the last. At most 14 MiB.
///
/// The last one is most like what comes next, and most often a delta itself. Where only that is known, each version of a
/// chunk is a delta to the one before, until they are as deep as they may be and a whole one is stored again. The first one
/// mostly is whole.
pub struct SimilarTable {
    /// Positions in `chunks`, plus one; 0 is empty. Whether the chunk there has the feature is seen from its sketch.
    firsts: Vec<u32>,
    /// The same.
    lasts: Vec<u32>,
    chunks: Vec<(ChunkId, Sketch)>,
    next: usize,
}

impl Default for SimilarTable {
    fn default() -> Self {
        let slots = vec![0; CHUNKS * FEATURES];
        SimilarTable { firsts: slots.clone(), lasts: slots, chunks: Vec::new(), next: 0 }
    }
}

impl SimilarTable {
    fn slot(index: usize, feature: u32) -> usize {
        // Each feature has its own part of the table, so equal values of different features do not meet.
        index * CHUNKS + feature as usize % CHUNKS
    }

    /// The position in a slot, if the chunk there has this feature.
    fn holder(&self, slot: u32, index: usize, feature: u32) -> Option<usize> {
        let position = (slot as usize).checked_sub(1)?;
        (self.chunks.get(position)?.1[index] == feature).then_some(position)
    }

    /// Remembers a chunk, in the place of the oldest when the table is full.
    pub fn insert(&mut self, id: ChunkId, sketch: Sketch) {
        let position = self.next;
        if position < self.chunks.len() {
            self.chunks[position] = (id, sketch);
        } else {
            self.chunks.push((id, sketch));
        }
        self.next = (position + 1) % CHUNKS;
        for (index, feature) in sketch.into_iter().enumerate() {
            let slot = Self::slot(index, feature);
            if self.holder(self.firsts[slot], index, feature).is_none() {
                self.firsts[slot] = position as u32 + 1;
            }
            self.lasts[slot] = position as u32 + 1;
        }
    }

    /// The chunks that share most features with the sketch, the best first, at most `limit`.
    pub fn find(&self, sketch: &Sketch, limit: usize) -> Vec<ChunkId> {
        let mut votes: Vec<(usize, usize)> = Vec::with_capacity(2 * FEATURES);
        for (index, feature) in sketch.iter().enumerate() {
            let slot = Self::slot(index, *feature);
            let first = self.holder(self.firsts[slot], index, *feature);
            let last = self.holder(self.lasts[slot], index, *feature);
            for position in first.into_iter().chain(last.filter(|last| Some(*last) != first)) {
                match votes.iter_mut().find(|(other, _)| *other == position) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((position, 1)),
                }
            }
        }
        votes.sort_unstable_by_key(|(position, count)| Reverse((*count, *position)));
        votes.iter().take(limit).filter_map(|(position, _)| self.chunks.get(*position).map(|chunk| chunk.0)).collect()
    }

    /// Says that a chunk cannot be a base: another one counts as the first with its features from now on.
    pub fn reject(&mut self, id: &ChunkId, sketch: &Sketch) {
        for (index, feature) in sketch.iter().enumerate() {
            let slot = Self::slot(index, *feature);
            let first = self.holder(self.firsts[slot], index, *feature);
            if first.is_some_and(|position| self.chunks[position].0 == *id) {
                self.firsts[slot] = 0;
            }
        }
    }

    /// The table as bytes: `magic:8 next:u32 (id:16 feature:u32 x 8)*`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(self.next as u32).to_le_bytes());
        for (id, sketch) in &self.chunks {
            out.extend_from_slice(id.as_bytes());
            sketch.iter().for_each(|feature| out.extend_from_slice(&feature.to_le_bytes()));
        }
        out
    }

    /// Reads what [`SimilarTable::encode`] wrote; anything else gives an empty table.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut table = SimilarTable::default();
        let Some((header, rows)) = bytes.split_at_checked(12) else { return table };
        if header[..8] != MAGIC || rows.len() > CHUNKS * ROW {
            return table;
        }
        // The oldest row comes first, so that it counts as first again.
        let next = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let (newer, older) = rows.split_at((next * ROW).min(rows.len()));
        for row in older.chunks_exact(ROW).chain(newer.chunks_exact(ROW)) {
            let (id, features) = row.split_at(ChunkId::LEN);
            let Ok(id) = ChunkId::from_slice(id) else { break };
            let mut sketch = [0; FEATURES];
            for (feature, bytes) in sketch.iter_mut().zip(features.chunks_exact(4)) {
                *feature = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            table.insert(id, sketch);
        }
        table
    }

    /// The longest encoding.
    pub const MAX_ENCODED: usize = 12 + CHUNKS * ROW;
}
