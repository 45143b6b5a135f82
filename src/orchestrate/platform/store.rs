//! From what drivers read to the parts of a backup set: one snapshot a part.
//!
//! Invariant: memory is bounded. Components are captured beside each other, but only so many of them store at the same
//! time, each with the memory of one `cairn backup`.

use std::collections::BTreeMap;
use std::io::Read;
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::format::set::Part;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::{self, BackupOptions, Outcome, Parent, TreeOptions};
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::profile::Component;
use crate::progress::{Monitor, WithinStep};
use crate::repo::Repository;
use crate::repo::wal::Archive;
use crate::source::SourceError;
use crate::source::wait::INTERVAL;

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    component: Component,
    name: &'static str,
}

impl Role {
    /// As sets call it.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Configuration files and keys.
    pub const TREE: Role = Role { component: Component::Config, name: "tree" };
    /// PostgreSQL as SQL.
    pub const DUMP: Role = Role { component: Component::Postgres, name: "dump" };
    /// The files of a stopped PostgreSQL.
    pub const FILES: Role = Role { component: Component::Postgres, name: "files" };
    /// The files of a running PostgreSQL.
    pub const BASE: Role = Role { component: Component::Postgres, name: "base" };
    /// The write-ahead log that a base backup needs.
    pub const WAL: Role = Role { component: Component::Postgres, name: "wal" };
    /// A base backup's `backup_label`.
    pub const LABEL: Role = Role { component: Component::Postgres, name: "label" };
    /// A base backup's `tablespace_map`.
    pub const TABLESPACE_MAP: Role = Role { component: Component::Postgres, name: "tablespace-map" };
    /// Elasticsearch's snapshot repository.
    pub const REPOSITORY: Role = Role { component: Component::Elasticsearch, name: "repository" };
    /// Neo4j's store.
    pub const STORE: Role = Role { component: Component::Neo4j, name: "store" };
    /// What is in the queues.
    pub const QUEUES: Role = Role { component: Component::Redis, name: "queues" };
    /// What was taken out of the queues.
    pub const PURGED: Role = Role { component: Component::Redis, name: "purged" };
    /// Redis' own dump.
    pub const RDB: Role = Role { component: Component::Redis, name: "rdb" };
}

/// Where parts are stored.
pub struct Store<'a> {
    repository: &'a Repository,
    profile: &'a str,
    free: Mutex<usize>,
    freed: Condvar,
}

impl<'a> Store<'a> {
    /// Nothing is stored yet. As many parts are stored at once as this machine has processors, two to four.
    pub fn new(repository: &'a Repository, profile: &'a str) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, NonZero::get);
        Store { repository, profile, free: Mutex::new(processors.clamp(2, 4)), freed: Condvar::new() }
    }

    /// The archived log of PostgreSQL in the same repository.
    pub fn archive(&self) -> Archive {
        Archive::of(self.repository)
    }

    /// Stores a tree; how many of its entries could not be read.
    pub fn tree(
        &self,
        role: Role,
        tree: TreeOptions,
        step: &str,
        notes: &Notes<'_>,
    ) -> Result<(Part, u64), OrchestrateError> {
        self.slot(notes)?.tree(role, tree, step, notes)
    }

    /// Stores a stream that `finish` finds whole.
    pub fn stream<S: Read, T>(
        &self,
        role: Role,
        source: S,
        finish: impl FnOnce(S) -> Result<T, SourceError>,
        step: &str,
        notes: &Notes<'_>,
    ) -> Result<(Part, T), OrchestrateError> {
        let _slot = self.slot(notes)?;
        let monitor = WithinStep::new(step, notes);
        let (outcome, value) = backup::checked(self.repository, source, finish, &self.options(role), &monitor)?;
        Ok((part(role, &outcome)?, value))
    }

    fn options(&self, role: Role) -> BackupOptions {
        let Role { component, name } = role;
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tags = [tag("platform", self.profile), tag("component", component.name()), tag("part", name)];
        BackupOptions {
            name: format!("{}.{}.{name}", self.profile, component.name()),
            tags: BTreeMap::from(tags),
            parent: Parent::Newest,
            force: false,
        }
    }

    /// Waits for the right to store. For who stops a server for it: only then, so that it is down for its copy alone.
    pub fn slot(&self, monitor: &dyn Monitor) -> Result<Slot<'_, 'a>, OrchestrateError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if monitor.interrupted() {
                return Err(OrchestrateError::Interrupted);
            }
            free = self.freed.wait_timeout(free, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(Slot(self))
    }
}

/// The right to store, until it is dropped.
pub struct Slot<'s, 'a>(&'s Store<'a>);

impl Slot<'_, '_> {
    /// Stores a tree; how many of its entries could not be read.
    pub fn tree(
        &self,
        role: Role,
        tree: TreeOptions,
        step: &str,
        notes: &Notes<'_>,
    ) -> Result<(Part, u64), OrchestrateError> {
        let options = self.0.options(role);
        let outcome = backup::tree(self.0.repository, tree, &options, &WithinStep::new(step, notes))?;
        Ok((part(role, &outcome)?, outcome.summary.unread))
    }
}

impl Drop for Slot<'_, '_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

fn part(role: Role, outcome: &Outcome) -> Result<Part, OrchestrateError> {
    let unpublished = || OrchestrateError::Unfit(format!("nothing was published of {}", role.name));
    Ok(Part {
        role: role.name.to_owned(),
        snapshot: outcome.id.ok_or_else(unpublished)?,
        bytes: outcome.summary.bytes,
        stored_bytes: outcome.summary.stored_bytes,
    })
}
