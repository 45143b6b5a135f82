//! From chunk ids to chunk numbers: what every look-up of a chunk reads.
//!
//! Ids are uniform, so a tree that takes them one by one touches another page for each; of ten million that is all it
//! does. New ones gather in a small table, `chunk`, and are poured from it into levels of leaves, each level [`Limits::ratio`]
//! times as large as the one above. A leaf is a row of at most a page: entries of the ids from its first one up to the
//! next leaf's, in their order.
//!
//! Invariant: each chunk of each frame is in `chunk` or in one leaf of one level. A move takes it out and puts it in within
//! one transaction, and a reader asks for all places in one statement, so it finds each chunk whatever other processes move
//! meanwhile. An entry has only the beginning of an id: it is an answer only when the frame's row has been asked.

mod leaves;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::format::{ChunkId, FormatError};
use crate::repo::index::ChunkNo;
use crate::repo::index::places::leaves::{
    END, ENTRY, Entry, NUMBER_BYTES, chunks, count, covering, delete, end_of_batch, entry, leaf_after, parts, place,
    read, start, write,
};
use crate::repo::index::rows::malformed;

/// Tables of this module. Level 0 is `chunk`.
const CREATE: &str = "
CREATE TABLE chunk(prefix INTEGER NOT NULL, no INTEGER NOT NULL, PRIMARY KEY(prefix, no)) WITHOUT ROWID;
CREATE TABLE leaf(place INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE TABLE level(level INTEGER PRIMARY KEY, chunks INTEGER NOT NULL);
";
/// Each level's row.
const NO_CHUNKS: &str = "INSERT INTO level VALUES(0, 0), (1, 0), (2, 0), (3, 0);";

/// All places of an id at once: as of one moment, and for the cost of one statement.
const FIND: &str = "
SELECT no FROM chunk WHERE prefix = ?1
UNION ALL SELECT entries FROM leaf WHERE place = (SELECT max(place) FROM leaf WHERE place BETWEEN 1 << 32 AND (1 << 32) + ?2)
UNION ALL SELECT entries FROM leaf WHERE place = (SELECT max(place) FROM leaf WHERE place BETWEEN 2 << 32 AND (2 << 32) + ?2)
UNION ALL SELECT entries FROM leaf WHERE place = (SELECT max(place) FROM leaf WHERE place BETWEEN 3 << 32 AND (3 << 32) + ?2)
";

/// The levels of leaves are 1 to this.
const LEVELS: u64 = 3;
/// Chunk numbers are below this.
const NUMBERS: ChunkNo = 1 << (8 * NUMBER_BYTES);
type Result<T> = std::result::Result<T, rusqlite::Error>;

/// When chunks move, and how many at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Chunks that `chunk` holds before they are poured out.
    fresh: u64,
    /// How much larger each level is than the one above.
    ratio: u64,
    /// Entries of a leaf when it is written.
    leaf: usize,
    /// Leaves that one transaction writes anew.
    batch: usize,
}

impl Limits {
    /// Two megabytes of fresh chunks stay in SQLite's cache; 350 entries fill a page of 4 KiB; a transaction writes 4 MiB.
    pub(super) const DEFAULT: Limits = Limits { fresh: 64 << 10, ratio: 32, leaf: 350, batch: 1024 };
    /// Everything goes down to the last level, where it takes least.
    pub(super) const COMPACT: Limits = Limits { fresh: 0, ..Limits::DEFAULT };

    fn capacity(&self, level: u64) -> u64 {
        (0..level).fold(self.fresh, |capacity, _| capacity.saturating_mul(self.ratio))
    }
}

/// The beginning of an id as a number, which is what entries are ordered by.
pub(super) fn prefix(id: &ChunkId) -> u64 {
    id.as_bytes().iter().take(ENTRY - NUMBER_BYTES).fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// The least prefix of a place.
fn least(start: u64) -> u64 {
    start << 16
}

/// The numbers of all chunks that have this id, and perhaps of a few others.
pub(super) fn numbers(connection: &Connection, id: &ChunkId) -> Result<Vec<ChunkNo>> {
    let wanted = prefix(id);
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query([wanted, wanted >> 16])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match row.get_ref(0)? {
            ValueRef::Blob(entries) => find_in(entries, wanted, &mut found),
            _ => found.push(row.get(0)?),
        }
    }
    Ok(found)
}

