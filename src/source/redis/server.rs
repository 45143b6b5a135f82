//! What a Redis server says about itself: version, role, who is connected, and its dump on disk.
//!
//! Invariant: [`Client::bgsave`] is `Ok` only if the server says that a save which began after the call went well, and,
//! where this machine has the dump's file, only if that file was replaced meanwhile.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::source::SourceError;
use crate::source::redis::{Client, our_name};
use crate::source::wait::pause;

/// How often the server is asked whether it has saved.
const LOOK: Duration = Duration::from_millis(100);
/// Other clients of which more is told than their number.
const CLIENTS: usize = 100;

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// Its process.
    pub pid: Option<u32>,
    /// The file of its dump; `None` where the server does not tell its configuration.
    pub rdb: Option<PathBuf>,
    /// Whether it also writes an append-only file, so that the dump is not what it starts from.
    pub append_only: bool,
}

/// Another program that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherClient {
    /// Where from.
    pub address: String,
    /// What it calls itself.
    pub name: String,
    /// What it asked last.
    pub command: String,
    /// How long ago that was.
    pub idle: Duration,
}

/// The dump that a server has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdbSaved {
    /// Its file, if this machine has it.
    pub file: Option<PathBuf>,
    /// Its size, if this machine has it.
    pub bytes: Option<u64>,
    /// When the server says that it saved: seconds since 1970 by its clock.
    pub time: u64,
}

impl Client {
    fn info_section(&mut self, section: &str) -> Result<BTreeMap<String, String>, SourceError> {
        let text: String = self.ask("tell about itself", redis::cmd("INFO").arg(section))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.trim_end().to_owned())).collect())
    }

    fn config(&mut self, name: &str) -> Option<String> {
        // Hosted servers forbid it or rename it: then it is simply not known.
        let pair: Vec<String> = self.ask("tell its configuration", redis::cmd("CONFIG").arg("GET").arg(name)).ok()?;
        pair.into_iter().nth(1)
    }

    /// What the server is.
    pub fn info(&mut self) -> Result<ServerInfo, SourceError> {
        let mut server = self.info_section("server")?;
        let role = self.info_section("replication")?.remove("role").unwrap_or_default();
        let version = server
            .remove("redis_version")
            .ok_or_else(|| self.answer("it does not tell its version; is it a Redis server?".to_owned()))?;
        let pid = server.get("process_id").and_then(|pid| pid.parse().ok());
        let rdb = match (self.config("dir"), self.config("dbfilename")) {
            (Some(directory), Some(file)) => Some(PathBuf::from(directory).join(file)),
            _ => None,
        };
        let append_only = self.config("appendonly").is_some_and(|value| value == "yes");
        Ok(ServerInfo { version, role, pid, rdb, append_only })
    }

    /// Who else is connected: everyone but this process. At most a hundred are told one by one; the number is of all.
    pub fn other_clients(&mut self) -> Result<(u64, Vec<OtherClient>), SourceError> {
        let list: String = self.ask("list its clients", redis::cmd("CLIENT").arg("LIST"))?;
        let mut count = 0;
        let mut clients = Vec::new();
        for line in list.lines() {
            let fields: BTreeMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
            let field = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
            if field("name") == our_name() {
                continue;
            }
            count += 1;
            if clients.len() < CLIENTS {
                let idle = Duration::from_secs(field("idle").parse().unwrap_or(0));
                let (address, name, command) = (field("addr"), field("name"), field("cmd"));
                clients.push(OtherClient { address, name, command, idle });
            }
        }
        Ok((count, clients))
    }

    /// Has the server write its dump, and waits until it is there.
    pub fn bgsave(&mut self, stop: &dyn Fn() -> bool) -> Result<RdbSaved, SourceError> {
        let limit = Duration::from_secs(self.link.settings().save_timeout_seconds);
        let started = Instant::now();
        let file = self.info()?.rdb;
        let before = file.as_ref().and_then(|path| path.metadata().ok());
        self.await_save(started, limit, stop)?;
        let last: u64 = self.ask("tell when it saved last", &redis::cmd("LASTSAVE"))?;
        // LASTSAVE has whole seconds. Only a save in a later second can be told from the last one.
        while self.time()? <= last {
            if started.elapsed() >= limit {
                return Err(
                    self.answer("its clock stands before its last save; see whether it was put back".to_owned())
                );
            }
            pause(LOOK, stop)?;
        }
        while let Err(error) = self.ask::<String>("start a background save", &redis::cmd("BGSAVE")) {
            // Somebody else's save, or a rewrite of the append-only file, runs: what it writes may be older than now.
            let busy = self.save_runs()?;
            if !busy || started.elapsed() >= limit {
                return Err(error);
            }
            pause(LOOK, stop)?;
        }
        self.await_save(started, limit, stop)?;
        let time: u64 = self.ask("tell when it saved last", &redis::cmd("LASTSAVE"))?;
        let status = self.info_section("persistence")?.remove("rdb_last_bgsave_status").unwrap_or_default();
        if status != "ok" || time <= last {
            return Err(self.answer(format!(
                "its background save failed (status {status:?}); see the server's log, and whether its disk is full"
            )));
        }
        let after = file.as_ref().and_then(|path| path.metadata().ok());
        if let (Some(file), Some(before)) = (&file, &before)
            && after.as_ref().is_none_or(|after| same(before, after))
        {
            let file = file.display();
            return Err(
                self.answer(format!("it says that it saved, but {file} was not replaced; nothing is taken from it"))
            );
        }
        Ok(RdbSaved { file: file.filter(|_| after.is_some()), bytes: after.map(|metadata| metadata.len()), time })
    }

    fn time(&mut self) -> Result<u64, SourceError> {
        let time: Vec<u64> = self.ask("tell the time", &redis::cmd("TIME"))?;
        time.first().copied().ok_or_else(|| self.answer("it does not tell the time".to_owned()))
    }

    fn save_runs(&mut self) -> Result<bool, SourceError> {
        let persistence = self.info_section("persistence")?;
        let running = |name: &str| persistence.get(name).is_some_and(|value| value != "0");
        Ok(running("rdb_bgsave_in_progress") || running("aof_rewrite_in_progress"))
    }

    fn await_save(&mut self, started: Instant, limit: Duration, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        while self.save_runs()? {
            if started.elapsed() >= limit {
                let what = format!("{} did not end its background save", self.link.settings().shown());
                return Err(SourceError::Timeout { what, limit });
            }
            pause(LOOK, stop)?;
        }
        Ok(())
    }
}

/// Whether a dump's file is the one that it was: the server writes another one and renames it.
fn same(before: &Metadata, after: &Metadata) -> bool {
    (before.ino(), before.mtime(), before.mtime_nsec()) == (after.ino(), after.mtime(), after.mtime_nsec())
}
