//! The write-ahead log, as far as it must be understood to say which moments it reaches: the records that end a
//! transaction, with their time and position.
//!
//! A recovery to a time stops before the first record that ends a transaction after it. So whether a log reaches a time,
//! and where a recovery to it has to stop, can be said before anything is begun, and be compared with what was done.
//!
//! Invariant: nothing is read beyond what its server wrote as one chain: each page must say its own position, and each
//! record the position of the one before it; what does not is the end of the log. The form of pages and of these records
//! is the same from version 11 to 17.

use jiff::Timestamp;

const PAGE: u64 = 8 << 10;
/// What a page begins with, and what the first of a segment does.
const SHORT: usize = 24;
const LONG: usize = 40;
/// Flags of a page: it goes on with a record; its header is long; a record that was cut off is not continued.
const CONTINUES: u16 = 1;
const IS_LONG: u16 = 2;
const OVERWRITES: u16 = 8;
/// A record's header, and what is kept of a record: the records wanted are known by their beginning.
const HEADER: usize = 24;
const KEPT: usize = 80;
/// No record is longer.
const MAX_RECORD: u64 = 1 << 30;
/// Resource managers, and what their records are.
const OF_LOG: u8 = 0;
const OF_TRANSACTIONS: u8 = 1;
const SWITCH: u8 = 0x40;
/// From 1970 to 2000 in microseconds: PostgreSQL's times begin then.
const EPOCH: i64 = 946_684_800_000_000;

/// A record that ends a transaction, by commit or by abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When, by the clock of the server.
    pub time: Timestamp,
    /// Where the record begins; a page's header before it counts as a part of it.
    pub lsn: u64,
}

/// A position just after a page's header means the same as the page's beginning: nothing lies between.
pub fn without_header(position: u64, segment_size: u64) -> u64 {
    let header = if position % segment_size < PAGE { LONG } else { SHORT };
    if position % PAGE == header as u64 { position - header as u64 } else { position }
}

/// Reads segments, one after another.
#[derive(Debug)]
pub struct LogReader {
    segment_size: u64,
    /// The next byte.
    at: u64,
    /// The record before, if it was seen.
    before: Option<u64>,
    /// The record that is being read; `None` before the first whole one.
    record: Option<Record>,
    /// Bytes of it that are still to come.
    remaining: u64,
    ended: bool,
}

#[derive(Debug)]
struct Record {
    start: u64,
    head: Vec<u8>,
}

impl LogReader {
    /// Begins at the segment with this number. What its first record was begun before it is passed over.
    pub fn new(number: u64, segment_size: u64) -> Self {
        let at = number.saturating_mul(segment_size);
        LogReader { segment_size, at, before: None, record: None, remaining: 0, ended: false }
    }

    /// Where the log ended that was read, if it did.
    pub fn end(&self) -> Option<u64> {
        self.ended.then_some(self.at)
    }

    /// Reads the next segment; the records in it that end transactions, in order. After the end there is nothing.
    pub fn segment(&mut self, bytes: &[u8]) -> Vec<End> {
        let mut found = Vec::new();
        let (begin, first) = (self.at - self.at % self.segment_size, self.before.is_none() && self.record.is_none());
        if bytes.len() as u64 != self.segment_size {
            self.ended = true;
        }
        for (index, page) in bytes.chunks_exact(PAGE as usize).enumerate() {
            let address = begin + index as u64 * PAGE;
            // The rest of a segment that the server left early says nothing.
            if self.ended || self.at > address {
                break;
            }
            self.page(address, page, first && index == 0, &mut found);
        }
        found
    }

    fn page(&mut self, address: u64, page: &[u8], first: bool, found: &mut Vec<End>) {
        let info = u16_at(page, 2).unwrap_or_default();
        let is_long = info & IS_LONG != 0;
        let header = if is_long { LONG } else { SHORT };
        let continued = u64::from(u32_at(page, 16).unwrap_or_default());
        let is_meant = u64_at(page, 8) == Some(address) && is_long == address.is_multiple_of(self.segment_size);
        if info & OVERWRITES != 0 {
            (self.record, self.remaining) = (None, 0);
            self.before = None;
        } else if first && info & CONTINUES != 0 {
            self.remaining = continued;
        }
        let expected = if info & CONTINUES != 0 { continued } else { 0 };
        if !is_meant || expected != self.remaining || self.remaining > MAX_RECORD {
            self.ended = true;
            return;
        }
        self.at = address + header as u64;
        let end = address + PAGE;
        while self.at < end && !self.ended {
            let rest = &page[(self.at - address) as usize..];
            if self.remaining == 0 && !self.begin(rest) {
                return;
            }
            let taken = self.remaining.min(rest.len() as u64);
            if let Some(record) = &mut self.record {
                let room = KEPT.saturating_sub(record.head.len()).min(taken as usize);
                record.head.extend_from_slice(&rest[..room]);
            }
            self.remaining -= taken;
            self.at += taken;
            if self.remaining == 0 {
                self.finish(found);
            }
        }
    }

    /// Begins a record; false if there is none.
    fn begin(&mut self, rest: &[u8]) -> bool {
        let length = u64::from(u32_at(rest, 0).unwrap_or_default());
        if length < HEADER as u64 || length > MAX_RECORD {
            self.ended = true;
            return false;
        }
        self.record = Some(Record { start: self.at, head: Vec::with_capacity(KEPT) });
        self.remaining = length;
        true
    }

    /// The record is whole.
    fn finish(&mut self, found: &mut Vec<End>) {
        // The next one begins at a multiple of eight; at the end of a page this is the next page.
        self.at = self.at.next_multiple_of(8);
        let Some(Record { start, head }) = self.record.take() else { return };
        let linked = self.before.is_none_or(|before| u64_at(&head, 8) == Some(before));
        let (Some(info), Some(manager), true) = (head.get(16), head.get(17), linked) else {
            (self.at, self.ended) = (start, true);
            return;
        };
        self.before = Some(start);
        match *manager {
            OF_LOG if info & 0xF0 == SWITCH => self.at = self.at.next_multiple_of(self.segment_size),
            // Commit, abort, and both of a prepared transaction.
            OF_TRANSACTIONS if matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) => {
                let lsn = without_header(start, self.segment_size);
                found.extend(ended_at(&head).map(|time| End { time, lsn }));
            }
            _ => {}
        }
    }
}

/// The time in a record that ends a transaction: what its data begins with.
fn ended_at(head: &[u8]) -> Option<Timestamp> {
    let mut at = HEADER;
    let data = loop {
        match head.get(at)? {
            // Where it was replicated from, and the transaction that it is a part of.
            253 => at += 3,
            252 => at += 5,
            255 => break at + 2,
            254 => break at + 5,
            _ => return None,
        }
    };
    let bytes: [u8; 8] = head.get(data..data + 8)?.try_into().ok()?;
    Timestamp::from_microsecond(i64::from_le_bytes(bytes).checked_add(EPOCH)?).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
