//! Leases: how writers and a gc know of each other without a lock that somebody must break.
//!
//! A lease is a small object, written before the work and removed after it. It never stops a writer. A gc waits for
//! leases that may not have seen its tombstone, and only one gc holds a lease at a time. What a killed process leaves
//! is ignored once it is older than its lifetime, by the storage's own times, or at once when it was this machine's and
//! its process is gone.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::backend::{host, remove_if_there};
use crate::format::record::{Lease, Purpose};
use crate::format::{Kind, ObjectId};
use crate::repo::Repository;
use crate::repo::error::RepoError;

/// How long a lease is valid. A first backup may take days; a crashed one must not stop gc for ever.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How much earlier than its lease's end a holder gives up.
const MARGIN: Duration = Duration::from_secs(3600);

/// Whether a holder must give up a lease that it took so long ago, by the monotonic clock and by the calendar's. The one
/// stands still while a machine sleeps, the other may be set: the longer time counts.
pub fn is_too_old(monotonic: Duration, calendar: SignedDuration) -> bool {
    monotonic.max(Duration::try_from(calendar).unwrap_or_default()) >= LIFETIME - MARGIN
}

/// A lease that is in storage.
#[derive(Debug, Clone)]
pub struct FoundLease {
    /// Its id.
    pub id: ObjectId,
    /// What it says; nothing when it cannot be read: then its holder may be doing anything.
    pub lease: Option<Lease>,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
}

impl FoundLease {
    /// Whether its holder is, or may be, doing this.
    pub fn may_be(&self, purpose: Purpose) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.purpose == purpose)
    }

    /// The error for whoever must not work beside its holder.
    pub fn locked(&self, what: &'static str) -> RepoError {
        let lifetime = SignedDuration::from_secs(LIFETIME.as_secs() as i64);
        let end = |time: Timestamp| time.checked_add(lifetime).unwrap_or(time).to_string();
        match &self.lease {
            None => RepoError::UnreadLease { id: self.id, until: end(self.modified) },
            Some(lease) => RepoError::Locked {
                what,
                since: lease.time.to_string(),
                host: lease.host.clone(),
                process: lease.process,
                until: end(lease.time),
            },
        }
    }
}

/// A lease of this process; removed when dropped.
pub struct Held<'r> {
    repository: &'r Repository,
    id: ObjectId,
    taken: Instant,
    time: Timestamp,
    released: bool,
}

impl<'r> Held<'r> {
    /// Writes a lease and makes it durable.
    pub fn take(repository: &'r Repository, purpose: Purpose) -> Result<Self, RepoError> {
        let lease = Lease {
            host: repository.host().to_owned(),
            machine: host::machine(),
            process: std::process::id(),
            time: Timestamp::now(),
            purpose,
            lifetime_seconds: LIFETIME.as_secs(),
        };
        let (taken, time) = (Instant::now(), lease.time);
        let id = repository.write_record(&lease)?;
        // Held from here on: if it cannot be made durable it is removed, and stops no gc until it expires.
        let held = Held { repository, id, taken, time, released: false };
        repository.backend().sync()?;
        Ok(held)
    }

    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// How long it has been held, by this process's clock.
    pub fn elapsed(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Fails when the lease is too old or no longer there.
    pub fn check(&self) -> Result<(), RepoError> {
        if is_too_old(self.taken.elapsed(), Timestamp::now().duration_since(self.time)) {
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
        Ok(remove_if_there(self.repository.backend().as_ref(), Kind::Lease, &self.id)?)
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

/// All leases that still mean something, with the storage's time of each. `now` is a time of the same storage. Leases
/// that have expired, or whose process is known to have ended, are removed first. One that cannot be read counts as
/// held until it expires.
pub fn live(repository: &Repository, now: Timestamp) -> Result<Vec<FoundLease>, RepoError> {
    let mut live = Vec::new();
    let mut removed = false;
    let records = repository.readable_records::<Lease>()?;
    let readable = records.found.into_iter().map(|(id, lease)| (id, Some(lease)));
    for (id, lease) in readable.chain(records.damaged.into_iter().map(|record| (record.id, None))) {
        let modified = match repository.backend().stat(Kind::Lease, &id) {
            Err(error) if error.is_not_found() => continue,
            result => result?.modified,
        };
        // The lifetime is the format's, not what a lease claims of itself.
        let age = now.duration_since(modified);
        let ended = lease.as_ref().is_some_and(|lease| host::has_ended(&lease.machine, lease.process));
        let expired = ended || age.as_secs() >= LIFETIME.as_secs() as i64;
        if !expired {
            live.push(FoundLease { id, lease, modified });
            continue;
        }
        remove_if_there(repository.backend().as_ref(), Kind::Lease, &id)?;
        removed = true;
    }
    if removed {
        repository.backend().sync()?;
    }
    Ok(live)
}
