//! Leaves: rows of a level, each with the entries from where it begins to where the next one does.

use rusqlite::{Connection, OptionalExtension, params};

use super::Result;
use crate::format::FormatError;
use crate::repo::index::ChunkNo;
use crate::repo::index::rows::malformed;

/// The first six bytes of an id, then five of its number, all most significant first: so entries are compared as bytes.
pub(super) const ENTRY: usize = 11;
pub(super) const NUMBER_BYTES: usize = 5;
/// Behind the last place of a level: places are told apart by the first 32 bits of ids.
pub(super) const END: u64 = 1 << 32;

/// An entry.
pub(super) type Entry = [u8; ENTRY];

pub(super) fn entry(prefix: u64, number: ChunkNo) -> Entry {
    let mut entry = [0; ENTRY];
    entry[..ENTRY - NUMBER_BYTES].copy_from_slice(&prefix.to_be_bytes()[8 - (ENTRY - NUMBER_BYTES)..]);
    entry[ENTRY - NUMBER_BYTES..].copy_from_slice(&number.to_be_bytes()[8 - NUMBER_BYTES..]);
    entry
}

pub(super) fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// The prefix and the number of an entry.
pub(super) fn parts(entry: &[u8]) -> (u64, ChunkNo) {
    let (prefix, number) = entry.split_at(ENTRY - NUMBER_BYTES);
    (number_of(prefix), number_of(number))
}

/// Where in its level an entry belongs.
pub(super) fn start(entry: &[u8]) -> u64 {
    number_of(&entry[..4])
}

pub(super) fn place(level: u64, start: u64) -> u64 {
    (level << 32) + start
}

/// The place of the leaf that an entry which begins so would be in.
pub(super) fn covering(connection: &Connection, level: u64, start: u64) -> Result<Option<u64>> {
    let sql = "SELECT max(place) FROM leaf WHERE place BETWEEN ?1 AND ?2";
    let range = params![place(level, 0), place(level, start.min(END - 1))];
    let found: Option<u64> = connection.prepare_cached(sql)?.query_row(range, |row| row.get(0))?;
    Ok(found.map(|found| found - place(level, 0)))
}

/// Where the leaf behind this place begins, or the end of the level.
pub(super) fn leaf_after(connection: &Connection, level: u64, start: u64) -> Result<u64> {
    let sql = "SELECT min(place) FROM leaf WHERE place > ?1 AND place < ?2";
    let range = params![place(level, start), place(level, END)];
    let found: Option<u64> = connection.prepare_cached(sql)?.query_row(range, |row| row.get(0))?;
    Ok(found.map_or(END, |found| found - place(level, 0)))
}

/// Where so many leaves from here on end.
pub(super) fn end_of_batch(connection: &Connection, level: u64, from: u64, batch: usize) -> Result<u64> {
    let sql = "SELECT place FROM leaf WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT 1 OFFSET ?3";
    let range = params![place(level, from), place(level, END), batch as u64];
    let found: Option<u64> = connection.prepare_cached(sql)?.query_row(range, |row| row.get(0)).optional()?;
    Ok(found.map_or(END, |found| found - place(level, 0)))
}

/// The entries of the leaves that begin in this range.
pub(super) fn read(connection: &Connection, level: u64, from: u64, end: u64) -> Result<Vec<Entry>> {
    let sql = "SELECT entries FROM leaf WHERE place >= ?1 AND place < ?2 ORDER BY place";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![place(level, from), place(level, end)])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let leaf = row.get_ref(0)?.as_blob().unwrap_or_default();
        let (whole, rest) = leaf.as_chunks::<ENTRY>();
        if whole.is_empty() || !rest.is_empty() {
            return Err(malformed(FormatError::invalid("index", "a leaf of another length")));
        }
        entries.extend_from_slice(whole);
    }
    Ok(entries)
}

pub(super) fn delete(connection: &Connection, level: u64, from: u64, end: u64) -> Result<()> {
    let sql = "DELETE FROM leaf WHERE place >= ?1 AND place < ?2";
    connection.prepare_cached(sql)?.execute(params![place(level, from), place(level, end)]).map(drop)
}

/// Writes a leaf; none if there are no entries.
pub(super) fn write(connection: &Connection, level: u64, start: u64, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO leaf(place, entries) VALUES(?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![place(level, start), entries.as_flattened()]).map(drop)
}

/// How many chunks a level holds, as it has been counted.
pub(super) fn chunks(connection: &Connection, level: u64) -> Result<u64> {
    let sql = "SELECT chunks FROM level WHERE level = ?1";
    connection.prepare_cached(sql)?.query_row([level], |row| row.get(0))
}

pub(super) fn count(connection: &Connection, level: u64, more: i64) -> Result<()> {
    let sql = "UPDATE level SET chunks = chunks + ?2 WHERE level = ?1";
    connection.prepare_cached(sql)?.execute(params![level, more]).map(drop)
}
