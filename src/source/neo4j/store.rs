//! The store's files: which to save, and the proof that Neo4j does not use them.
//!
//! Neo4j holds a lock (POSIX, on `store_lock` and on each database's `database_lock`) for as long as it runs. A lock that
//! can be had is one proof that it is stopped, and that no process has a file open below the data directory is another:
//! a second Neo4j with another configuration, or a tool of its own, is seen by that one only.
//!
//! The race that remains, someone starting it later, is for the caller: it looks again when the copy is done.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::configuration::Configuration;
use crate::source::SourceError;
use crate::source::files::swap;

/// At most so many users of the store are named.
const MAX_HOLDERS: usize = 20;

/// How a version of Neo4j lays out its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 3.5: one database, with its transaction logs.
    Three,
    /// 4.x: a database and its logs apart, beside the database `system`.
    Four,
}

/// What to save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePaths {
    /// The database.
    pub database: String,
    /// The layout that was found.
    pub layout: Layout,
    /// What exists of the store, each to be saved as a tree.
    pub paths: Vec<PathBuf>,
    /// Other databases among those paths: no longer in use, perhaps, but kept.
    pub others: Vec<String>,
}

/// A process that has a file of the store open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
    /// One of the files.
    pub path: PathBuf,
}

/// Who uses the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreUse {
    /// Lock files that are locked.
    pub locked: Vec<PathBuf>,
    /// Processes with open files; the first twenty.
    pub holders: Vec<Holder>,
    /// Processes whose open files could not be seen: without root those of other users.
    pub unseen: usize,
}

impl StoreUse {
    /// Whether nobody can be writing to the store. Processes that were not seen spoil the proof.
    pub fn proves_stopped(&self) -> bool {
        self.locked.is_empty() && self.holders.is_empty() && self.unseen == 0
    }

    /// Why it is no proof, for people; empty if it is one.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> =
            self.locked.iter().map(|path| format!("{} is locked by a running Neo4j", path.display())).collect();
        reasons.extend(
            self.holders.iter().map(|holder| {
                format!("process {} ({}) has {} open", holder.pid, holder.program, holder.path.display())
            }),
        );
        if self.unseen > 0 {
            reasons.push(format!("the open files of {} processes cannot be seen; run as root", self.unseen));
        }
        reasons
    }
}

/// What to save of the store that the configuration describes.
pub fn store_paths(configuration: &Configuration) -> Result<StorePaths, SourceError> {
    let found = directories(&configuration.databases)?;
    let default = if found.contains("neo4j") || !found.contains("graph.db") { "neo4j" } else { "graph.db" };
    let database = configuration.database.clone().unwrap_or_else(|| default.to_owned());
    if !found.contains(&database) {
        return Err(SourceError::Setting {
            setting: "database".to_owned(),
            why: format!(
                "there is no {}; databases there: {}; look at dbms.directories.data and at the name of the database in \
                 neo4j.conf, or set data-directory and database",
                configuration.databases.join(&database).display(),
                if found.is_empty() { "none".to_owned() } else { Vec::from_iter(found).join(", ") }
            ),
        });
    }
    let layout = if found.contains("system") { Layout::Four } else { Layout::Three };
    let mut paths: Vec<PathBuf> = found.iter().map(|name| configuration.databases.join(name)).collect();
    let logs = directories(&configuration.transactions)?;
    if layout == Layout::Four && !logs.contains(&database) {
        return Err(SourceError::Setting {
            setting: "dbms.directories.transaction.logs.root".to_owned(),
            why: format!(
                "{} has no transaction logs of {database}, without which it cannot be restored; look at neo4j.conf",
                configuration.transactions.display()
            ),
        });
    }
    paths.extend(logs.iter().map(|name| configuration.transactions.join(name)));
    paths.extend(configuration.transaction_log.iter().filter(|path| path.exists()).cloned());
    // Users and their passwords (3.5, and 4.x's first), and the server's identity.
    let beside = ["dbms", "server_id"].map(|name| configuration.data.join(name));
    paths.extend(beside.into_iter().filter(|path| path.exists()));
    let others = found.into_iter().filter(|name| *name != database && name != "system").collect();
    Ok(StorePaths { database, layout, paths, others })
}

/// Whether a running Neo4j holds one of the store's locks; the files.
pub fn store_lock_is_held(configuration: &Configuration) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = vec![configuration.databases.join("store_lock"), configuration.data.join("store_lock")];
    for name in directories(&configuration.databases)? {
        let database = configuration.databases.join(name);
        files.extend(["database_lock", "store_lock"].map(|name| database.join(name)));
    }
    let mut locked = Vec::new();
    for path in files {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(SourceError::at("open", &path, error)),
        };
        // A shared lock needs no right to write. It is released with the file, before Neo4j could miss it for long.
        match fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => locked.push(path),
            Err(error) => return Err(SourceError::at("ask for the lock on", &path, error.into())),
        }
    }
    Ok(locked)
}

/// Who uses the store, as far as can be seen from here.
pub fn store_use(configuration: &Configuration) -> Result<StoreUse, SourceError> {
    let mut places = vec![real(&configuration.data), real(&configuration.databases), real(&configuration.transactions)];
    places.extend(configuration.transaction_log.as_deref().map(real));
    let (holders, unseen) = holders(&places)?;
    Ok(StoreUse { locked: store_lock_is_held(configuration)?, holders, unseen })
}

fn holders(places: &[PathBuf]) -> Result<(Vec<Holder>, usize), SourceError> {
    let proc = Path::new("/proc");
    let mut holders = Vec::new();
    let mut unseen = 0;
    for entry in std::fs::read_dir(proc).map_err(|error| SourceError::at("list", proc, error))? {
        let entry = entry.map_err(|error| SourceError::at("list", proc, error))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // This process has the store open when it copies it.
        if pid == std::process::id() {
            continue;
        }
        let descriptors = match std::fs::read_dir(entry.path().join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unseen += 1;
                continue;
            }
            // It has ended.
            Err(_) => continue,
        };
        let open = descriptors.flatten().filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        let held = open.into_iter().find(|path| places.iter().any(|place| path.starts_with(place)));
        if let Some(path) = held
            && holders.len() < MAX_HOLDERS
        {
            let program = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            holders.push(Holder { pid, program: program.trim_end().to_owned(), path });
        }
    }
    Ok((holders, unseen))
}

/// The names of the directories in a directory; none, if it is not there.
fn directories(path: &Path) -> Result<BTreeSet<String>, SourceError> {
    let mut names = BTreeSet::new();
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(SourceError::at("list", path, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| SourceError::at("list", path, error))?;
        let metadata =
            std::fs::metadata(entry.path()).map_err(|error| SourceError::at("look at", &entry.path(), error))?;
        if metadata.is_dir()
            && let Ok(name) = entry.file_name().into_string()
            // What a restore has put aside is no database.
            && !swap::is_ours(&name)
        {
            names.insert(name);
        }
    }
    Ok(names)
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
