//! Leases: how writers and a gc know of each other without a lock that somebody must break.
//!
//! A lease is a small object, written before the work and removed after it. It never stops a writer. A gc waits for
//! leases that may not have seen its tombstone, and only one gc holds a lease at a time. What a killed process leaves
//! is ignored once it is older than its lifetime, by the storage's own times, or at once when it was this machine's and
//! its process is gone.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::format::record::{Lease, Purpose};
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;

/// How long a lease is valid. A first backup may take days; a crashed one must not stop gc for ever.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A lease that is in storage.
#[derive(Debug, Clone)]
pub struct FoundLease {
    /// Its id.
    pub id: ObjectId,
    /// What it says.
    pub lease: Lease,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
}

/// A lease of this process; removed when dropped.
pub struct Held<'r> {
    repository: &'r Repository,
    id: ObjectId,
    taken: Instant,
    released: bool,
}

impl<'r> Held<'r> {
    /// Writes a lease and makes it durable.
    pub fn take(repository: &'r Repository, purpose: Purpose) -> Result<Self, RepoError> {
        let lease = Lease {
            host: repository.host().to_owned(),
            process: std::process::id(),
            time: Timestamp::now(),
            purpose,
            lifetime_seconds: LIFETIME.as_secs(),
        };
        let taken = Instant::now();
        let id = repository.write_record(&lease)?;
        repository.backend().sync()?;
        Ok(Held { repository, id, taken, released: false })
    }

    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Fails when the lease is too old or no longer there.
    pub fn check(&self) -> Result<(), RepoError> {
        if self.taken.elapsed() >= LIFETIME {
            return Err(RepoError::LeaseLost);
        }
        match self.repository.backend().stat(Kind::Lease, &self.id) {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(RepoError::LeaseLost),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes it.
    pub fn release(mut self) -> Result<(), RepoError> {
        self.released = true;
        match self.repository.backend().remove(Kind::Lease, &self.id) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.released {
            // The run failed already; a lease that stays is harmless, since it ends by itself.
            let _ = self.repository.backend().remove(Kind::Lease, &self.id);
        }
    }
}
