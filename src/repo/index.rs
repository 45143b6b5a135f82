//! The index: chunk id -> frame -> pack, in SQLite, in the cache directory.
//!
//! Invariant: every row comes from the footer of a pack that was in storage when the row was written, so the file can
//! be deleted, be old, or be shared by several processes. [`Index::refresh`] makes it equal to the packs that storage
//! lists; a pack that has gone takes its rows with it. The race this leaves is a pack that a gc removes after the
//! refresh: a reader then meets `NotFound`, refreshes and looks again.
//!
//! The file may be damaged, half, or of another state than what SQLite keeps beside it, and nothing may be lost by
//! believing it. Each frame's row has a sum over itself and its pack's id, so a row that is believed is true of a pack of
//! this name; each pack's row has a sum over all its frames, so half of a pack is never taken for the whole
//! ([`Index::frames_of_pack`]). What is missing is found by [`Index::heal`], before a gc trusts the index and when a
//! chunk seems to be nowhere.
//!
//! Chunks are numbered: a frame's row is keyed by the number of its first chunk, so (frame, position) is one integer,
//! and sets of chunks are bitmaps; `places` leads from ids to numbers, `filter` keeps questions after new chunks from it.
//! Numbers of packs and chunks are never used twice, so what was cached under one stays right when rows come and go.

mod filter;
pub mod heal;
mod places;
mod recent;
pub mod refresh;
mod rows;
mod work;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::format::codec::escape_path;
use crate::format::crypto::HEADER_LEN;
use crate::format::pack::{ChunkEntry, FrameEntry};
use crate::format::{ChunkId, FormatError, Kind, ObjectId, RepositoryId};
use crate::repo::cache::{self, CacheDir};
use crate::repo::error::RepoError;
use crate::repo::forget::Vanished;
use crate::repo::index::filter::Filter;
use crate::repo::index::places::Limits;
use crate::repo::index::recent::RecentFrames;
use crate::repo::index::rows::{
    encode_body, frame_row, frame_sum, frames, frames_of_pack, is_damage, malformed, pack_row, pack_sum, short,
};

/// Raised when the tables change; another version's file is made anew.
const SCHEMA: i64 = 6;

const CREATE: &str = "
CREATE TABLE pack(no INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL, len INTEGER NOT NULL,
                  header BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE frame(first INTEGER PRIMARY KEY, pack INTEGER NOT NULL, slot INTEGER NOT NULL, offset INTEGER NOT NULL,
                   stored_len INTEGER NOT NULL, depth INTEGER NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL, work INTEGER);
CREATE INDEX frame_pack ON frame(pack, slot);
CREATE TABLE counter(next INTEGER NOT NULL, state INTEGER NOT NULL, repository BLOB NOT NULL);
CREATE TABLE rotten(pack BLOB NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY(pack, slot)) WITHOUT ROWID;
CREATE TABLE seen(snapshot BLOB PRIMARY KEY, name TEXT NOT NULL, time TEXT NOT NULL) WITHOUT ROWID;
";

/// Chunks whose places are removed at once: 24 MB of ids and numbers.
const REMOVED_AT_ONCE: usize = 1 << 20;
/// How many chunks ahead one is looked for before the index is asked: comparing ids costs far less.
const SOON: usize = 16;

/// The number of a stored chunk: its frame's first number plus its position. Local to one index file.
pub type ChunkNo = u64;

/// A pack, as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// Its row.
    pub no: u64,
    /// Its id.
    pub id: ObjectId,
    /// Data or metadata.
    pub kind: Kind,
    /// Its length.
    pub len: u64,
    /// Its first bytes, from which its key is derived.
    pub header: Vec<u8>,
}

/// A frame, as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// The number of its first chunk.
    pub first: ChunkNo,
    /// Its pack.
    pub pack: u64,
    /// Its position in the pack.
    pub slot: u32,
    /// What the footer says.
    pub entry: FrameEntry,
    /// What has to be decoded for its bases, in KiB, where that is known ([`Index::work_kib`]).
    pub base_work_kib: Option<u32>,
}

impl FrameInfo {
    /// Whether the chunk of this number is in it.
    pub fn holds(&self, number: ChunkNo) -> bool {
        number.checked_sub(self.first).is_some_and(|position| position < self.entry.chunks.len() as u64)
    }
}