fn find_in(entries: &[u8], wanted: u64, found: &mut Vec<ChunkNo>) {
    let entries = entries.as_chunks::<ENTRY>().0;
    let first = entries.partition_point(|entry| parts(entry).0 < wanted);
    found.extend(entries[first..].iter().map(|entry| parts(entry)).take_while(|of| of.0 == wanted).map(|of| of.1));
}

/// Adds a pack's chunks.
pub(super) fn add<'a>(connection: &Connection, chunks: impl Iterator<Item = (&'a ChunkId, ChunkNo)>) -> Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO chunk(prefix, no) VALUES(?1, ?2)")?;
    let mut added = 0;
    for (id, number) in chunks {
        if number >= NUMBERS {
            return Err(malformed(FormatError::invalid("index", "its numbers are used up")));
        }
        insert.execute([prefix(id), number])?;
        added += 1;
    }
    count(connection, 0, added)
}

/// Removes chunks. One that is not there is left to [`Index::heal`](super::Index::heal).
pub(super) fn remove(connection: &Connection, chunks: &[(ChunkId, ChunkNo)]) -> Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM chunk WHERE prefix = ?1 AND no = ?2")?;
    let mut left: Vec<Entry> = Vec::new();
    for (id, number) in chunks {
        if delete.execute([prefix(id), *number])? == 0 {
            left.push(entry(prefix(id), *number));
        }
    }
    count(connection, 0, left.len() as i64 - chunks.len() as i64)?;
    left.sort_unstable();
    for level in 1..=LEVELS {
        left = remove_from(connection, level, left)?;
    }
    Ok(())
}

/// Removes sorted entries from a level, and returns those that are not there.
fn remove_from(connection: &Connection, level: u64, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let mut absent = Vec::new();
    let mut rest = entries.as_slice();
    while let Some(first) = rest.first() {
        let covering = covering(connection, level, start(first))?;
        let end = leaf_after(connection, level, covering.unwrap_or(start(first)))?;
        let (here, behind) = rest.split_at(rest.partition_point(|entry| start(entry) < end));
        rest = behind;
        let mut leaf = match covering {
            Some(covering) => read(connection, level, covering, covering + 1)?,
            None => Vec::new(),
        };
        let (gone, missing): (Vec<Entry>, Vec<Entry>) =
            here.iter().partition(|entry| leaf.binary_search(entry).is_ok());
        absent.extend(missing);
        if let Some(covering) = covering.filter(|_| !gone.is_empty()) {
            leaf.retain(|entry| gone.binary_search(entry).is_err());
            delete(connection, level, covering, covering + 1)?;
            write(connection, level, covering, &leaf)?;
            count(connection, level, -(gone.len() as i64))?;
        }
    }
    Ok(absent)
}

/// Where a move between levels goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    level: u64,
    from: u64,
}

/// What is to be moved, if anything is.
pub(super) fn first_step(connection: &Connection, limits: Limits) -> Result<Option<Step>> {
    step_from(connection, limits, 0)
}

/// What is to be moved of this level or a lower one. Moving never goes back up, so that it ends whatever the counts say and
/// whoever adds meanwhile.
fn step_from(connection: &Connection, limits: Limits, level: u64) -> Result<Option<Step>> {
    for level in level..LEVELS {
        if chunks(connection, level)? > limits.capacity(level) {
            return Ok(Some(Step { level, from: 0 }));
        }
    }
    Ok(None)
}

/// Moves all that is to be moved, within the transaction of the caller.
pub(super) fn settle(connection: &Connection, limits: Limits) -> Result<()> {
    let mut step = first_step(connection, limits)?;
    while let Some(this) = step {
        step = take_step(connection, limits, this)?;
    }
    Ok(())
}

