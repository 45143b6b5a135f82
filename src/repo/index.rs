//! The index: chunk id -> frame -> pack, in SQLite, in the cache directory.
//!
//! Invariant: every row comes from the footer of a pack that was in storage when the row was written, so the file can
//! be deleted, be old, or be shared by several processes. [`Index::refresh`] makes it equal to the packs that storage
//! lists; a pack that has gone takes its rows with it. The race this leaves is a pack that a gc removes after the
//! refresh: a reader then meets `NotFound`, refreshes and looks again.
//!
//! Chunks are numbered: a frame's row is keyed by the number of its first chunk, so (frame, position) is one integer,
//! and sets of chunks are bitmaps. Numbers of packs and chunks are never used twice, so what was cached under one stays
//! right when rows come and go.

pub mod refresh;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension, params};

use crate::format::codec::{Cursor, escape_path, put_varint};
use crate::format::crypto::HEADER_LEN;
use crate::format::frame::{MAX_FRAME_CHUNKS, MAX_FRAME_RAW};
use crate::format::pack::{ChunkEntry, FrameEntry};
use crate::format::{ChunkId, FormatError, Kind, ObjectId};
use crate::repo::cache::CacheDir;
use crate::repo::error::RepoError;
use crate::repo::forget::Vanished;

/// Raised when the tables change; another version's file is made anew.
const SCHEMA: i64 = 1;

const CREATE: &str = "
CREATE TABLE pack(no INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL, len INTEGER NOT NULL,
                  header BLOB NOT NULL);
