//! Write-ahead logs as PostgreSQL writes them, made without one: pages, records that go on over pages and segments,
//! segments that are left early, timelines that begin from another.

use std::collections::BTreeMap;

use jiff::Timestamp;

pub const SEGMENT: u64 = 1 << 20;
const PAGE: u64 = 8 << 10;
/// From 1970 to 2000 in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// The log of one timeline.
#[derive(Clone)]
pub struct Writer {
    pub timeline: u32,
    /// Its segments by number, the last one not full.
    pub segments: BTreeMap<u64, Vec<u8>>,
    pub at: u64,
    before: u64,
}

impl Writer {
    pub fn new() -> Self {
        Writer { timeline: 1, segments: BTreeMap::new(), at: SEGMENT, before: 0 }
    }

    /// A timeline that begins where the record at a position would have: what was written before is in its first segment.
    pub fn fork(&self, timeline: u32, at: u64, before: u64) -> Self {
        let number = at / SEGMENT;
        let mut first = self.segments[&number].clone();
        first[(at % SEGMENT) as usize..].fill(0);
        Writer { timeline, segments: BTreeMap::from([(number, first)]), at, before }
    }

    /// Writes a record; where it begins, and the one before it.
    pub fn record(&mut self, manager: u8, info: u8, data: &[u8]) -> (u64, u64) {
        self.at = self.at.next_multiple_of(8);
        let mut record = Vec::new();
        record.extend_from_slice(&(24 + data.len() as u32).to_le_bytes());
        record.extend_from_slice(&7u32.to_le_bytes());
        record.extend_from_slice(&self.before.to_le_bytes());
        record.extend_from_slice(&[info, manager, 0, 0, 0, 0, 0, 0]);
        record.extend_from_slice(data);
        self.header(0);
        let (start, before) = (self.at, self.before);
        self.before = start;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.header(rest.len() as u32);
            let room = (PAGE - self.at % PAGE) as usize;
            let piece = rest.len().min(room);
            self.put(&rest[..piece]);
            rest = &rest[piece..];
        }
        (start, before)
    }

    /// The end of a transaction: commit, or abort.
    pub fn end(&mut self, time: Timestamp, abort: bool) -> (u64, u64) {
        let mut data = vec![253, 1, 0, 255, 20];
        data.extend_from_slice(&(time.as_microsecond() - EPOCH).to_le_bytes());
        data.extend_from_slice(&[9; 12]);
        self.record(1, if abort { 0x20 } else { 0x80 }, &data)
    }

    /// Leaves the segment early.
    pub fn switch(&mut self) {
        self.record(0, 0x40, &[]);
        self.at = self.at.next_multiple_of(SEGMENT);
    }

    /// The number of the segment that is written now.
    pub fn number(&self) -> u64 {
        self.at / SEGMENT
    }

    /// A page's header, at its beginning.
    fn header(&mut self, remaining: u32) {
        if !self.at.is_multiple_of(PAGE) {
            return;
        }
        let is_first = self.at.is_multiple_of(SEGMENT);
        let flags = u16::from(remaining > 0) | if is_first { 2 } else { 0 };
        let mut header = Vec::new();
        header.extend_from_slice(&0xD110u16.to_le_bytes());
        header.extend_from_slice(&flags.to_le_bytes());
        header.extend_from_slice(&self.timeline.to_le_bytes());
        header.extend_from_slice(&self.at.to_le_bytes());
        header.extend_from_slice(&remaining.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        if is_first {
            header.extend_from_slice(&[5; 8]);
            header.extend_from_slice(&(SEGMENT as u32).to_le_bytes());
            header.extend_from_slice(&(PAGE as u32).to_le_bytes());
        }
        self.put(&header);
    }

    fn put(&mut self, bytes: &[u8]) {
        let segment = self.segments.entry(self.at / SEGMENT).or_insert_with(|| vec![0; SEGMENT as usize]);
        let at = (self.at % SEGMENT) as usize;
        segment[at..at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len() as u64;
    }
}
