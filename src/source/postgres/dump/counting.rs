//! The count of a database while it is dumped, on a thread of its own.
//!
//! Invariant: the snapshot stays open until this value goes, however early the count ends: `pg_dump` takes it up at a
//! moment of its own. When the value goes, the count is stopped, and nothing of it is left running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::format::set::DatabaseFacts;
use crate::source::SourceError;
use crate::source::postgres::Snapshot;

const TICK: Duration = Duration::from_millis(20);

type Counted = (Snapshot, Result<DatabaseFacts, SourceError>);

/// A count that runs or has ended.
pub(super) struct Counting {
    thread: Option<JoinHandle<Counted>>,
    done: Option<(Snapshot, DatabaseFacts)>,
    stop: Arc<AtomicBool>,
}

impl Counting {
    pub(super) fn start(snapshot: Snapshot) -> Result<Self, SourceError> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let count = move || {
            let facts = snapshot.facts(&|| asked.load(Ordering::Relaxed));
            (snapshot, facts)
        };
        let failed =
            |source| SourceError::Unreadable { action: "start a thread for", path: "a count".to_owned(), source };
        let thread = thread::Builder::new().name("postgres-count".to_owned()).spawn(count).map_err(failed)?;
        Ok(Counting { thread: Some(thread), done: None, stop })
    }

    /// Fails if the count has; does not wait for it.
    pub(super) fn check(&mut self) -> Result<(), SourceError> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let (snapshot, facts) = thread.join().map_err(|_| SourceError::Answer {
                server: "the count of a database".to_owned(),
                what: "it ended without a result, so the dump is not trusted".to_owned(),
            })?;
            self.done = Some((snapshot, facts?));
        }
        Ok(())
    }

    /// Waits for the count. To be called when `pg_dump` has ended.
    pub(super) fn finish(mut self, stop: &dyn Fn() -> bool) -> Result<DatabaseFacts, SourceError> {
        loop {
            self.check()?;
            if let Some((_, facts)) = self.done.take() {
                return Ok(facts);
            }
            // Neither running nor done: it failed before, and that was told.
            if stop() || self.thread.is_none() {
                return Err(SourceError::Interrupted);
            }
            thread::sleep(TICK);
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