/// Where a chunk is: a frame, and the position in it.
#[derive(Debug, Clone)]
pub struct Location {
    /// The frame.
    pub frame: Arc<FrameInfo>,
    /// The chunk's position in the frame.
    pub position: usize,
}

impl Location {
    /// The chunk's number.
    pub fn number(&self) -> ChunkNo {
        self.frame.first + self.position as u64
    }

    /// The chunk of this id, if it is one of the next of the same frame: chunks are mostly read in the order they were stored in.
    pub fn soon(&self, id: &ChunkId) -> Option<Location> {
        let next = self.position + 1;
        let found = self.frame.entry.chunks.get(next..)?.iter().take(SOON).position(|chunk| chunk.id == *id)?;
        Some(Location { frame: self.frame.clone(), position: next + found })
    }

    /// The chunk's entry.
    pub fn chunk(&self) -> ChunkEntry {
        self.frame.entry.chunks[self.position]
    }
}

/// Sizes of the index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct IndexStats {
    /// Data packs and their bytes.
    pub data_packs: u64,
    /// See `data_packs`.
    pub data_bytes: u64,
    /// Metadata packs and their bytes.
    pub meta_packs: u64,
    /// See `meta_packs`.
    pub meta_bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Frames with bases.
    pub delta_frames: u64,
    /// Chunks, copies counted.
    pub chunks: u64,
}

/// The index of one repository.
pub struct Index {
    connection: Mutex<Connection>,
    path: Mutex<PathBuf>,
    repository: RepositoryId,
    frames: Mutex<RecentFrames>,
    filter: Mutex<Option<Filter>>,
    /// Set when SQLite or a sum says that the file is damaged: then it goes with this process.
    damaged: AtomicBool,
}

impl Drop for Index {
    fn drop(&mut self) {
        if self.damaged.load(Ordering::SeqCst)
            && let Ok(memory) = Connection::open_in_memory()
        {
            // Closed before its file goes.
            drop(std::mem::replace(&mut *self.lock(), memory));
            cache::abandon_index(&self.path());
        }
    }
}

impl Index {
    /// Opens the index of a cache directory; another takes the place of one that is damaged or of another schema.
    pub fn open(cache: &CacheDir, repository: RepositoryId) -> Result<Self, RepoError> {
        let path = cache.index();
        let index = match Self::open_file(&path, repository) {
            Err(RepoError::Index { source, .. }) if is_damage(&source) => {
                Self::open_file(&cache::next_index(&path), repository)?
            }
            result => result?,
        };
        cache::remove_older_indexes(&index.path());
        Ok(index)
    }

