//! What a restore counts, and what it tells at its end.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::cause::Cause;
use crate::repo::chain;

/// What a restore did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files written.
    pub files: u64,
    /// Directories made or found.
    pub directories: u64,
    /// Links, fifos and devices made.
    pub others: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that were there already, equal by type, size and time.
    pub unchanged: u64,
    /// Entries that were there, differ, and were kept.
    pub kept: u64,
    /// Sockets and entries that the backup could not read.
    pub skipped: u64,
    /// Entries removed.
    pub deleted: u64,
    /// Files read back and found equal.
    pub verified_files: u64,
    /// Entries that could not be restored or did not compare equal.
    pub failed: u64,
    /// So many of them certainly because of this machine: it has no room, or may not.
    #[serde(skip)]
    pub hindered: u64,
    /// So many of them because what is stored of them is damaged or missing.
    #[serde(skip)]
    pub damaged: u64,
    /// Entries that belong to whoever restored them instead of their owners, because that was not root.
    pub owners_left: u64,
}

/// What is counted while workers are at work.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) verified: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) hindered: AtomicU64,
    pub(super) damaged: AtomicU64,
}

impl Counts {
    /// Counts an entry that failed.
    pub(super) fn failed(&self, error: &OrchestrateError) {
        self.failed.fetch_add(1, Ordering::SeqCst);
        match error.cause() {
            Cause::Machine => drop(self.hindered.fetch_add(1, Ordering::SeqCst)),
            Cause::Stored => drop(self.damaged.fetch_add(1, Ordering::SeqCst)),
            Cause::Unknown => {}
        }
    }

    /// What ended it early, with a word of damage that was met before: a full disk must not hide that.
    pub(super) fn with_damage(&self, error: OrchestrateError) -> OrchestrateError {
        match self.damaged.load(Ordering::SeqCst) {
            damaged if damaged > 0 && error.cause() == Cause::Machine => {
                let why = format!("{}; before that, {damaged} entries were found damaged or missing", chain(&error));
                OrchestrateError::Damaged(why)
            }
            _ => error,
        }
    }

    /// Puts what was counted into a report.
    pub(super) fn tell(&self, report: &mut Report) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        report.files = count(&self.files);
        report.bytes = count(&self.bytes);
        report.verified_files = count(&self.verified);
        report.failed = count(&self.failed);
        report.hindered = count(&self.hindered);
        report.damaged = count(&self.damaged);
    }
}