/// Moves a part of one level into the next one; to be called in a transaction. Returns where to go on, if there is more.
///
/// Another process may have moved the same level since the step before, so what is covered is looked up anew.
pub(super) fn take_step(connection: &Connection, limits: Limits, step: Step) -> Result<Option<Step>> {
    let Step { level, from } = step;
    let below = level + 1;
    let from = covering(connection, below, from)?.unwrap_or(from);
    let mut end = end_of_batch(connection, below, from, limits.batch)?;
    if level > 0 {
        end = end.min(end_of_batch(connection, level, from, limits.batch)?);
    }
    let mut merged = read(connection, below, from, end)?;
    let moved = if level == 0 { take_fresh(connection, from, end)? } else { take(connection, level, from, end)? };
    count(connection, level, -(moved.len() as i64))?;
    count(connection, below, moved.len() as i64)?;
    merged.extend(moved);
    // Two runs, each sorted already.
    merged.sort();
    delete(connection, below, from, end)?;
    for leaf in cut(&merged, limits.leaf) {
        write(connection, below, start(&leaf[0]), leaf)?;
    }
    if end < END { Ok(Some(Step { level, from: end })) } else { step_from(connection, limits, below) }
}

/// Leaves of about so many entries. Those that begin alike stay together: a leaf is found by where it begins.
fn cut(mut entries: &[Entry], leaf: usize) -> Vec<&[Entry]> {
    let mut leaves = Vec::with_capacity(entries.len() / leaf + 1);
    while !entries.is_empty() {
        let mut end = leaf.min(entries.len());
        while end < entries.len() && start(&entries[end]) == start(&entries[end - 1]) {
            end += 1;
        }
        let (one, rest) = entries.split_at(end);
        leaves.push(one);
        entries = rest;
    }
    leaves
}

/// Takes the chunks of a range out of `chunk`.
fn take_fresh(connection: &Connection, from: u64, end: u64) -> Result<Vec<Entry>> {
    let range = [least(from), least(end)];
    let sql = "SELECT prefix, no FROM chunk WHERE prefix >= ?1 AND prefix < ?2";
    let row = |row: &rusqlite::Row<'_>| Ok(entry(row.get(0)?, row.get(1)?));
    let taken = connection.prepare_cached(sql)?.query_map(range, row)?.collect::<Result<_>>()?;
    connection.prepare_cached("DELETE FROM chunk WHERE prefix >= ?1 AND prefix < ?2")?.execute(range)?;
    Ok(taken)
}

/// Takes the entries of a range out of a level. Its first and last leaf may reach beyond it: that part stays.
fn take(connection: &Connection, level: u64, from: u64, end: u64) -> Result<Vec<Entry>> {
    let begin = covering(connection, level, from)?.unwrap_or(from);
    let all = read(connection, level, begin, end)?;
    let before = all.partition_point(|entry| start(entry) < from);
    let behind = all.partition_point(|entry| start(entry) < end);
    delete(connection, level, begin, end)?;
    write(connection, level, begin, &all[..before])?;
    if let Some(first) = all.get(behind) {
        write(connection, level, start(first), &all[behind..])?;
    }
    Ok(all[before..behind].to_vec())
}

/// Hands on the prefix and number of every chunk whose id begins within a range of 32-bit beginnings.
pub(super) fn visit(connection: &Connection, from: u64, end: u64, visit: &mut dyn FnMut(u64, ChunkNo)) -> Result<()> {
    let sql = "SELECT prefix, no FROM chunk WHERE prefix >= ?1 AND prefix < ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([least(from), least(end)])?;
    while let Some(row) = rows.next()? {
        visit(row.get(0)?, row.get(1)?);
    }
    for level in 1..=LEVELS {
        let begin = covering(connection, level, from)?.unwrap_or(from);
        for entry in
            read(connection, level, begin, end)?.iter().filter(|entry| (from..end).contains(&start(&entry[..])))
        {
            let (prefix, number) = parts(entry);
            visit(prefix, number);
        }
    }
    Ok(())
}