    fn open_file(path: &Path, repository: RepositoryId) -> Result<Self, RepoError> {
        let failed = |source| RepoError::Index { path: escape_path(path), source };
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(std::time::Duration::from_secs(60)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        connection.pragma_update(None, "cache_size", -16_384).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        make_tables(&connection, repository).map_err(failed)?;
        Ok(Index {
            connection: Mutex::new(connection),
            path: Mutex::new(path.to_owned()),
            repository,
            frames: Mutex::default(),
            filter: Mutex::default(),
            damaged: AtomicBool::new(false),
        })
    }

    fn path(&self) -> PathBuf {
        self.path.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> RepoError + '_ {
        |source| {
            if is_damage(&source) {
                self.damaged.store(true, Ordering::SeqCst);
            }
            RepoError::Index { path: escape_path(&self.path()), source }
        }
    }

    /// All places where a chunk is stored, those of least depth first.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Location>, RepoError> {
        let numbers = places::numbers(&self.lock(), id).map_err(self.failed())?;
        let mut found = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(frame) = self.frame_of(number)? {
                let position = (number - frame.first) as usize;
                if frame.entry.chunks.get(position).is_some_and(|chunk| chunk.id == *id) {
                    found.push(Location { frame, position });
                }
            }
        }
        found.sort_by_key(|location| (location.frame.entry.depth, location.frame.first));
        Ok(found)
    }

    /// The frame that holds the chunk of this number.
    pub fn frame_of(&self, number: ChunkNo) -> Result<Option<Arc<FrameInfo>>, RepoError> {
        let known = self.recent().find(number);
        if known.is_some() {
            return Ok(known);
        }
        let frame = {
            let connection = self.lock();
            let sql = frames!("WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
            let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
            let found = statement.query_row([number], frame_row).optional().map_err(self.failed())?;
            let frame = found.filter(|frame| frame.holds(number)).map(Arc::new);
            // Before another thread can go on with another file, in which numbers mean other frames.
            frame.iter().for_each(|frame| self.recent().insert(frame.clone()));
            frame
        };
        Ok(frame)
    }

    /// The pack of this row.
    pub fn pack(&self, no: u64) -> Result<Option<PackInfo>, RepoError> {
        let connection = self.lock();
        let sql = "SELECT no, id, kind, len, header FROM pack WHERE no = ?1";
        let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
        statement.query_row([no], pack_row).optional().map_err(self.failed())
    }

    /// All packs, by id.
    pub fn packs(&self) -> Result<Vec<PackInfo>, RepoError> {
        let connection = self.lock();
        let sql = "SELECT no, id, kind, len, header FROM pack ORDER BY id";
        let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
        let rows = statement.query_map([], pack_row).map_err(self.failed())?;
        rows.collect::<Result<_, _>>().map_err(self.failed())
    }

    /// The frames of a pack, in order: all of them, or an error. None if the pack is not in the index any more.
    pub fn frames_of_pack(&self, pack: u64) -> Result<Vec<FrameInfo>, RepoError> {
        let mut connection = self.lock();
        // Pack and frames as of one moment: another process may remove them in between.
        let transaction = connection.transaction().map_err(self.failed())?;
        frames_of_pack(&transaction, pack).map_err(self.failed())
    }

    /// A number that changes when packs of the index get other numbers than they had.
    pub fn state(&self) -> Result<i64, RepoError> {
        self.lock().query_row("SELECT state FROM counter", [], |row| row.get(0)).map_err(self.failed())
    }

    /// The number that the next chunk gets.
    pub fn number_limit(&self) -> Result<u64, RepoError> {
        let connection = self.lock();
        connection.query_row("SELECT next FROM counter", [], |row| row.get(0)).map_err(self.failed())
    }

    /// Notes which frames of a pack could not be read when all of them were: those of before are forgotten. The packs do not
    /// say this, so a new index file knows nothing of it; who writes then relies on such frames again, until somebody
    /// reads them.
    pub fn note_rotten(&self, pack: &ObjectId, slots: &[u32]) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let sql = "SELECT EXISTS(SELECT 1 FROM rotten WHERE pack = ?1)";
        let known: bool =
            connection.query_row(sql, [pack.as_bytes().as_slice()], |row| row.get(0)).map_err(self.failed())?;
        if !known && slots.is_empty() {
            return Ok(());
        }
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        let sql = "DELETE FROM rotten WHERE pack = ?1 OR pack NOT IN (SELECT id FROM pack)";
        transaction.execute(sql, [pack.as_bytes().as_slice()]).map_err(self.failed())?;
        for slot in slots {
            let values = params![pack.as_bytes().as_slice(), slot];
            transaction.execute("INSERT INTO rotten(pack, slot) VALUES(?1, ?2)", values).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    /// The frames noted by [`Index::note_rotten`].
    pub fn rotten(&self) -> Result<Vec<FrameInfo>, RepoError> {
        let slots: Vec<(u64, u32)> = {
            let connection = self.lock();
            let sql = "SELECT pack.no, slot FROM rotten JOIN pack ON pack.id = rotten.pack ORDER BY pack.no, slot";
            let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(self.failed())?;
            rows.collect::<Result<_, _>>().map_err(self.failed())?
        };
        let mut found = Vec::new();
        for of_pack in slots.chunk_by(|a, b| a.0 == b.0) {
            let frames = self.frames_of_pack(of_pack[0].0)?;
            found.extend(frames.into_iter().filter(|frame| of_pack.iter().any(|(_, slot)| *slot == frame.slot)));
        }
        Ok(found)
    }

    /// Notes that a snapshot was seen in storage.
    pub fn remember(&self, id: &ObjectId, name: &str, time: &str) -> Result<(), RepoError> {
        let sql = "INSERT OR IGNORE INTO seen(snapshot, name, time) VALUES(?1, ?2, ?3)";
        let values = params![id.as_bytes().as_slice(), name, time];
        self.lock().execute(sql, values).map(drop).map_err(self.failed())
    }

    /// The snapshots noted by [`Index::remember`].
    pub fn remembered(&self) -> Result<Vec<Vanished>, RepoError> {
        let connection = self.lock();
        let sql = "SELECT snapshot, name, time FROM seen ORDER BY time";
        let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
        let rows = statement.query_map([], |row| {
            let id: Vec<u8> = row.get(0)?;
            Ok(Vanished { id: ObjectId::from_slice(&id).map_err(malformed)?, name: row.get(1)?, time: row.get(2)? })
        });
        rows.map_err(self.failed())?.collect::<Result<_, _>>().map_err(self.failed())
    }

    /// The frames of one depth, handed to `visit` one by one.
    pub fn frames_of_depth(
        &self,
        depth: u8,
        visit: &mut dyn FnMut(FrameInfo) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        // Read in pages, so that `visit` may use the index.
        let mut after: i64 = -1;
        loop {
            let page: Vec<FrameInfo> = {
                let connection = self.lock();
                let sql = frames!("WHERE depth = ?1 AND first > ?2 ORDER BY first LIMIT 256");
                let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
                let rows = statement.query_map(params![depth, after], frame_row).map_err(self.failed())?;
                rows.collect::<Result<_, _>>().map_err(self.failed())?
            };
            let Some(last) = page.last() else { return Ok(()) };
            after = last.first as i64;
            for frame in page {
                visit(frame)?;
            }
        }
    }

    /// Sizes.
    pub fn stats(&self) -> Result<IndexStats, RepoError> {
        let connection = self.lock();
        let pair = |kind: Kind| {
            let sql = "SELECT count(*), coalesce(sum(len), 0) FROM pack WHERE kind = ?1";
            connection.query_row(sql, [kind as u8], |row| Ok((row.get(0)?, row.get(1)?)))
        };
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get(0));
        let (data_packs, data_bytes) = pair(Kind::DataPack).map_err(self.failed())?;
        let (meta_packs, meta_bytes) = pair(Kind::MetaPack).map_err(self.failed())?;
        Ok(IndexStats {
            data_packs,
            data_bytes,
            meta_packs,
            meta_bytes,
            frames: count("SELECT count(*) FROM frame").map_err(self.failed())?,
            delta_frames: count("SELECT count(*) FROM frame WHERE depth > 0").map_err(self.failed())?,
            chunks: places::total(&connection).map_err(self.failed())?,
        })
    }

    /// Adds a pack that is in storage. One that is known already is left alone.
    pub fn add_pack(
        &self,
        kind: Kind,
        id: &ObjectId,
        len: u64,
        header: &[u8],
        frames: &[FrameEntry],
    ) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        add_pack(&transaction, kind, id, len, header, frames).map_err(self.failed())?;
        transaction.commit().map_err(self.failed())?;
        drop(connection);
        self.settle(Limits::DEFAULT)?;
        self.catch_up()
    }

    /// Moves chunks to where they take less and are found faster, if there are enough of them. A process that is killed
    /// meanwhile leaves them in the one place or the other.
    fn settle(&self, limits: Limits) -> Result<(), RepoError> {
        let mut step = places::first_step(&self.lock(), limits).map_err(self.failed())?;
        while let Some(this) = step {
            let mut connection = self.lock();
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
            step = places::take_step(&transaction, limits, this).map_err(self.failed())?;
            transaction.commit().map_err(self.failed())?;
        }
        Ok(())
    }

    fn filter(&self) -> MutexGuard<'_, Option<Filter>> {
        self.filter.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, RecentFrames> {
        self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Forgets the frames that were looked up: their rows may have gone.
    fn drop_frames(&self) {
        *self.recent() = RecentFrames::default();
    }

    /// Removes packs that have gone from storage.
    pub fn remove_packs(&self, packs: &[u64]) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        remove_packs(&transaction, packs).map_err(self.failed())?;
        transaction.commit().map_err(self.failed())?;
        self.drop_frames();
        Ok(())
    }
}

