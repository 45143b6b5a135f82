//! What a running server says of its archiving.

use serde::Serialize;

use super::{Cluster, PostgresSettings};
use crate::source::SourceError;

/// The state of a server's archiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Archiver {
    /// The cluster's identifier.
    pub system_id: String,
    /// `off`, `on` or `always`.
    pub mode: String,
    /// The segment that is being written.
    pub current: String,
    /// The file that was archived last.
    pub last_archived: Option<String>,
    /// When, as the server writes it.
    pub last_archived_time: Option<String>,
    /// How often archiving has failed.
    pub failed: u64,
    /// The file that failed last.
    pub last_failed: Option<String>,
    /// When, as the server writes it.
    pub last_failed_time: Option<String>,
    /// Whether the last attempt failed.
    pub is_failing: bool,
    /// How many segments were written since the last that was archived.
    pub behind: Option<u64>,
}

/// Asks a server that is no standby.
pub fn archiver(settings: &PostgresSettings) -> Result<Archiver, SourceError> {
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_setting('archive_mode'), \
               pg_walfile_name(pg_current_wal_lsn()), coalesce(last_archived_wal, ''), \
               coalesce(last_archived_time::text, ''), failed_count, coalesce(last_failed_wal, ''), \
               coalesce(last_failed_time::text, ''), \
               coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false), \
               (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_stat_archiver";
    let cluster = Cluster::connect(settings)?;
    let row = cluster.one("ask for its archiver", sql)?;
    let some = |at| Ok::<_, SourceError>(Some(cluster.text(&row, at)?).filter(|text| !text.is_empty()));
    let (current, last_archived, size) = (cluster.text(&row, 2)?, some(3)?, cluster.count(&row, 9)?);
    Ok(Archiver {
        system_id: cluster.text(&row, 0)?,
        mode: cluster.text(&row, 1)?,
        behind: last_archived.as_deref().and_then(|last| between(last, &current, size)),
        current,
        last_archived,
        last_archived_time: some(4)?,
        failed: cluster.count(&row, 5)?,
        last_failed: some(6)?,
        last_failed_time: some(7)?,
        is_failing: cluster.value(&row, 8)?,
    })
}

/// How many whole segments lie between two.
fn between(last: &str, current: &str, size: u64) -> Option<u64> {
    let position = |name: &str| crate::format::wal::WalName::parse(name)?.segment()?.position(size);
    Some((position(current)?.checked_sub(position(last)?)? / size.max(1)).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn what_is_not_archived_yet_is_counted_in_segments() {
        let (last, current) = ("0000000100000000000000FE", "000000010000000100000002");
        assert_eq!(between(last, current, 16 << 20), Some(3));
        assert_eq!(between(last, last, 16 << 20), Some(0));
        assert_eq!(between(current, last, 16 << 20), None);
    }
}
