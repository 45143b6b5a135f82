//! A base backup: the files of a running cluster, and the write-ahead log that makes them one point in time.
//!
//! Invariant: the files mean nothing without what [`BaseBackup::finish`] gives: the label that says where recovery
//! begins, and every segment of the log from there to the end. One session does it all, never in the exclusive mode (in
//! which a crash of the server leaves a data directory that does not start). If the session ends early, the server
//! forgets the backup and `finish` fails. A replication slot that goes with the session keeps the log in place until
//! [`BaseEnd`] is dropped, so it lives until the log is captured, too.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::format::set::{BaseFacts, PostgresFacts};
use crate::format::timeline::{lsn, position};
use crate::source::SourceError;
use crate::source::command::Account;
use crate::source::postgres::cluster::Cluster;
use crate::source::postgres::counts;
use crate::source::postgres::files::{self, Layout, escaped, unfit};
use crate::source::postgres::{Method, PostgresSettings};
use crate::source::scratch::owned_directory;
use crate::source::wait;

/// Directories that are captured empty: their content is of use to the running server only, or comes otherwise.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Files that belong to the running server, or to another backup.
const LEFT_OUT: [&str; 9] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
];
/// Of sorting that runs, and caches that are made again: at any depth.
const PASSING: [&str; 2] = ["**/pgsql_tmp*", "**/pg_internal.init*"];
/// Temporary tables, in the directory of a database.
const TEMPORARY: &str = "*/t[0-9]*_[0-9]*";
/// A backup during which more log than this is written is not believed.
const MAX_SEGMENTS: u64 = 1 << 20;

/// A base backup that has begun: the files may be copied.
pub struct BaseBackup {
    cluster: Cluster,
    layout: Layout,
    facts: PostgresFacts,
    major: u32,
    start: u64,
}

/// A base backup that has ended. Keeps the log in place while it lives.
pub struct BaseEnd {
    /// The content of `backup_label`, which must lie in the restored data directory.
    pub label: Vec<u8>,
    /// The content of `tablespace_map`; empty if there are no tablespaces.
    pub tablespace_map: Vec<u8>,
    /// Where it lies in the log; nobody has looked yet whether that is archived.
    pub place: BaseFacts,
    /// The segments of the log that must lie in the restored `pg_wal`, oldest first.
    pub segments: Vec<PathBuf>,
    _session: Cluster,
}

impl BaseBackup {
    /// Begins one, with a checkpoint. `label` is for people.
    pub fn start(settings: &PostgresSettings, label: &str, stop: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        let cluster = Cluster::connect(settings)?;
        let row = cluster.one("ask whether it is a standby", "SELECT pg_is_in_recovery()")?;
        if cluster.value(&row, 0)? {
            return Err(cluster.unfit("it is a standby, whose log cannot be closed here; back its primary up"));
        }
        let major = cluster.version()?.major;
        let facts = counts::begun(&cluster, Method::Base)?;
        let layout = files::layout_of(&cluster.data_directory()?)?;
        cluster.execute(
            "keep its session",
            "SET statement_timeout = 0; SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'",
        )?;
        // Before the backup begins, so that nothing that it needs is gone when it does. Best effort: without a slot
        // the end notices what is missing.
        let slot = "SELECT pg_create_physical_replication_slot('cairn_' || pg_backend_pid(), true, true)";
        if let Err(error) = cluster.execute("keep its log in place", slot) {
            tracing::warn!("{error}; a long backup may find that log it needs is gone");
        }
        let sql = match major {
            15.. => "SELECT pg_backup_start($1, true)::text",
            _ => "SELECT pg_start_backup($1, true, false)::text",
        };
        let action = "begin a base backup";
        let rows = cluster.query(action, sql, &[&label], None, stop).map_err(|failed| cluster.told(action, failed))?;
        let text = cluster.text(&cluster.first(rows)?, 0)?;
        let start = position(&text).ok_or_else(|| cluster.unfit("a position that is none"))?;
        Ok(BaseBackup { cluster, layout, facts, major, start })
    }