fn make_tables(connection: &Connection, repository: RepositoryId) -> Result<(), rusqlite::Error> {
    let schema = || connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    if schema()? == SCHEMA {
        // That every table is there is cheap to see, and better seen now than in the middle of a backup.
        for table in ["pack", "frame", "chunk", "leaf", "level", "seen", "rotten"] {
            connection.query_row(&format!("SELECT EXISTS(SELECT 1 FROM {table})"), [], |row| row.get::<_, bool>(0))?;
        }
        let (_, owner): (i64, Vec<u8>) =
            connection.query_row("SELECT next, repository FROM counter", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if owner != repository.as_bytes() {
            return Err(malformed(FormatError::invalid("index", "it is of another repository")));
        }
        return Ok(());
    }
    // Two processes may both find it empty: the second one waits for the first one's tables.
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(&format!("{CREATE}PRAGMA user_version = {SCHEMA};"))?;
        places::create(&transaction)?;
        transaction.execute("INSERT INTO counter VALUES(0, random(), ?1)", [repository.as_bytes().as_slice()])?;
    } else if schema()? != SCHEMA {
        return Err(malformed(FormatError::invalid("index", "it has another schema")));
    }
    transaction.commit()
}

fn add_pack(
    connection: &Connection,
    kind: Kind,
    id: &ObjectId,
    len: u64,
    header: &[u8],
    frames: &[FrameEntry],
) -> Result<(), rusqlite::Error> {
    let header = &header[..header.len().min(HEADER_LEN)];
    let added = connection
        .prepare_cached("INSERT OR IGNORE INTO pack(id, kind, len, header, sum) VALUES(?1, ?2, ?3, ?4, 0)")?
        .execute(params![id.as_bytes().as_slice(), kind as u8, len, header])?;
    if added == 0 {
        return Ok(());
    }
    let pack = connection.last_insert_rowid();
    let mut next: u64 = connection.query_row("SELECT next FROM counter", [], |row| row.get(0))?;
    let mut pack_sum = pack_sum(kind as u8, len, header);
    let sql = "INSERT INTO frame(first, pack, slot, offset, stored_len, depth, body, sum, work)
               VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, iif(?6 = 0, 0, NULL))";
    let mut insert_frame = connection.prepare_cached(sql)?;
    let chunks = frames.iter().flat_map(|frame| &frame.chunks).map(|chunk| &chunk.id);
    places::add(connection, chunks.zip(next..))?;
    for (slot, frame) in frames.iter().enumerate() {
        let body = encode_body(frame);
        let sum = frame_sum(id, next, slot as u32, frame, &body);
        pack_sum.update(&sum.to_le_bytes());
        let (offset, stored_len, depth) = (frame.offset, frame.stored_len, frame.depth);
        insert_frame.execute(params![next, pack, slot as u32, offset, stored_len, depth, body, sum])?;
        next += frame.chunks.len() as u64;
    }
    connection.prepare_cached("UPDATE pack SET sum = ?2 WHERE no = ?1")?.execute(params![pack, short(&pack_sum)])?;
    connection.prepare_cached("UPDATE counter SET next = ?1")?.execute([next])?;
    Ok(())
}

/// Chunks of several packs are removed at once: each leaf that holds some of them is written once.
fn remove_packs(connection: &Connection, packs: &[u64]) -> Result<(), rusqlite::Error> {
    let mut chunks = Vec::new();
    for pack in packs {
        let mut select = connection.prepare_cached(frames!("WHERE pack = ?1"))?;
        let mut rows = select.query([pack])?;
        while let Some(row) = rows.next()? {
            let frame = frame_row(row)?;
            chunks.extend(frame.entry.chunks.iter().map(|chunk| chunk.id).zip(frame.first..));
        }
        if chunks.len() >= REMOVED_AT_ONCE {
            places::remove(connection, &chunks)?;
            chunks.clear();
        }
        connection.prepare_cached("DELETE FROM frame WHERE pack = ?1")?.execute([pack])?;
        connection.prepare_cached("DELETE FROM pack WHERE no = ?1")?.execute([pack])?;
    }
    places::remove(connection, &chunks)
}
