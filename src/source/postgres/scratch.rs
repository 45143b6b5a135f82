//! A server for a while on a cluster that was made for it, beside the one that works.
//!
//! Invariants: it listens on a socket in its own directory and on no network. It archives nothing, connects to no other
//! server, loads no library that somebody's configuration names, and writes to nothing outside of its directory: the
//! configuration is its own, and every link of the restored cluster that leads out is laid anew. The log of a base
//! backup that makes or drops a tablespace is not replayed, since that would change directories by their real paths.

mod relocate;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::format::codec::escape_path;
use crate::source::SourceError;
use crate::source::command::{Background, tail};
use crate::source::error::INSUFFICIENT_RESOURCES;
use crate::source::postgres::files::unfit;
use crate::source::postgres::tools;
use crate::source::postgres::{Method, PostgresSettings, Version, wait_until_recovered};
use crate::source::scratch::{Scratch, owned, owned_file};

/// A socket's path is at most so long, by the kernel.
const MAX_SOCKET: usize = 107;
/// How long the server may take to end.
const STOP: Duration = Duration::from_secs(120);
/// What the server prints goes there.
const LOG: &str = "log";
/// So much of its end is looked through.
const LOG_TAIL: u64 = 64 << 10;
const MAX_OUTPUT: usize = 16 << 20;
/// Reading the log of a base backup through may take so long.
const LOG_LIMIT: Duration = Duration::from_secs(3600);

/// Files that make a server recover from an archive, or follow another one.
const RECOVERY: [&str; 3] = ["recovery.conf", "recovery.signal", "standby.signal"];

/// Where everything of such a cluster is: the settings to reach it by, and its directory.
#[derive(Clone, Debug)]
pub struct ScratchCluster {
    /// How it is reached.
    pub settings: PostgresSettings,
    /// Its data directory.
    pub data: PathBuf,
    directory: PathBuf,
}

impl ScratchCluster {
    /// In a directory of the server's account.
    pub fn plan(settings: &PostgresSettings, directory: &Path) -> Result<Self, SourceError> {
        let data = directory.join("data");
        let settings = PostgresSettings {
            socket_directory: directory.to_owned(),
            data_directories: vec![data.clone()],
            ..settings.clone()
        };
        if settings.socket().as_os_str().len() > MAX_SOCKET {
            let why = "its path is too long for a socket: name a shorter one with --scratch".to_owned();
            return Err(SourceError::Setting { setting: escape_path(directory), why });
        }
        Ok(ScratchCluster { settings, data, directory: directory.to_owned() })
    }