    /// Where it is in the cluster's history; without databases.
    pub fn facts(&self) -> &PostgresFacts {
        &self.facts
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.layout.data
    }

    /// What is to be copied: the data directory, and of each tablespace the directory of this version.
    pub fn roots(&self) -> Result<Vec<PathBuf>, SourceError> {
        let mut roots = vec![self.layout.data.clone()];
        let prefix = format!("PG_{}_", self.major);
        for tablespace in &self.layout.tablespaces {
            for entry in fs::read_dir(tablespace).map_err(SourceError::when("list", tablespace))? {
                let path = entry.map_err(SourceError::when("list", tablespace))?.path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                    roots.push(path);
                }
            }
        }
        Ok(roots)
    }

    /// What of it is left out, as globs of [`crate::source::files::Patterns`]. Files of tables that are dropped
    /// meanwhile vanish, and files change while they are read: both is made good by the log.
    pub fn excludes(&self) -> Result<Vec<String>, SourceError> {
        let data = escaped(&self.layout.data)?;
        let mut globs: Vec<String> = EMPTIED.iter().map(|name| format!("{data}/{name}/*")).collect();
        globs.extend(LEFT_OUT.iter().map(|name| format!("{data}/{name}")));
        globs.extend(self.layout.excludes()?);
        for root in self.roots()? {
            let root = escaped(&root)?;
            globs.extend(PASSING.iter().map(|glob| format!("{root}/{glob}")));
            let databases = if root == data { format!("{data}/base") } else { root };
            globs.push(format!("{databases}/{TEMPORARY}"));
        }
        Ok(globs)
    }

    /// Ends it, and waits for the log.
    pub fn finish(self, stop: &dyn Fn() -> bool) -> Result<BaseEnd, SourceError> {
        let function = match self.major {
            15.. => "pg_backup_stop(false)",
            _ => "pg_stop_backup(false, false)",
        };
        let sql = format!(
            "SELECT lsn::text, labelfile, coalesce(spcmapfile, ''), substr(pg_walfile_name(lsn), 1, 8), \
             (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'), \
             (extract(epoch FROM clock_timestamp()) * 1000000)::int8 FROM {function}"
        );
        let (cluster, action) = (self.cluster, "end a base backup");
        let rows = cluster.query(action, &sql, &[], None, stop).map_err(|failed| cluster.told(action, failed))?;
        let row = cluster.first(rows)?;
        let (stop_lsn, timeline, size) = (cluster.text(&row, 0)?, cluster.text(&row, 3)?, cluster.count(&row, 4)?);
        let end = position(&stop_lsn).filter(|end| *end > self.start);
        let end = end.ok_or_else(|| cluster.unfit("a base backup that ends before it begins"))?;
        let names = segments(&timeline, self.start, end, size);
        let names = names.ok_or_else(|| cluster.unfit("segments of its log that cannot be named"))?;
        let wal = self.layout.data.join("pg_wal");
        let segments: Vec<PathBuf> = names.iter().map(|name| wal.join(name)).collect();
        await_log(&segments, size, Duration::from_secs(cluster.settings().wal_timeout_seconds), stop)?;
        let ended = Timestamp::from_microsecond(cluster.value(&row, 5)?);
        let ended = ended.map_err(|_| cluster.unfit("a time that is none"))?;
        let start_lsn = lsn(self.start);
        Ok(BaseEnd {
            label: cluster.text(&row, 1)?.into_bytes(),
            tablespace_map: cluster.text(&row, 2)?.into_bytes(),
            place: BaseFacts { start_lsn, stop_lsn, ended, segment_bytes: size, archived: false },
            segments,
            _session: cluster,
        })
    }
}

