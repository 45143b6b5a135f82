//! What a migration leaves in the state directory: `migrate.json` says when it began and how it ended, `migrate.log` has
//! every line of its program, `migrate.lock` is held while it works.
//!
//! Invariant: "it runs" is never read from a file: it is the lock, which ends with its holder, however that ends. Who looks
//! asks for the lock first and reads the record then; the worker writes the record's end first and lets the lock go
//! then. So a record without an end, of a lock that is free, is of a migration that was cut off.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::state::{StateDir, read_file};

pub(super) const LOCK: &str = "migrate.lock";
const RECORD: &str = "migrate.json";
const LOG: &str = "migrate.log";
const PROFILE: &str = "migrate.toml";
/// A record is at most this long.
const MAX_RECORD: u64 = 1 << 20;
/// The log is at most about this long; of what comes later only the number of lines is kept.
const MAX_LOG: u64 = 64 << 20;
/// The end of a log in which its last lines are looked for.
const TAIL: u64 = 64 << 10;

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which one: whoever starts it chooses this.
    pub id: String,
    /// When it began.
    pub began: Timestamp,
    /// The worker's process.
    pub process: u32,
    /// What it runs.
    pub command: Vec<String>,
    /// How it ended; none while it runs, or if it was cut off.
    pub ended: Option<Ended>,
}

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub time: Timestamp,
    /// The exit status of its program, if it had one.
    pub exit_status: Option<i32>,
    /// How many lines its program wrote. None is success.
    pub lines: u64,
    /// In words.
    pub how: String,
}

impl Ended {
    /// Whether all went well: its program ended with status 0, and said nothing.
    pub fn is_success(&self) -> bool {
        self.exit_status == Some(0) && self.lines == 0
    }
}

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There was none yet.
    None,
    /// It runs.
    Running,
    /// It has ended.
    Ended,
    /// Its worker was killed, or the machine lost its power.
    CutOff,
}

/// The files of a migration.
#[derive(Clone, Debug)]
pub struct Files<'s> {
    state: &'s StateDir,
}

impl<'s> Files<'s> {
    /// Those in this directory.
    pub fn of(state: &'s StateDir) -> Self {
        Files { state }
    }

    /// What is so now, and the record of the last migration.
    pub fn look(&self) -> Result<(State, Option<Record>), OrchestrateError> {
        // In this order: see the invariant.
        let runs = self.state.is_locked(LOCK)?;
        let record = self.record()?;
        let state = match &record {
            Some(record) if record.ended.is_some() => State::Ended,
            _ if runs => State::Running,
            Some(_) => State::CutOff,
            None => State::None,
        };
        Ok((state, record))
    }

    fn record(&self) -> Result<Option<Record>, OrchestrateError> {
        let path = self.state.file(RECORD);
        let read = || -> io::Result<Record> { Ok(serde_json::from_slice(&read_file(&path, MAX_RECORD)?)?) };
        match read() {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.state.failed("read", &path, source)),
        }
    }

    /// Makes a record durable, in the place of the one before.
    pub(super) fn write(&self, record: &Record) -> Result<(), OrchestrateError> {
        let path = self.state.file(RECORD);
        serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| self.replace(RECORD, &bytes))
            .map_err(|source| self.state.failed("write", &path, source))
    }

    /// Leaves the profile for the worker, so that it works with the very profile that was asked for.
    pub(super) fn write_profile(&self, profile: &Profile) -> Result<PathBuf, OrchestrateError> {
        let path = self.state.file(PROFILE);
        self.replace(PROFILE, profile.to_toml().as_bytes())
            .map_err(|source| self.state.failed("write", &path, source))?;
        Ok(path)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let directory = self.state.file("");
        // Only its owner may read it: it is made so.
        let mut file = tempfile::Builder::new().prefix(".migrate-").tempfile_in(&directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.state.file(name)).map_err(|error| error.error)?;
        File::open(&directory)?.sync_all()
    }

    /// The log, for people.
    pub fn log_path(&self) -> PathBuf {
        self.state.file(LOG)
    }

    /// An empty log.
    pub(super) fn create_log(&self) -> Result<Log, OrchestrateError> {
        let path = self.log_path();
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|source| self.state.failed("make", &path, source))?;
        Ok(Log { file, bytes: 0, lines: 0 })
    }

    /// What the log has from this byte on, at most 64 KiB; nothing at its end.
    pub fn log_from(&self, offset: u64) -> Result<Vec<u8>, OrchestrateError> {
        let path = self.log_path();
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|source| self.state.failed("read", &path, source)),
        }
    }

    /// The last lines of the log.
    pub fn last_lines(&self, lines: usize) -> Result<Vec<String>, OrchestrateError> {
        let length = std::fs::metadata(self.log_path()).map_or(0, |found| found.len());
        let tail = self.log_from(length.saturating_sub(TAIL))?;
        let text = String::from_utf8_lossy(&tail);
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
    }
}

/// A log that is written.
pub(super) struct Log {
    file: File,
    bytes: u64,
    pub(super) lines: u64,
}

impl Log {
    /// Adds a line. One that cannot be written is counted all the same: the count decides about success.
    pub(super) fn add(&mut self, line: &str) {
        self.lines += 1;
        if self.bytes < MAX_LOG {
            let line = format!("{line}\n");
            self.bytes += line.len() as u64;
            if let Err(error) = self.file.write_all(line.as_bytes()) {
                tracing::warn!("cannot write the log of the migration: {error}");
            }
        }
    }
}
