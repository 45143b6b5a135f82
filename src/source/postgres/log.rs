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

/// Reads segments, one after another, each in pieces of any length. No more than a page is kept.
#[derive(Debug)]
pub struct LogReader {
    segment_size: u64,
    /// Where the segment begins that is being pushed, and how much of it was.
    segment: u64,
    pushed: u64,
    /// What was pushed of a page that is not whole.
    rest: Vec<u8>,
    /// The next byte that says something.
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
        let segment = number.saturating_mul(segment_size);
        let (rest, at) = (Vec::new(), segment);
        LogReader { segment_size, segment, pushed: 0, rest, at, before: None, record: None, remaining: 0, ended: false }
    }

    /// Where the log ended that was read, if it did.
    pub fn end(&self) -> Option<u64> {
        self.ended.then_some(self.at)
    }

    /// Reads on in the segment; `found` hears of the records that end transactions, in order. After the end there is nothing.
    pub fn push(&mut self, mut bytes: &[u8], found: &mut dyn FnMut(End)) {
        let mut address = self.segment.saturating_add(self.pushed - self.rest.len() as u64);
        self.pushed = self.pushed.saturating_add(bytes.len() as u64);
        // Nothing is behind the last position that there is, so that no sum of positions is too large.
        if self.pushed > self.segment_size || self.segment.checked_add(self.segment_size).is_none() {
            self.ended = true;
        }
        while !self.ended && !bytes.is_empty() {
            let wanted = PAGE as usize - self.rest.len();
            let (piece, others) = bytes.split_at(wanted.min(bytes.len()));
            bytes = others;
            if piece.len() == PAGE as usize {
                self.page(address, piece, found);
            } else {
                self.rest.extend_from_slice(piece);
                if piece.len() < wanted {
                    return;
                }
                let page = std::mem::take(&mut self.rest);
                self.page(address, &page, found);
            }
            address += PAGE;
        }
    }

    /// The segment was pushed to its end; whether it has the length that it must have. What was found in one that has not
    /// says nothing.
    pub fn close(&mut self) -> bool {
        let is_whole = self.pushed == self.segment_size;
        self.ended |= !is_whole;
        self.segment = self.segment.saturating_add(self.segment_size);
        self.pushed = 0;
        self.rest.clear();
        is_whole
    }

    fn page(&mut self, address: u64, page: &[u8], found: &mut dyn FnMut(End)) {
        // The rest of a segment that the server left early says nothing.
        if self.at > address {
            return;
        }
        let first = address == self.segment && self.before.is_none() && self.record.is_none();
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
    fn finish(&mut self, found: &mut dyn FnMut(End)) {
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
                if let Some(time) = ended_at(&head) {
                    found(End { time, lsn });
                }
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