/// Where the log of a base backup goes: `pg_wal` of the restored data directory. Where that was a link to another disk,
/// it is made a directory: what the link leads to may be in use.
pub fn own_log(settings: &PostgresSettings, data: &Path) -> Result<PathBuf, SourceError> {
    let log = data.join("pg_wal");
    if fs::symlink_metadata(&log).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(&log).map_err(SourceError::when("replace", &log))?;
    }
    if !log.exists() {
        owned_directory(&log, Some(&settings.account()?))?;
    }
    Ok(log)
}

/// Makes a restored data directory ready for a server: with label and map, and refusing what would not recover.
/// The log must lie in its `pg_wal` already.
pub fn complete_base(
    settings: &PostgresSettings,
    data: &Path,
    label: &[u8],
    tablespace_map: &[u8],
) -> Result<(), SourceError> {
    if let Some(pid) = files::is_running(data)? {
        return Err(unfit(data, format!("process {pid} works on it; stop the server first")));
    }
    let text = String::from_utf8_lossy(label);
    let first = text.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: ")?.split_once("(file "));
    let first = first.and_then(|(_, name)| name.strip_suffix(')'));
    let first = first.filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let first = first.ok_or_else(|| unfit(data, "its backup label does not name where recovery begins".to_owned()))?;
    if !data.join("pg_wal").join(first).is_file() {
        return Err(unfit(data, format!("its pg_wal does not hold the segment {first}, where recovery begins")));
    }
    let account = settings.account()?;
    let mut files = vec![("backup_label", label)];
    if !tablespace_map.is_empty() {
        files.push(("tablespace_map", tablespace_map));
    }
    for (name, content) in files {
        written(&data.join(name), content, &account)?;
    }
    let directory = File::open(data).map_err(SourceError::when("open", data))?;
    directory.sync_all().map_err(SourceError::when("flush", data))
}

pub(super) fn written(path: &Path, content: &[u8], account: &Account) -> Result<(), SourceError> {
    let mut options = OpenOptions::new();
    // Never through a link, nor over another backup's: whoever wants that removes it first.
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).map_err(SourceError::when("create", path))?;
    file.write_all(content).map_err(SourceError::when("write", path))?;
    if !account.is_ours() {
        fchown(&file, Some(account.uid), Some(account.gid)).map_err(SourceError::when("give its owner to", path))?;
    }
    file.sync_all().map_err(SourceError::when("flush", path))
}

/// Waits until each segment is there as a whole.
fn await_log(segments: &[PathBuf], size: u64, limit: Duration, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
    let deadline = wait::deadline(limit);
    for segment in segments {
        while segment.metadata().map(|found| found.len()).ok() != Some(size) {
            if Instant::now() >= deadline {
                let what = format!("the segment {} was not there, which the backup needs,", segment.display());
                return Err(SourceError::Timeout { what, limit });
            }
            wait::pause(wait::INTERVAL, stop)?;
        }
    }
    Ok(())
}

/// The names of the segments from one position to just before another.
fn segments(timeline: &str, start: u64, end: u64, size: u64) -> Option<Vec<String>> {
    let valid = timeline.len() == 8 && timeline.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !valid || !size.is_power_of_two() || size > 1 << 32 {
        return None;
    }
    let (first, last, each) = (start / size, (end - 1) / size, (1 << 32) / size);
    (last - first < MAX_SEGMENTS)
        .then(|| (first..=last).map(|at| format!("{timeline}{:08X}{:08X}", at / each, at % each)).collect())
}

#[cfg(test)]
mod tests {
    use super::segments;

    #[test]
    fn segments_are_named_as_the_server_does() {
        let names = segments("00000002", 0x1_FE00_0028, 0x2_0100_0000, 16 << 20).unwrap_or_default();
        assert_eq!(names, ["0000000200000001000000FE", "0000000200000001000000FF", "000000020000000200000000"]);
        assert_eq!(segments("0000000g", 0, 1, 16 << 20), None);
        assert_eq!(segments("00000001", 0, u64::MAX, 1 << 20), None);
    }
}
