//! Rows of the index and their sums.
//!
//! Invariant: a row that does not fit its sum is an error, never a frame or a pack.

use rusqlite::{Connection, OptionalExtension};

use crate::format::codec::{Cursor, put_varint};
use crate::format::frame::{MAX_FRAME_CHUNKS, MAX_FRAME_RAW};
use crate::format::pack::{ChunkEntry, FrameEntry};
use crate::format::{ChunkId, FormatError, Kind, ObjectId};
use crate::repo::index::{ChunkNo, FrameInfo, PackInfo};

/// Selects rows for [`frame_row`], those that the end of the statement says. The frame decides the order; each finds its
/// pack by number. A constant, since it is looked up for every frame.
macro_rules! frames {
    ($end:literal) => {
        concat!(
            "SELECT first, pack, slot, offset, stored_len, depth, body, frame.sum, pack.id, frame.work
             FROM frame CROSS JOIN pack ON pack.no = frame.pack ",
            $end
        )
    };
}
pub(super) use frames;

/// The first eight bytes of a hash, as SQLite keeps integers.
pub(super) fn short(hasher: &blake3::Hasher) -> i64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    i64::from_le_bytes(bytes)
}

/// Binds a frame's row to its pack and its numbers.
pub(super) fn frame_sum(pack: &ObjectId, first: ChunkNo, slot: u32, frame: &FrameEntry, body: &[u8]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(pack.as_bytes());
    for number in [first, u64::from(slot), frame.offset, u64::from(frame.stored_len), u64::from(frame.depth)] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(body);
    short(&hasher)
}

/// Begins the sum of a pack's row; the sums of its frames follow in order.
pub(super) fn pack_sum(kind: u8, len: u64, header: &[u8]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&len.to_le_bytes());
    hasher.update(header);
    hasher
}

/// The numbers of all packs, in order.
pub(super) fn pack_numbers(connection: &Connection) -> Result<Vec<u64>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT no FROM pack ORDER BY no")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn frames_of_pack(connection: &Connection, pack: u64) -> Result<Vec<FrameInfo>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(frames!("WHERE pack = ?1 ORDER BY first"))?;
    let rows: Vec<(FrameInfo, i64)> =
        statement.query_map([pack], |row| Ok((frame_row(row)?, row.get(7)?)))?.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare_cached("SELECT kind, len, header, sum FROM pack WHERE no = ?1")?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let found: Option<(u8, u64, Vec<u8>, i64)> = statement.query_row([pack], row).optional()?;
    let Some((kind, len, header, wanted)) = found else { return Ok(Vec::new()) };
    let mut sum = pack_sum(kind, len, &header);
    for (_, frame_sum) in &rows {
        sum.update(&frame_sum.to_le_bytes());
    }
    if short(&sum) != wanted {
        return Err(malformed(FormatError::Hash { what: "index entry of a pack" }));
    }
    Ok(rows.into_iter().map(|(frame, _)| frame).collect())
}

/// Whether an error says that the file is damaged, and not that it is busy or that its place cannot be used.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OperationInterrupted,
        OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
    };
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return true };
    !matches!(
        failure.code,
        CannotOpen
            | DatabaseBusy
            | DatabaseLocked
            | DiskFull
            | FileLockingProtocolFailed
            | OperationInterrupted
            | OutOfMemory
            | PermissionDenied
            | ReadOnly
            | SystemIoFailure
    )
}

pub(super) fn pack_row(row: &rusqlite::Row<'_>) -> Result<PackInfo, rusqlite::Error> {
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

pub(super) fn frame_row(row: &rusqlite::Row<'_>) -> Result<FrameInfo, rusqlite::Error> {
    let body: Vec<u8> = row.get(6)?;
    let mut entry = decode_body(&body).map_err(malformed)?;
    entry.offset = row.get(3)?;
    entry.stored_len = row.get(4)?;
    entry.depth = row.get(5)?;
    // No sum covers it, and nothing but the choice of bases depends on it.
    let base_work_kib = row.get(9).unwrap_or_default();
    let info = FrameInfo { first: row.get(0)?, pack: row.get(1)?, slot: row.get(2)?, entry, base_work_kib };
    let (sum, pack): (i64, Vec<u8>) = (row.get(7)?, row.get(8)?);
    let pack = ObjectId::from_slice(&pack).map_err(malformed)?;
    if frame_sum(&pack, info.first, info.slot, &info.entry, &body) != sum {
        return Err(malformed(FormatError::Hash { what: "index entry of a frame" }));
    }
    Ok(info)
}

pub(super) fn malformed(error: FormatError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// `base_count:varint base:16* chunk_count:varint (len:varint id:16)*`.
pub(super) fn encode_body(frame: &FrameEntry) -> Vec<u8> {
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
