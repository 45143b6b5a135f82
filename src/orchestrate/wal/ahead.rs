//! Fetching segments before the server asks for them, while it replays the one that it has.
//!
//! Invariant: nothing depends on it. One process a cluster fills the spool ([`Spool::lock`]); it ends by itself, at the
//! end of the archive or when enough is there.

use crate::format::wal::{SegmentName, WalName};
use crate::orchestrate::OrchestrateError;
use crate::progress::Monitor;
use crate::repo::wal::{Archive, WalFile};
use crate::source::postgres::Spool;

/// Segments that are fetched ahead, at most.
const AHEAD: usize = 8;
/// Their bytes, at most.
const AHEAD_BYTES: u64 = 256 << 20;

/// Whether the spool should be filled, when this segment was fetched.
pub fn is_due(spool: &Spool) -> bool {
    spool.names().is_ok_and(|names| names.len() <= AHEAD / 2)
}

/// Removes what was fetched of a timeline, when the server has asked for what comes after its end.
pub fn clear(spool: &Spool, missing: &WalName) {
    let timeline = |name: &WalName| name.segment().map(|segment| segment.timeline);
    let names = spool.names().unwrap_or_default();
    names.iter().filter(|name| timeline(name) == timeline(missing)).for_each(|name| spool.remove(name));
}

/// Fetches what comes after a segment into the spool; how many files.
pub fn fill(
    archive: &Archive,
    spool: &Spool,
    system_id: u64,
    after: SegmentName,
    monitor: &dyn Monitor,
) -> Result<usize, OrchestrateError> {
    let Some(_lock) = spool.lock()? else { return Ok(0) };
    spool.tidy();
    let Some(head) = archive.head(&WalFile { system_id, name: WalName::Segment(after) })? else { return Ok(0) };
    let size = head.raw_len;
    let most = AHEAD.min((AHEAD_BYTES / size) as usize);
    let next = std::iter::successors(after.next(size), |segment| segment.next(size)).take(most);
    let wanted: Vec<WalName> = next.map(WalName::Segment).collect();
    let there = spool.names()?;
    for name in there.iter().filter(|name| !wanted.contains(name)) {
        spool.remove(name);
    }
    let mut fetched = 0;
    for name in wanted {
        if monitor.interrupted() {
            break;
        }
        if there.contains(&name) {
            continue;
        }
        let mut target = spool.put(&name)?;
        let write = &mut |block: &[u8]| Ok::<(), OrchestrateError>(target.write(block)?);
        if archive.fetch(&WalFile { system_id, name }, write)?.is_none() {
            break;
        }
        target.finish()?;
        fetched += 1;
    }
    Ok(fetched)
}
