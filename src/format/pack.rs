//! Packs: a file of sealed frames and a sealed footer that lists them. The footer is the pack's index segment: all
//! that the index knows of a pack comes from it (format-spec/objects.md, "Packs").
//!
//! ```text
//! pack    := header:40 frame* footer trailer
//! frame   := sealed(position i, zstd frame)            frame i, ciphertext and tag, back to back from offset 40
//! footer  := sealed(position 2^63, zstd(footer body))
//! trailer := footer_len:u32le "CEND"                   footer_len: stored length of the sealed footer
//! body    := frame_count:varint frame_entry*
//! frame_entry := stored_len:varint depth:u8 base_count:varint base_id:16* chunk_count:varint chunk_len:varint* chunk_id:16*
//! ```

use crate::format::codec::{Cursor, put_varint};
use crate::format::crypto::{Envelope, FOOTER_POSITION, HEADER_LEN, Keys, TAG_LEN};
use crate::format::frame::{self, MAX_DEPTH, MAX_FRAME_CHUNKS, MAX_FRAME_RAW};
use crate::format::{ChunkId, FormatError, Kind};

/// Bytes after the footer.
pub const TRAILER_LEN: usize = 8;
/// A pack is at most this long.
pub const MAX_PACK: u64 = 256 << 20;
/// A footer body is at most this long.
pub const MAX_FOOTER: usize = 32 << 20;
/// Frames in one pack, at most.
pub const MAX_FRAMES: usize = 1 << 16;
/// A chunk's raw length is at most this.
pub const MAX_CHUNK: usize = 4 << 20;

const END: [u8; 4] = *b"CEND";

/// One chunk within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its id.
    pub id: ChunkId,
    /// Its raw length, 1 to [`MAX_CHUNK`].
    pub len: u32,
}

/// One frame of a pack, as its footer tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where the sealed frame begins in the pack. Not stored: the sum of what precedes it.
    pub offset: u64,
    /// Length of the sealed frame.
    pub stored_len: u32,
    /// 0 without bases, else more than the depth of every base.
    pub depth: u8,
    /// The chunks whose content, concatenated, is the zstd prefix.
    pub bases: Vec<ChunkId>,
    /// The chunks within, in order.
    pub chunks: Vec<ChunkEntry>,
}

impl FrameEntry {
    /// Sum of the chunk lengths.
    pub fn raw_len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len as usize).sum()
    }
}

/// Encodes the trailer for a sealed footer of this length.
pub fn trailer(footer_len: u32) -> [u8; TRAILER_LEN] {
    let mut trailer = [0; TRAILER_LEN];
    trailer[..4].copy_from_slice(&footer_len.to_le_bytes());
    trailer[4..].copy_from_slice(&END);
    trailer
}

/// Reads the trailer of a pack of `pack_len` bytes; the stored footer's length.
pub fn footer_len(pack_len: u64, trailer: &[u8]) -> Result<u32, FormatError> {
    let invalid = |why: &str| FormatError::invalid("pack trailer", why);
    let trailer: &[u8; TRAILER_LEN] = trailer.try_into().map_err(|_| invalid("it is truncated"))?;
    let (len, end) = trailer.split_at(4);
    if end != END {
        return Err(invalid("the pack does not end like a pack: it is truncated or damaged"));
    }
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    let room = pack_len.saturating_sub((HEADER_LEN + TRAILER_LEN) as u64);
    if u64::from(len) > room || (len as usize) < TAG_LEN || len as usize > MAX_FOOTER + TAG_LEN {
        return Err(invalid("its footer length is impossible"));
    }
    Ok(len)
}

/// Appends the sealed footer and the trailer to a pack that holds its header and these frames.
pub fn seal_footer(envelope: &Envelope, frames: &[FrameEntry], pack: &mut Vec<u8>) -> Result<(), FormatError> {
    let body = encode_body(frames);
    let start = pack.len();
    envelope.seal(FOOTER_POSITION, &frame::compress(3, &body, &[])?, pack)?;
    let len = u32::try_from(pack.len() - start).map_err(|_| FormatError::invalid("pack footer", "it is too long"))?;
    pack.extend_from_slice(&trailer(len));
    Ok(())
}

/// Opens a stored footer of a pack of this kind and length, whose first bytes are `header`.
pub fn open_footer(
    keys: &Keys,
    kind: Kind,
    header: &[u8],
    pack_len: u64,
    stored: &mut [u8],
) -> Result<Vec<FrameEntry>, FormatError> {
    let frames_end = pack_len.checked_sub((stored.len() + TRAILER_LEN) as u64);
    let frames_end = frames_end.ok_or(FormatError::Truncated { what: "pack" })?;
    let envelope = keys.open_envelope(kind, header)?;
    let plain = envelope.open(FOOTER_POSITION, stored)?;
    let body = decompress_body(plain)?;
    decode_body(&body, frames_end)
}

