//! Frames: the unit of compression. Whole chunks, concatenated, as one zstd frame (RFC 8878) with its content size,
//! without checksum or dictionary id. A delta frame is compressed with the concatenated content of its base chunks
//! as zstd prefix: raw content, used once (`ZSTD_CCtx_refPrefix`), which a decoder needs again.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

use crate::format::FormatError;

/// Raw bytes of the chunks of one frame, at most.
pub const MAX_FRAME_RAW: usize = 8 << 20;
/// Raw bytes of the base chunks of one frame, at most.
pub const MAX_BASE_RAW: usize = 16 << 20;
/// Chunks in one frame, and bases of one frame, at most.
pub const MAX_FRAME_CHUNKS: usize = 1 << 16;
/// A frame's depth is at most this. A base chunk must be read from a frame of smaller depth, so reading ends.
pub const MAX_DEPTH: u8 = 8;

/// How a prefix is searched beside what the level does: 2^17 places of 64 bytes each, one in 2^5. The fast matchers forget
/// most of a prefix of megabytes; long matches are what it is for.
const LONG_MATCHES: [CParameter; 3] =
    [CParameter::LdmHashLog(17), CParameter::LdmMinMatch(64), CParameter::LdmHashRateLog(5)];

/// Compresses `raw` (at most [`MAX_FRAME_RAW`]) with `prefix` (at most [`MAX_BASE_RAW`]; empty for none).
pub fn compress(level: i32, raw: &[u8], prefix: &[u8]) -> Result<Vec<u8>, FormatError> {
    let fail = |code| FormatError::Zstd { what: "compression", why: get_error_name(code).to_owned() };
    // The window reaches over prefix and content, so that all of the prefix can be matched.
    let reach = raw.len() + prefix.len();
    let window_log = (usize::BITS - reach.leading_zeros()).clamp(17, 25);
    // A prefix borrows for as long as its context lives, so each frame has its own context; making one costs
    // about a twentieth of compressing 1 MiB.
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(fail)?;
    context.set_parameter(CParameter::WindowLog(window_log)).map_err(fail)?;
    if !prefix.is_empty() {
        context.set_parameter(CParameter::EnableLongDistanceMatching(true)).map_err(fail)?;
        for parameter in LONG_MATCHES {
            context.set_parameter(parameter).map_err(fail)?;
        }
        context.ref_prefix(prefix).map_err(fail)?;
    }
    let mut out = Vec::with_capacity(compress_bound(raw.len()));
    context.compress2(&mut out, raw).map_err(fail)?;
    Ok(out)
}

/// Decompresses a frame that must give exactly `raw_len` bytes (at most [`MAX_FRAME_RAW`]).
pub fn decompress(compressed: &[u8], raw_len: usize, prefix: &[u8]) -> Result<Vec<u8>, FormatError> {
    decompress_into(Vec::new(), compressed, raw_len, prefix)
}

/// [`decompress`] into a buffer that is there already; what is in it is replaced.
pub fn decompress_into(
    mut out: Vec<u8>,
    compressed: &[u8],
    raw_len: usize,
    prefix: &[u8],
) -> Result<Vec<u8>, FormatError> {
    for (what, found, limit) in
        [("frame length", raw_len, MAX_FRAME_RAW), ("frame base length", prefix.len(), MAX_BASE_RAW)]
    {
        if found > limit {
            return Err(FormatError::TooLarge { what, found: found as u64, limit: limit as u64 });
        }
    }
    let fail = |code| FormatError::Zstd { what: "decompression", why: get_error_name(code).to_owned() };
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(fail)?;
    }
    out.clear();
    out.reserve_exact(raw_len);
    context.decompress(&mut out, compressed).map_err(fail)?;
    if out.len() != raw_len {
        let why = format!("{} bytes where {raw_len} were promised", out.len());
        return Err(FormatError::Zstd { what: "decompression", why });
    }
    Ok(out)
}