/// Hands on the prefix and number of every chunk, and says whether each is where look-ups find it and all are counted. Look-ups go
/// down the tree, and what is told here along the leaves, so each leaf is looked up by where it begins, too.
pub(super) fn inspect(connection: &Connection, visit: &mut dyn FnMut(u64, ChunkNo)) -> Result<bool> {
    let mut counted = [0; LEVELS as usize + 1];
    let mut sound = true;
    let mut last = (0, 0);
    let mut statement = connection.prepare_cached("SELECT prefix, no FROM chunk")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let next: (u64, ChunkNo) = (row.get(0)?, row.get(1)?);
        // Out of order, a row is there and is not found.
        sound &= counted[0] == 0 || last < next;
        counted[0] += 1;
        visit(next.0, next.1);
        last = next;
    }
    let mut statement = connection.prepare_cached("SELECT place, entries FROM leaf ORDER BY place")?;
    let mut rows = statement.query([])?;
    let mut before = 0;
    while let Some(row) = rows.next()? {
        let begin: u64 = row.get(0)?;
        let (level, entries) = (begin >> 32, row.get_ref(1)?.as_blob().unwrap_or_default());
        let (whole, rest) = entries.as_chunks::<ENTRY>();
        let (Some(first), Some(end)) = (whole.first(), whole.last()) else { return Ok(false) };
        let in_place = place(level, start(first)) >= begin && begin > before;
        sound &= rest.is_empty() && (1..=LEVELS).contains(&level) && in_place && whole.is_sorted_by(|a, b| a < b);
        sound = sound && covering(connection, level, begin - place(level, 0))? == Some(begin - place(level, 0));
        before = place(level, start(end));
        for (prefix, number) in whole.iter().map(|entry| parts(entry)) {
            visit(prefix, number);
        }
        if let Some(counted) = counted.get_mut(level as usize) {
            *counted += whole.len() as u64;
        }
    }
    for (level, counted) in (0..).zip(counted) {
        sound &= chunks(connection, level).is_ok_and(|chunks| chunks == counted);
    }
    Ok(sound)
}

/// Makes the tables, without chunks.
pub(super) fn create(connection: &Connection) -> Result<()> {
    connection.execute_batch(CREATE)?;
    connection.execute_batch(NO_CHUNKS)
}

/// Makes the tables hold no chunks.
pub(super) fn clear(connection: &Connection) -> Result<()> {
    connection.execute_batch("DELETE FROM chunk; DELETE FROM leaf; DELETE FROM level;")?;
    connection.execute_batch(NO_CHUNKS)
}