fn encode_body(frames: &[FrameEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, frames.len() as u64);
    for frame in frames {
        put_varint(&mut out, u64::from(frame.stored_len));
        out.push(frame.depth);
        put_varint(&mut out, frame.bases.len() as u64);
        for base in &frame.bases {
            out.extend_from_slice(base.as_bytes());
        }
        put_varint(&mut out, frame.chunks.len() as u64);
        for chunk in &frame.chunks {
            put_varint(&mut out, u64::from(chunk.len));
        }
        for chunk in &frame.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
        }
    }
    out
}

fn decompress_body(compressed: &[u8]) -> Result<Vec<u8>, FormatError> {
    let what = "pack footer";
    let size = zstd::zstd_safe::get_frame_content_size(compressed)
        .map_err(|_| FormatError::invalid(what, "no zstd frame"))?
        .ok_or_else(|| FormatError::invalid(what, "it does not tell its length"))?;
    if size > MAX_FOOTER as u64 {
        return Err(FormatError::TooLarge { what, found: size, limit: MAX_FOOTER as u64 });
    }
    let mut body = Vec::with_capacity(size as usize);
    zstd::zstd_safe::decompress(&mut body, compressed)
        .map_err(|code| FormatError::Zstd { what, why: zstd::zstd_safe::get_error_name(code).to_owned() })?;
    Ok(body)
}

/// Decodes a footer body; the frames must fill the pack exactly up to `frames_end`.
pub fn decode_body(body: &[u8], frames_end: u64) -> Result<Vec<FrameEntry>, FormatError> {
    let what = "pack footer";
    let mut cursor = Cursor::new(body);
    let count = cursor.varint_up_to(MAX_FRAMES as u64, "frame count")?;
    let mut frames = Vec::new();
    let mut offset = HEADER_LEN as u64;
    for _ in 0..count {
        let frame = decode_entry(&mut cursor, offset)?;
        offset += u64::from(frame.stored_len);
        frames.push(frame);
    }
    if !cursor.is_empty() {
        return Err(FormatError::invalid(what, "bytes are left over"));
    }
    if offset != frames_end {
        return Err(FormatError::invalid(what, "its frames do not fill the pack"));
    }
    Ok(frames)
}

fn decode_entry(cursor: &mut Cursor<'_>, offset: u64) -> Result<FrameEntry, FormatError> {
    let what = "pack footer";
    let stored_len = cursor.varint_up_to(2 * MAX_FRAME_RAW as u64, "frame length")? as u32;
    let depth = cursor.byte(what)?;
    let base_count = cursor.varint_up_to(MAX_FRAME_CHUNKS as u64, "frame base count")? as usize;
    if depth > MAX_DEPTH || (depth == 0) != (base_count == 0) {
        return Err(FormatError::invalid(what, format!("a frame of depth {depth} with {base_count} bases")));
    }
    let bases = cursor.take(base_count * ChunkId::LEN, what)?;
    let bases = bases.chunks_exact(ChunkId::LEN).map(ChunkId::from_slice).collect::<Result<_, _>>()?;
    let chunk_count = cursor.varint_up_to(MAX_FRAME_CHUNKS as u64, "frame chunk count")? as usize;
    let mut lens = Vec::with_capacity(chunk_count.min(cursor.rest().len()));
    let mut raw = 0u64;
    for _ in 0..chunk_count {
        let len = cursor.varint_up_to(MAX_CHUNK as u64, "chunk length")? as u32;
        raw += u64::from(len);
        if len == 0 || raw > MAX_FRAME_RAW as u64 {
            return Err(FormatError::invalid(what, format!("a chunk of {len} bytes in a frame of {raw}")));
        }
        lens.push(len);
    }
    let ids = cursor.take(chunk_count * ChunkId::LEN, what)?;
    let mut chunks = Vec::with_capacity(chunk_count);
    for (id, len) in ids.chunks_exact(ChunkId::LEN).zip(lens) {
        chunks.push(ChunkEntry { id: ChunkId::from_slice(id)?, len });
    }
    if chunks.is_empty() || (stored_len as usize) < TAG_LEN {
        return Err(FormatError::invalid(what, "a frame without chunks"));
    }
    Ok(FrameEntry { offset, stored_len, depth, bases, chunks })
}