CREATE TABLE frame(first INTEGER PRIMARY KEY, pack INTEGER NOT NULL, slot INTEGER NOT NULL, offset INTEGER NOT NULL,
                   stored_len INTEGER NOT NULL, depth INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX frame_pack ON frame(pack);
CREATE TABLE chunk(id BLOB NOT NULL, no INTEGER NOT NULL, PRIMARY KEY(id, no)) WITHOUT ROWID;
CREATE TABLE counter(next INTEGER NOT NULL);
INSERT INTO counter VALUES(0);
CREATE TABLE seen(snapshot BLOB PRIMARY KEY, name TEXT NOT NULL, time TEXT NOT NULL) WITHOUT ROWID;
";

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

    /// The chunk's entry.
    pub fn chunk(&self) -> ChunkEntry {
        self.frame.entry.chunks[self.position]
    }

    /// Where the chunk's bytes are in the frame's raw bytes.
    pub fn range(&self) -> std::ops::Range<usize> {
        let start: usize = self.frame.entry.chunks[..self.position].iter().map(|c| c.len as usize).sum();
        start..start + self.chunk().len as usize
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
    path: String,
    frames: Mutex<FrameRows>,
}

/// The frames looked up last. Rows never change, but a pack that goes takes its rows: then all are dropped.
#[derive(Default)]
struct FrameRows {
    recent: Vec<Arc<FrameInfo>>,
    next: usize,
}

const RECENT_FRAMES: usize = 64;

impl Index {
    /// Opens the index of a cache directory; a file that is damaged or of another schema is made anew.
    pub fn open(cache: &CacheDir) -> Result<Self, RepoError> {
        let path = cache.index();
        match Self::open_file(&path) {
            Ok(index) => Ok(index),
            Err(_) => {
                cache.remove_index()?;
                Self::open_file(&path)
            }
        }
    }

    fn open_file(path: &Path) -> Result<Self, RepoError> {
        let text = escape_path(path);
        let failed = |source| RepoError::Index { path: text.clone(), source };
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(std::time::Duration::from_secs(60)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        connection.pragma_update(None, "cache_size", -16_384).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(32);
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
        let schema: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if tables == 0 {
            // Two processes may both find it empty: the second one's CREATE fails, and opening again succeeds.
            let script = format!("BEGIN IMMEDIATE;{CREATE}PRAGMA user_version = {SCHEMA};COMMIT;");
            connection.execute_batch(&script).map_err(failed)?;
        } else if schema != SCHEMA {
            return Err(failed(rusqlite::Error::InvalidQuery));
        }
        Ok(Index { connection: Mutex::new(connection), path: text, frames: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> RepoError + '_ {
        |source| RepoError::Index { path: self.path.clone(), source }
    }

    /// All places where a chunk is stored, those of least depth first.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Location>, RepoError> {
        let numbers: Vec<u64> = {
            let connection = self.lock();
            let mut statement =
                connection.prepare_cached("SELECT no FROM chunk WHERE id = ?1").map_err(self.failed())?;
            let rows = statement.query_map([id.as_bytes().as_slice()], |row| row.get(0)).map_err(self.failed())?;
            rows.collect::<Result<_, _>>().map_err(self.failed())?
        };
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
        let holds = |frame: &FrameInfo| number >= frame.first && number - frame.first < frame.entry.chunks.len() as u64;
        let recent = || self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(frame) = recent().recent.iter().find(|frame| holds(frame)) {
            return Ok(Some(frame.clone()));
        }
        let frame = {
            let connection = self.lock();
            let sql = "SELECT first, pack, slot, offset, stored_len, depth, body FROM frame WHERE first <= ?1
                       ORDER BY first DESC LIMIT 1";
            let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
            statement.query_row([number], frame_row).optional().map_err(self.failed())?
        };
        let Some(frame) = frame.filter(holds).map(Arc::new) else { return Ok(None) };
        let mut rows = recent();
        if rows.recent.len() < RECENT_FRAMES {
            rows.recent.push(frame.clone());
        } else {
            let next = rows.next;
            rows.recent[next] = frame.clone();
            rows.next = (next + 1) % RECENT_FRAMES;
        }
        Ok(Some(frame))
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

    /// The frames of a pack, in order.
    pub fn frames_of_pack(&self, pack: u64) -> Result<Vec<FrameInfo>, RepoError> {
        let connection = self.lock();
        let sql = "SELECT first, pack, slot, offset, stored_len, depth, body FROM frame WHERE pack = ?1 ORDER BY first";
        let mut statement = connection.prepare_cached(sql).map_err(self.failed())?;
        let rows = statement.query_map([pack], frame_row).map_err(self.failed())?;
        rows.collect::<Result<_, _>>().map_err(self.failed())
    }

    /// One more than the largest chunk number: the length of a bitmap over all chunks.
    pub fn number_limit(&self) -> Result<u64, RepoError> {
        let connection = self.lock();
        connection.query_row("SELECT next FROM counter", [], |row| row.get(0)).map_err(self.failed())
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
                let sql = "SELECT first, pack, slot, offset, stored_len, depth, body FROM frame
                           WHERE depth = ?1 AND first > ?2 ORDER BY first LIMIT 256";
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
            chunks: count("SELECT count(*) FROM chunk").map_err(self.failed())?,
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
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(self.failed())?;
        add_pack(&transaction, kind, id, len, header, frames).map_err(self.failed())?;
        transaction.commit().map_err(self.failed())
    }

    /// Removes all packs; [`Index::refresh`] brings them back. Numbers go on from where they were.
    pub fn clear(&self) -> Result<(), RepoError> {
        let script = "BEGIN IMMEDIATE; DELETE FROM chunk; DELETE FROM frame; DELETE FROM pack; COMMIT;";
        self.lock().execute_batch(script).map_err(self.failed())?;
        *self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = FrameRows::default();
        Ok(())
    }

    /// Removes packs that have gone from storage.
    pub fn remove_packs(&self, packs: &[u64]) -> Result<(), RepoError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(self.failed())?;
        for pack in packs {
            remove_pack(&transaction, *pack).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())?;
        *self.frames.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = FrameRows::default();
        Ok(())
    }
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
        .prepare_cached("INSERT OR IGNORE INTO pack(id, kind, len, header) VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![id.as_bytes().as_slice(), kind as u8, len, header])?;
    if added == 0 {
        return Ok(());
    }
    let pack = connection.last_insert_rowid();
    let mut next: u64 = connection.query_row("SELECT next FROM counter", [], |row| row.get(0))?;
    let sql =
        "INSERT INTO frame(first, pack, slot, offset, stored_len, depth, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let mut insert_frame = connection.prepare_cached(sql)?;
    let mut insert_chunk = connection.prepare_cached("INSERT INTO chunk(id, no) VALUES(?1, ?2)")?;
    for (slot, frame) in frames.iter().enumerate() {
        insert_frame.execute(params![
            next,
            pack,
            slot as u32,
            frame.offset,
            frame.stored_len,
            frame.depth,
            encode_body(frame)
        ])?;
        for chunk in &frame.chunks {
            insert_chunk.execute(params![chunk.id.as_bytes().as_slice(), next])?;
            next += 1;
        }
    }
    connection.prepare_cached("UPDATE counter SET next = ?1")?.execute([next])?;
    Ok(())
}

fn remove_pack(connection: &Connection, pack: u64) -> Result<(), rusqlite::Error> {
    let sql = "SELECT first, pack, slot, offset, stored_len, depth, body FROM frame WHERE pack = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([pack])?;
    let mut delete = connection.prepare_cached("DELETE FROM chunk WHERE id = ?1 AND no = ?2")?;
    while let Some(row) = rows.next()? {
        let frame = frame_row(row)?;
        for (position, chunk) in frame.entry.chunks.iter().enumerate() {
            delete.execute(params![chunk.id.as_bytes().as_slice(), frame.first + position as u64])?;
        }
    }
    connection.prepare_cached("DELETE FROM frame WHERE pack = ?1")?.execute([pack])?;
    connection.prepare_cached("DELETE FROM pack WHERE no = ?1")?.execute([pack])?;
    Ok(())
}

fn pack_row(row: &rusqlite::Row<'_>) -> Result<PackInfo, rusqlite::Error> {
    let id: Vec<u8> = row.get(1)?;
    let kind: u8 = row.get(2)?;
    Ok(PackInfo {
        no: row.get(0)?,
        id: ObjectId::from_slice(&id).map_err(malformed)?,
        kind: Kind::from_number(kind).ok_or(rusqlite::Error::InvalidQuery)?,
        len: row.get(3)?,
        header: row.get(4)?,
    })
}

fn frame_row(row: &rusqlite::Row<'_>) -> Result<FrameInfo, rusqlite::Error> {
    let body: Vec<u8> = row.get(6)?;
    let mut entry = decode_body(&body).map_err(malformed)?;
    entry.offset = row.get(3)?;
    entry.stored_len = row.get(4)?;
    entry.depth = row.get(5)?;
    Ok(FrameInfo { first: row.get(0)?, pack: row.get(1)?, slot: row.get(2)?, entry })
}

fn malformed(error: FormatError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// `base_count:varint base:16* chunk_count:varint (len:varint id:16)*`.
fn encode_body(frame: &FrameEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 16 * frame.bases.len() + 19 * frame.chunks.len());
    put_varint(&mut out, frame.bases.len() as u64);
    frame.bases.iter().for_each(|base| out.extend_from_slice(base.as_bytes()));
    put_varint(&mut out, frame.chunks.len() as u64);
    for chunk in &frame.chunks {
        put_varint(&mut out, u64::from(chunk.len));
        out.extend_from_slice(chunk.id.as_bytes());
    }
    out
}

// The cache directory is not the repository, but its bytes are bounded all the same.
fn decode_body(body: &[u8]) -> Result<FrameEntry, FormatError> {
    let what = "index row";
    let mut cursor = Cursor::new(body);
    let mut bases = Vec::new();
    for _ in 0..cursor.varint_up_to(MAX_FRAME_CHUNKS as u64, what)? {
        bases.push(ChunkId::from_bytes(cursor.array(what)?));
    }
    let mut chunks = Vec::new();
    let mut raw = 0;
    for _ in 0..cursor.varint_up_to(MAX_FRAME_CHUNKS as u64, what)? {
        let len = cursor.varint_up_to(MAX_FRAME_RAW as u64 - raw, what)?;
        raw += len;
        chunks.push(ChunkEntry { len: len as u32, id: ChunkId::from_bytes(cursor.array(what)?) });
    }
    if !cursor.is_empty() || chunks.is_empty() {
        return Err(FormatError::invalid(what, "another length"));
    }
    Ok(FrameEntry { offset: 0, stored_len: 0, depth: 0, bases, chunks })
}