    /// Starts a server on it, and waits until it has recovered.
    pub fn start(
        &self,
        scratch: &Scratch,
        limit: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Background, SourceError> {
        let account = self.settings.account()?;
        let file = |name: &str| self.directory.join(name);
        let place =
            self.directory.to_str().ok_or_else(|| unfit(&self.directory, "its path is not UTF-8".to_owned()))?;
        owned_file(&file("postgresql.conf"), &configuration(place, self.settings.port), Some(&account))?;
        owned_file(&file("pg_hba.conf"), "local all all peer\n", Some(&account))?;
        owned_file(&file("pg_ident.conf"), "", Some(&account))?;
        let mut spec = self.settings.program("postgres")?.arg("-D").arg(&self.data);
        for (name, value) in [("config_file", "postgresql"), ("hba_file", "pg_hba"), ("ident_file", "pg_ident")] {
            spec = spec.arg("-c").arg(format!("{name}={}", file(&format!("{value}.conf")).display()));
        }
        let mut server = Background::start(&scratch.marked(spec, &self.directory), &file(LOG))?;
        let what = self.settings.server();
        server.ready(&what, limit, stop, |enough| {
            // Who waits looks at the process itself.
            wait_until_recovered(&self.settings, &self.data, &|| Ok(true), enough)
        })?;
        Ok(server)
    }

    /// What the server last said that it lacks of its machine: room, memory and the like; `None` if it said nothing of
    /// the kind.
    pub fn lacked(&self) -> Option<String> {
        let text = tail(&self.directory.join(LOG), LOG_TAIL).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().rev().find_map(lacking)
    }

    /// A dump as it may be read into it: with its tablespaces in this directory.
    pub fn relocated<R: Read>(&self, dump: R) -> Result<impl Read + use<R>, SourceError> {
        Ok(relocate::Relocated::new(dump, self.directory.clone(), self.settings.account()?))
    }

    /// Where a directory of it goes that is not in its data directory, by its number.
    pub fn beside(&self, number: usize) -> PathBuf {
        self.directory.join(format!("beside-{number}"))
    }

    /// Ends a server.
    pub fn stop(server: Background) -> Result<(), SourceError> {
        server.stop(Signal::INT, STOP)
    }

    /// Makes restored files harmless: no link leads out of the directory, and nothing of the configuration counts that
    /// came with them. `moved` has each restored directory besides the data directory, from where it was to where it is.
    pub fn defuse(&self, moved: &BTreeMap<PathBuf, PathBuf>) -> Result<(), SourceError> {
        for name in RECOVERY {
            remove(&self.data.join(name))?;
        }
        remove(&self.data.join("postgresql.auto.conf"))?;
        owned_file(&self.data.join("postgresql.auto.conf"), "", Some(&self.settings.account()?))?;
        let links = self.data.join("pg_tblspc");
        for entry in fs::read_dir(&links).map_err(SourceError::when("list", &links))? {
            self.lead_within(&entry.map_err(SourceError::when("list", &links))?.path(), moved)?;
        }
        self.lead_within(&self.data.join("pg_wal"), moved)
    }

    fn lead_within(&self, link: &Path, moved: &BTreeMap<PathBuf, PathBuf>) -> Result<(), SourceError> {
        if !fs::symlink_metadata(link).map_err(SourceError::when("look at", link))?.is_symlink() {
            return Ok(());
        }
        let old = fs::read_link(link).map_err(SourceError::when("follow", link))?;
        let new = moved.get(&old).filter(|new| new.starts_with(&self.directory)).ok_or_else(|| {
            unfit(link, format!("it leads to {}, which is not in the set, or under another name", escape_path(&old)))
        })?;
        remove(link)?;
        std::os::unix::fs::symlink(new, link).map_err(SourceError::when("make", link))?;
        owned(link, Some(&self.settings.account()?))
    }

    /// Refuses the log of a base backup in which a tablespace is made or dropped.
    pub fn must_not_touch_tablespaces(&self, segments: &[PathBuf], stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let [first, .., last] = segments else {
            return match segments {
                [one] => self.look_at_log(one, one, stop),
                _ => Ok(()),
            };
        };
        self.look_at_log(first, last, stop)
    }

    fn look_at_log(&self, first: &Path, last: &Path, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let spec = self.settings.program("pg_waldump")?.arg("--rmgr=Tablespace").arg(first).arg(last);
        // It ends with an error where the log does, which is within its last segment.
        let finished = spec.run(MAX_OUTPUT, LOG_LIMIT, stop)?;
        if !finished.stdout.is_empty() {
            let what = "while it was made a tablespace was made or dropped, and replaying that would change its real \
                        directory: make another base backup";
            return Err(unfit(first, what.to_owned()));
        }
        let at_its_end = finished.stderr.contains("error in WAL record") || finished.status.success();
        match at_its_end {
            true => Ok(()),
            false => finished.output().map(drop),
        }
    }
}

/// Whether the server's program is there, and of a version that takes what was captured.
pub fn fits(
    settings: &PostgresSettings,
    method: Method,
    captured: Option<&str>,
    stop: &dyn Fn() -> bool,
) -> Result<Version, SourceError> {
    let found = tools::version(settings, "postgres", stop)?;
    let major = captured.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    match major {
        // SQL goes into a later version, too, as it would after an upgrade of the platform.
        Some(major) if found.major > major && method == Method::Dump => Ok(found),
        Some(major) if found.major != major => Err(SourceError::Setting {
            setting: "postgres.bin-directory".to_owned(),
            why: format!(
                "{} has programs of version {}, and version {major} was captured: name the directory of that version in \
                 drill.postgres.bin-directory",
                settings.bin_directory.display(),
                found.text
            ),
        }),
        _ => Ok(found),
    }
}

fn configuration(directory: &str, port: u16) -> String {
    let quoted = directory.replace('\\', "\\\\").replace('\'', "''");
    format!(
        "listen_addresses = ''\nunix_socket_directories = '{quoted}'\nport = {port}\narchive_mode = off\nssl = off\n\
         shared_preload_libraries = ''\nlogging_collector = off\nlog_destination = 'stderr'\nhuge_pages = off\n\
         dynamic_shared_memory_type = mmap\nmax_connections = 20\nmax_prepared_transactions = 1000\n\
         max_locks_per_transaction = 1024\nmax_wal_senders = 0\nhot_standby = off\nautovacuum = off\n\
         max_logical_replication_workers = 0\nmax_wal_size = 4GB\n\
         log_line_prefix = '%m [%p] %e '\nlog_min_error_statement = panic\n"
    )
}

/// What a line of its log says that it lacked. Of a message of several lines only the first is not indented, so what a dump
/// holds is never taken for one.
fn lacking(line: &str) -> Option<String> {
    let (time, rest) = line.split_once(" [")?;
    let (code, message) = rest.split_once("] ")?.1.split_once(' ').filter(|_| !time.starts_with('\t'))?;
    let is_error = ["ERROR:", "FATAL:", "PANIC:"].iter().any(|word| message.starts_with(word));
    (is_error && code.len() == 5 && code.starts_with(INSUFFICIENT_RESOURCES)).then(|| message.to_owned())
}

fn remove(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SourceError::when("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::lacking;

    #[test]
    fn only_the_server_itself_says_that_it_lacks_something() {
        let said =
            |code: &str, word: &str| lacking(&format!("2026-01-01 02:00:00.123 UTC [17] {code} {word}:  no room"));
        assert_eq!(said("53100", "ERROR"), Some("ERROR:  no room".to_owned()));
        assert!(said("53200", "FATAL").is_some() && said("53100", "PANIC").is_some());
        for (code, word) in [("22012", "ERROR"), ("53100", "CONTEXT"), ("53100", "LOG"), ("5310", "ERROR")] {
            assert_eq!(said(code, word), None, "{code} {word}");
        }
        // What goes on is indented: it may be of the data.
        assert_eq!(lacking("\t2026-01-01 02:00:00.123 UTC [17] 53100 ERROR:  no room"), None);
        assert_eq!(lacking(""), None);
    }
}
