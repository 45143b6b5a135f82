//! What tells a writer that a chunk is new without asking SQLite: bits in memory, set for all chunks that are there.
//!
//! It is made a region of ids at a time, once a region has been asked in vain so often that reading its entries pays. What
//! this process and others add later follows by their numbers ([`Filter::seen`]). What is removed stays in it.
//!
//! Invariant: it only ever decides whether SQLite is asked. If it lacks a chunk that another process has added since, that
//! chunk is stored a second time; nothing that reads, marks or removes asks it. Memory: at most [`BYTES`].

use crate::format::ChunkId;
use crate::repo::error::RepoError;
use crate::repo::index::rows::{frame_row, frames};
use crate::repo::index::{ChunkNo, FrameInfo, Index, Location, places};

/// What all regions take at most.
const BYTES: usize = 96 << 20;
/// About so many chunks make a region.
const REGION: u64 = 32 << 10;
/// A region is read after so many questions in vain.
const ASKED: u16 = 64;
/// Bits for each chunk there is room for; fewer where so many would not fit.
const BITS_PER_CHUNK: u64 = 12;
/// Bits that are set for each chunk, all in one block.
const BITS: u32 = 6;
/// Ids are told apart by so many bits here.
const PREFIX_BITS: u32 = 48;

/// A block is what a processor reads from memory at once.
type Block = [u64; 8];

/// The filter of one index.
pub(super) struct Filter {
    regions: Vec<Region>,
    /// Chunks with numbers below this are in every region that has been read.
    seen: ChunkNo,
    /// Chunks that there were when regions were laid out.
    chunks: u64,
    bits_per_chunk: u64,
    bytes: usize,
}

enum Region {
    /// Not read yet, and asked in vain so often.
    Asked(u16),
    Read(Bits),
    /// There is no memory for it.
    Left,
}

struct Bits {
    blocks: Vec<Block>,
    chunks: u64,
    room: u64,
}

/// So many chunks there is room for where there are so many: some are added.
fn room(chunks: u64) -> u64 {
    (chunks + chunks / 4).max(1024)
}

impl Filter {
    /// Lays regions out for so many chunks, whose numbers are below `seen`.
    pub(super) fn new(chunks: u64, seen: ChunkNo) -> Self {
        let regions = (chunks / REGION).next_power_of_two().min(1 << 16);
        let regions = (0..regions).map(|_| Region::Asked(0)).collect();
        let bits_per_chunk = (BYTES as u64 * 8 / room(chunks)).clamp(BITS_PER_CHUNK / 2, BITS_PER_CHUNK);
        Filter { regions, seen, chunks, bits_per_chunk, bytes: 0 }
    }

    /// Whether there are so many chunks by now that regions should be laid out anew.
    pub(super) fn is_outgrown(&self, chunks: u64) -> bool {
        chunks > (4 * self.chunks).max(2 * REGION)
    }

    fn region(&self, prefix: u64) -> usize {
        (prefix >> (PREFIX_BITS - self.regions.len().trailing_zeros())) as usize
    }

    /// False only for a chunk that was not there.
    pub(super) fn may_have(&self, prefix: u64) -> bool {
        match &self.regions[self.region(prefix)] {
            Region::Read(bits) => bits.has(prefix),
            Region::Asked(_) | Region::Left => true,
        }
    }

    /// Notes that SQLite was asked in vain. Returns the range of ids, by their first 32 bits, that should be read now.
    pub(super) fn asked_in_vain(&mut self, prefix: u64) -> Option<(u64, u64)> {
        let (at, size) = (self.region(prefix), (1 << 32) / self.regions.len() as u64);
        match &mut self.regions[at] {
            Region::Asked(times) => {
                *times += 1;
                (*times >= ASKED).then_some((at as u64 * size, (at as u64 + 1) * size))
            }
            Region::Read(_) | Region::Left => None,
        }
    }

    /// Fills the region of `prefix` with all that is in it.
    pub(super) fn fill(&mut self, prefix: u64, chunks: &[u64]) {
        let at = self.region(prefix);
        let bits = Bits::of(chunks, self.bits_per_chunk);
        let bytes = size_of_val(bits.blocks.as_slice());
        self.regions[at] = if self.bytes + bytes <= BYTES {
            self.bytes += bytes;
            Region::Read(bits)
        } else {
            Region::Left
        };
    }

    /// Whether [`Filter::add`] does anything.
    pub(super) fn is_used(&self) -> bool {
        self.bytes > 0
    }

    /// Adds a chunk.
    pub(super) fn add(&mut self, prefix: u64) {
        let at = self.region(prefix);
        let Region::Read(bits) = &mut self.regions[at] else { return };
        bits.set(prefix);
        if bits.chunks > bits.room {
            // Too full to say no often. It is read again when it is asked again.
            self.bytes -= size_of_val(bits.blocks.as_slice());
            self.regions[at] = Region::Asked(0);
        }
    }
}

impl Bits {
    fn of(chunks: &[u64], bits_per_chunk: u64) -> Self {
        let room = room(chunks.len() as u64);
        let blocks = (room * bits_per_chunk).div_ceil(8 * size_of::<Block>() as u64);
        let mut bits = Bits { blocks: vec![[0; 8]; blocks as usize], chunks: 0, room };
        chunks.iter().for_each(|prefix| bits.set(*prefix));
        bits
    }