/// How many chunks there are, copies counted.
pub(super) fn total(connection: &Connection) -> Result<u64> {
    connection.prepare_cached("SELECT sum(chunks) FROM level")?.query_row([], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::{Just, Strategy, TestCaseError, any, proptest};
    use proptest::prop_oneof;
    use rusqlite::Connection;

    use super::{
        Limits, Result, Step, add, create, first_step, inspect, numbers, prefix, remove, settle, take_step, total,
        visit,
    };
    use crate::format::ChunkId;
    use crate::repo::index::ChunkNo;

    /// So small that a few hundred chunks reach the last level.
    const SMALL: Limits = Limits { fresh: 6, ratio: 3, leaf: 4, batch: 2 };

    fn tables() -> Result<Connection> {
        let connection = Connection::open_in_memory()?;
        create(&connection)?;
        Ok(connection)
    }

    /// Few different beginnings, so that leaves have to keep what begins alike together, and few ids, so that there are copies.
    fn id(number: u16) -> ChunkId {
        let mut bytes = [0; ChunkId::LEN];
        bytes[0] = (number % 13 * 19) as u8;
        bytes[3] = (number % 3) as u8;
        bytes[5] = (number >> 4) as u8;
        bytes[ChunkId::LEN - 1] = number as u8;
        ChunkId::from_bytes(bytes)
    }

    #[derive(Debug, Clone)]
    enum Change {
        Add(Vec<u16>),
        Remove(u16),
        /// A step of one of two processes that move at once.
        Move(bool),
        Settle,
        Compact,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            3 => proptest::collection::vec(any::<u16>(), 1..24).prop_map(Change::Add),
            1 => any::<u16>().prop_map(Change::Remove),
            6 => any::<bool>().prop_map(Change::Move),
            1 => Just(Change::Settle),
            1 => Just(Change::Compact),
        ];
        proptest::collection::vec(change, 1..60)
    }

    #[derive(Default)]
    struct Model {
        next: ChunkNo,
        there: BTreeMap<ChunkNo, ChunkId>,
    }

    impl Model {
        fn assert_equal(&self, connection: &Connection) -> Result<()> {
            for id in self.there.values() {
                let found = BTreeSet::from_iter(numbers(connection, id)?);
                let wanted = self.there.iter().filter(|(_, there)| *there == id).map(|(number, _)| *number);
                assert!(wanted.collect::<BTreeSet<_>>().is_subset(&found), "{id:?}: {found:?}");
                // What begins alike may be found, too, and nothing else.
                assert!(found.iter().all(|number| prefix(&self.there[number]) == prefix(id)));
            }
            let wanted: BTreeSet<(u64, ChunkNo)> =
                self.there.iter().map(|(number, id)| (prefix(id), *number)).collect();
            let mut seen = Vec::new();
            assert!(inspect(connection, &mut |prefix, number| seen.push((prefix, number)))?);
            assert_eq!(total(connection)?, seen.len() as u64);
            assert_eq!(seen.len(), wanted.len());
            assert_eq!(BTreeSet::from_iter(seen), wanted);
            let (mut parts, middle) = (Vec::new(), 0x3900_0000);
            for (from, end) in [(0, middle), (middle, 1 << 32)] {
                visit(connection, from, end, &mut |prefix, number| parts.push((prefix, number)))?;
            }
            assert_eq!(parts.len(), wanted.len());
            assert_eq!(BTreeSet::from_iter(parts), wanted);
            Ok(())
        }
    }

    fn apply(
        change: &Change,
        connection: &Connection,
        model: &mut Model,
        moving: &mut [Option<Step>; 2],
    ) -> Result<()> {
        match change {
            Change::Add(ids) => {
                let ids: Vec<ChunkId> = ids.iter().map(|number| id(*number)).collect();
                add(connection, ids.iter().zip(model.next..))?;
                model.there.extend((model.next..).zip(ids.iter().copied()));
                model.next += ids.len() as u64;
            }
            Change::Remove(seed) => {
                // A pack: neighbours, and one that is not there.
                let from = ChunkNo::from(*seed) % (model.next + 1);
                let mut gone: Vec<(ChunkId, ChunkNo)> =
                    model.there.range(from..from + 9).map(|(number, id)| (*id, *number)).collect();
                model.there.retain(|number, _| !(from..from + 9).contains(number));
                gone.push((id(*seed), model.next + 1));
                remove(connection, &gone)?;
            }
            Change::Move(which) => {
                let moving = &mut moving[usize::from(*which)];
                let step = match moving.take() {
                    Some(step) => Some(step),
                    None => first_step(connection, SMALL)?,
                };
                *moving = step.map(|step| take_step(connection, SMALL, step)).transpose()?.flatten();
            }
            Change::Settle => settle(connection, SMALL)?,
            Change::Compact => settle(connection, Limits { batch: 2, leaf: 4, ..Limits::COMPACT })?,
        }
        Ok(())
    }

    fn check(changes: &[Change]) -> Result<()> {
        let (connection, mut model, mut moving) = (tables()?, Model::default(), [None, None]);
        for change in changes {
            apply(change, &connection, &mut model, &mut moving)?;
        }
        model.assert_equal(&connection)
    }

    proptest! {
        #[test]
        fn each_chunk_is_found_wherever_it_has_moved(changes in changes()) {
            check(&changes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        }
    }

    #[test]
    fn many_chunks_go_down_to_the_last_level_and_are_found() -> Result<()> {
        let (connection, mut model) = (tables()?, Model::default());
        for number in 0..40 {
            let ids = Change::Add((0..50).map(|at: u16| (number * 50 + at).wrapping_mul(40503)).collect());
            apply(&ids, &connection, &mut model, &mut [None, None])?;
            settle(&connection, SMALL)?;
        }
        let deepest: u64 = connection.query_row("SELECT max(place) >> 32 FROM leaf", [], |row| row.get(0))?;
        assert_eq!(deepest, 3);
        model.assert_equal(&connection)?;
        // Nothing is where it would not be found.
        connection.execute("UPDATE leaf SET place = place + 1 WHERE place = (SELECT max(place) FROM leaf)", [])?;
        assert!(!inspect(&connection, &mut |_, _| ())?);
        Ok(())
    }
}