    /// Its block, and what says which bits of that.
    fn place(&self, prefix: u64) -> (usize, u64) {
        let mixed = prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let block = ((mixed >> 32) * self.blocks.len() as u64) >> 32;
        (block as usize, (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    fn bits(mut which: u64) -> impl Iterator<Item = (usize, u64)> {
        (0..BITS).map(move |_| {
            let bit = which >> 55;
            which <<= 9;
            ((bit >> 6) as usize, 1 << (bit & 63))
        })
    }

    fn set(&mut self, prefix: u64) {
        let (block, which) = self.place(prefix);
        Self::bits(which).for_each(|(word, bit)| self.blocks[block][word] |= bit);
        self.chunks += 1;
    }

    fn has(&self, prefix: u64) -> bool {
        let (block, which) = self.place(prefix);
        Self::bits(which).all(|(word, bit)| self.blocks[block][word] & bit != 0)
    }
}

impl Index {
    /// [`Index::find`] for a writer, most of whose chunks are new: those are seldom looked up. One that another process has added
    /// since this one last added a pack may be missed.
    pub fn find_for_writing(&self, id: &ChunkId) -> Result<Vec<Location>, RepoError> {
        let prefix = places::prefix(id);
        if self.filter().as_ref().is_some_and(|filter| !filter.may_have(prefix)) {
            return Ok(Vec::new());
        }
        let found = self.find(id)?;
        if found.is_empty() {
            self.asked_in_vain(prefix)?;
        }
        Ok(found)
    }

    fn asked_in_vain(&self, prefix: u64) -> Result<(), RepoError> {
        let mut filter = self.filter();
        if filter.is_none() {
            // What is added from here on is caught up with, so the numbers come first.
            let seen = self.number_limit()?;
            *filter = Some(Filter::new(places::total(&self.lock()).map_err(self.failed())?, seen));
        }
        let Some(filter) = filter.as_mut() else { return Ok(()) };
        if let Some((from, end)) = filter.asked_in_vain(prefix) {
            let mut chunks = Vec::new();
            let mut connection = self.lock();
            // As of one moment: another process may move entries meanwhile.
            let transaction = connection.transaction().map_err(self.failed())?;
            places::visit(&transaction, from, end, &mut |prefix, _| chunks.push(prefix)).map_err(self.failed())?;
            filter.fill(prefix, &chunks);
        }
        Ok(())
    }

    /// Adds to the filter what has been added to the index, by whatever process.
    pub(super) fn catch_up(&self) -> Result<(), RepoError> {
        let mut filter = self.filter();
        let Some(known) = filter.as_mut().filter(|filter| filter.is_used()) else { return Ok(()) };
        loop {
            // Rows that are damaged are for those who need them.
            let Ok(page) = self.frames_from(known.seen) else {
                *filter = None;
                return Ok(());
            };
            let Some(last) = page.last() else { break };
            known.seen = last.first + last.entry.chunks.len() as u64;
            page.iter().flat_map(|frame| &frame.entry.chunks).for_each(|chunk| known.add(places::prefix(&chunk.id)));
        }
        let chunks = places::total(&self.lock()).map_err(self.failed())?;
        if known.is_outgrown(chunks) {
            *filter = None;
        }
        Ok(())
    }

    fn frames_from(&self, first: ChunkNo) -> Result<Vec<FrameInfo>, RepoError> {
        let connection = self.lock();
        let sql = frames!("WHERE first >= ?1 ORDER BY first LIMIT 256");
        let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
        let rows = statement.query_map([first], frame_row).map_err(self.failed())?;
        rows.collect::<Result<_, _>>().map_err(self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;

    fn prefixes(count: u64) -> Vec<u64> {
        (1..=count).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16).collect()
    }

    fn filled(chunks: &[u64]) -> Filter {
        let mut filter = Filter::new(chunks.len() as u64, chunks.len() as u64);
        for prefix in chunks {
            while let Some((from, end)) = filter.asked_in_vain(*prefix) {
                let inside = |prefix: &&u64| (from..end).contains(&(**prefix >> 16));
                let all: Vec<u64> = chunks.iter().filter(inside).copied().collect();
                filter.fill(*prefix, &all);
            }
        }
        filter
    }

    #[test]
    fn what_is_there_is_never_denied_and_little_else_is_affirmed() {
        let all = prefixes(400_000);
        let (there, others) = all.split_at(200_000);
        let mut filter = filled(there);
        assert!(there.iter().all(|prefix| filter.may_have(*prefix)));
        let wrong = others.iter().filter(|prefix| filter.may_have(**prefix)).count();
        assert!(wrong < others.len() / 50, "{wrong} of {}", others.len());
        // Whatever is added, also when a region has to be read again.
        for prefix in others {
            filter.add(*prefix);
            assert!(filter.may_have(*prefix));
        }
        assert!(all.iter().all(|prefix| filter.may_have(*prefix)));
    }

    #[test]
    fn what_was_not_read_is_not_denied() {
        let filter = Filter::new(1 << 20, 0);
        assert!(prefixes(100_000).iter().all(|prefix| filter.may_have(*prefix)));
    }
}
