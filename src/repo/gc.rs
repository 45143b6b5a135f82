//! Reclaiming space, in two phases, beside any number of writers and readers (format-spec/ordering.md).
//!
//! Mark: list the roots, follow them, decide which packs are worth rewriting, and write a tombstone that names their dead
//! chunks. Sweep, at least the grace period later: wait for writers that may not have seen the tombstone, list the roots
//! *again*, copy everything of the named packs that is not dead now and then, make the copies durable, remove the packs.
//!
//! Invariants:
//! * a chunk is dropped only if it was dead at the mark and is dead at the sweep, and no frame that stays has it as base;
//! * a writer that began after the tombstone treats what it names as absent; one that began before holds a lease, and
//!   the sweep waits for it; so nobody publishes a snapshot that needs what is dropped;
//! * a copy lies in a frame of no greater depth than the original, so whoever has it as base can still be read;
//! * what may name something that is needed and cannot be read ends the run before something is removed; a pack of which
//!   something needed cannot be read stays, whatever else is in it.

pub mod broken;
pub mod keep;
pub mod sweep;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::{list_all, remove_if_there};
use crate::format::record::{CondemnedPack, Proof, Purpose, Snapshot, Tombstone};
use crate::format::{Kind, ObjectId};
use crate::progress::{Monitor, Notice, Phase};
use crate::repo::error::RepoError;
use crate::repo::gc::keep::Keep;
use crate::repo::gc::sweep::Swept;
use crate::repo::index::{FrameInfo, PackInfo};
use crate::repo::lease::{self, FoundLease, Held};
use crate::repo::mark::Mark;
use crate::repo::wal::retain::{self, PlannedLog};
use crate::repo::{Repository, chain};

/// How long a tombstone waits, unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// A pack is rewritten when more than this share of its bytes is dead, in percent.
const DEAD_PERCENT: u64 = 20;
/// Packs shorter than this are small; every backup leaves one or two…
const SMALL_PACK: u64 = 4 << 20;
/// …and this many of them are worth joining.
const SMALL_PACKS: usize = 32;
/// A lease counts as newer than a tombstone only if storage dates it this much later: storage dates an object when its
/// writing begins, and others see it when it ends.
const MARGIN: Duration = Duration::from_secs(600);

/// How garbage is collected.
#[derive(Debug, Clone, Copy, Default)]
pub struct GcOptions {
    /// The grace period; without it [`GRACE`] for new tombstones and for debris, and each old tombstone's own.
    pub grace: Option<Duration>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What becomes of a condemned pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Nothing in it is needed.
    Remove,
    /// What is needed of it is copied first.
    Rewrite,
    /// It is joined with other small packs.
    Join,
}

/// A pack that will go.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedPack {
    /// Its id.
    pub id: ObjectId,
    /// `data pack` or `metadata pack`.
    pub kind: &'static str,
    /// Its length.
    pub bytes: u64,
    /// About how many of them are dead.
    pub dead_bytes: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// What a gc did, or would do.
#[derive(Debug, Default, Clone, Serialize)]
pub struct GcReport {
    /// Packs named by the tombstone of this run.
    pub planned: Vec<PlannedPack>,
    /// When the pending tombstone can be swept, if one waits.
    pub waiting_until: Option<Timestamp>,
    /// Why it waits besides, in words.
    pub waiting_for: Option<String>,
    /// Packs removed.
    pub packs_removed: u64,
    /// Packs written.
    pub packs_written: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Packs that should go and stay, because what is needed of them cannot be read.
    pub unreadable: Vec<ObjectId>,
    /// Files of PostgreSQL's log that are older than every kept base backup, and were removed.
    pub log: Vec<PlannedLog>,
    /// Pieces of failed writes removed.
    pub debris: u64,
}

/// Collects garbage.
pub fn run(repository: &Repository, options: &GcOptions, monitor: &dyn Monitor) -> Result<GcReport, RepoError> {
    let mut report = GcReport::default();
    // What the index lacks would not be copied, and what it does not know as base would die.
    repository.heal_index(monitor)?;
    if options.dry_run {
        let tombstones = repository.read_records::<Tombstone>()?;
        report.planned = plan(repository, monitor)?.1;
        report.waiting_for = tombstones.first().map(|(id, _)| format!("tombstone {} is pending", id.short()));
        // What leases protect depends on storage's time, which a dry run that writes nothing does not know.
        let leases = list_all(repository.backend().as_ref(), Kind::Lease)?;
        let others = leases.first().map(|_| lease::LIFETIME);
        let age = debris_age(options, others);
        report.debris = repository.backend().remove_debris(age.as_secs(), true)?.0;
        report.log = retain::plan(repository, age, monitor)?;
        return Ok(report);
    }
    let held = Held::take(repository, Purpose::Collect)?;
    let now = repository.backend().stat(Kind::Lease, &held.id())?.modified;
    exclude_others(repository, &held, now)?;
    let mut waits = false;
    for (id, tombstone) in readable_tombstones(repository, monitor)? {
        waits |= sweep_if_due(repository, &held, options, &id, &tombstone, monitor, &mut report)?.is_none();
    }
    // One tombstone waits at a time: what it names would be condemned twice for nothing. One that is held by a pack that
    // cannot be copied may be held for long, and stops nothing.
    if !waits && let Some((id, tombstone)) = mark(repository, options, monitor, &mut report)? {
        sweep_if_due(repository, &held, options, &id, &tombstone, monitor, &mut report)?;
    }
    remove_stale_proofs(repository, monitor)?;
    let age = protected_age(repository, &held, options, now)?;
    report.log = retain::collect(repository, &held, now, age, monitor)?;
    report.debris = repository.backend().remove_debris(age.as_secs(), false)?.0;
    held.release()?;
    repository.backend().sync()?;
    Ok(report)
}

/// One collector at a time. Each writes its lease before it lists, so two that start at once see each other and both
/// give up; never do both go on. (Which was earlier cannot be told: storage dates an object before others see it.)
fn exclude_others(repository: &Repository, held: &Held<'_>, now: Timestamp) -> Result<(), RepoError> {
    for found in lease::live(repository, now)? {
        if found.may_be(Purpose::Collect) && found.id != held.id() {
            return Err(found.locked("another gc"));
        }
    }
    Ok(())
}

/// Marks, and writes a tombstone if there is something to reclaim.
fn mark(
    repository: &Repository,
    options: &GcOptions,
    monitor: &dyn Monitor,
    report: &mut GcReport,
) -> Result<Option<(ObjectId, Tombstone)>, RepoError> {
    let state = repository.index().state()?;
    let (keep, planned) = plan(repository, monitor)?;
    report.planned = planned;
    if report.planned.is_empty() {
        return Ok(None);
    }
    let mut packs = broken::condemn(&broken::find(repository)?);
    for pack in repository.index().packs()? {
        if keep.is_condemned(pack.no) {
            let frames = repository.index().frames_of_pack(pack.no)?;
            let dead = dead_bits(&frames, &keep);
            packs.push(CondemnedPack { id: pack.id, meta: pack.kind == Kind::MetaPack, dead });
        }
    }
    if repository.index().state()? != state {
        return Err(RepoError::IndexChanged);
    }
    let grace_seconds = options.grace.unwrap_or(GRACE).as_secs();
    let tombstone = Tombstone { time: Timestamp::now(), grace_seconds, packs };
    let started = Instant::now();
    let id = repository.write_record(&tombstone)?;
    repository.backend().sync()?;
    if started.elapsed() >= MARGIN {
        repository.backend().remove(Kind::Tombstone, &id)?;
        let why =
            "storage took more than ten minutes for one small object, so nothing about the order of writers is sure";
        return Err(RepoError::Refused { why: why.to_owned() });
    }
    Ok(Some((id, tombstone)))
}

fn dead_bits(frames: &[FrameInfo], keep: &Keep) -> String {
    let numbers = frames.iter().flat_map(|frame| frame.first..frame.first + frame.entry.chunks.len() as u64);
    let mut bits = Vec::new();
    for (position, number) in numbers.enumerate() {
        if position % 8 == 0 {
            bits.push(0u8);
        }
        if let (false, Some(last)) = (keep.contains(number), bits.last_mut()) {
            *last |= 1 << (position % 8);
        }
    }
    hex::encode(bits)
}

/// Follows the roots and decides which packs go.
fn plan(repository: &Repository, monitor: &dyn Monitor) -> Result<(Keep, Vec<PlannedPack>), RepoError> {
    let mut keep = Keep::new(reach(repository, monitor)?);
    let packs = repository.index().packs()?;
    let small = |kind| packs.iter().filter(|pack| pack.kind == kind && pack.len < SMALL_PACK).count() >= SMALL_PACKS;
    let join = [(Kind::DataPack, small(Kind::DataPack)), (Kind::MetaPack, small(Kind::MetaPack))];
    let joins = |pack: &PackInfo| pack.len < SMALL_PACK && join.contains(&(pack.kind, true));
    keep.condemn_all(&packs);
    loop {
        keep.close(repository)?;
        // What stays whole may need bases of what goes, so packs are taken back until nothing changes.
        let mut changed = false;
        for pack in &packs {
            if keep.is_condemned(pack.no) && !joins(pack) {
                let dead = keep.dead_bytes(repository, pack)?;
                if dead * 100 <= pack.len * DEAD_PERCENT {
                    keep.acquit(repository, pack)?;
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut planned: Vec<PlannedPack> = broken::unneeded(repository, &keep)?.iter().map(broken::planned).collect();
    for pack in packs.iter().filter(|pack| keep.is_condemned(pack.no)) {
        let dead_bytes = keep.dead_bytes(repository, pack)?;
        let fate = match dead_bytes {
            _ if keep.is_all_dead(repository, pack)? => Fate::Remove,
            dead if dead * 100 <= pack.len * DEAD_PERCENT => Fate::Join,
            _ => Fate::Rewrite,
        };
        planned.push(PlannedPack { id: pack.id, kind: pack.kind.word(), bytes: pack.len, dead_bytes, fate });
    }
    Ok((keep, planned))
}

/// Everything that the snapshots need; the first thing missing is an error.
fn reach(repository: &Repository, monitor: &dyn Monitor) -> Result<crate::repo::bitmap::Bitmap, RepoError> {
    monitor.begin(Phase::Mark, None);
    // First the roots, then the packs: what a listed root needs was written before it.
    let roots = repository.read_records::<Snapshot>()?;
    repository.refresh(monitor)?;
    monitor.total(roots.len() as u64);
    let mut mark = Mark::reading_copies(repository, monitor);
    for (id, snapshot) in roots {
        mark.snapshot(&snapshot, &mut |error| Err(broken::explain(repository, &id, error)))?;
        monitor.advance(1);
    }
    monitor.end();
    Ok(mark.reached)
}

/// Sweeps a tombstone, unless it has to wait.
fn sweep_if_due(
    repository: &Repository,
    held: &Held<'_>,
    options: &GcOptions,
    id: &ObjectId,
    tombstone: &Tombstone,
    monitor: &dyn Monitor,
    report: &mut GcReport,
) -> Result<Option<Swept>, RepoError> {
    let now = repository.backend().stat(Kind::Lease, &held.id())?.modified;
    let written = repository.backend().stat(Kind::Tombstone, id)?.modified;
    let grace = options.grace.unwrap_or(Duration::from_secs(tombstone.grace_seconds));
    // The tombstone of this very run may be dated after this run's lease.
    let age = now.duration_since(written).as_secs().max(0) as u64;
    if age < grace.as_secs() {
        let left = jiff::SignedDuration::from_secs((grace.as_secs() - age).min(i64::MAX as u64) as i64);
        report.waiting_until = Timestamp::now().checked_add(left).ok();
        return Ok(None);
    }
    for found in lease::live(repository, now)? {
        let newer = found.modified.duration_since(written).as_secs() > MARGIN.as_secs() as i64;
        if found.may_be(Purpose::Write) && !newer {
            let holder = match &found.lease {
                Some(lease) => format!("a writer on {} (process {})", lease.host, lease.process),
                None => format!("the holder of lease {}, which cannot be read,", found.id),
            };
            let message = format!("{holder} may not have seen the tombstone: run gc again when it has ended");
            monitor.notice(Notice { subject: "gc".to_owned(), message: message.clone() });
            report.waiting_for = Some(message);
            return Ok(None);
        }
    }
    sweep::run(repository, held, id, tombstone, monitor, report).map(Some)
}

/// The tombstones in storage. One whose bytes are wrong is removed: only a gc that can read it would act on it, no other
/// gc runs beside this one, and a new mark says again what is dead. Writers refuse to begin while it is there.
fn readable_tombstones(
    repository: &Repository,
    monitor: &dyn Monitor,
) -> Result<Vec<(ObjectId, Tombstone)>, RepoError> {
    let records = repository.readable_records::<Tombstone>()?;
    let broken: Vec<_> = records.damaged.iter().filter(|record| record.is_broken()).collect();
    if broken.len() < records.damaged.len() {
        // One that storage does not give now, or that is of a newer version, may be right.
        return repository.read_records::<Tombstone>();
    }
    for record in broken {
        remove_if_there(repository.backend().as_ref(), Kind::Tombstone, &record.id)?;
        repository.backend().sync()?;
        let message = format!("{}; it was removed, and what is dead is marked anew", chain(&record.error));
        monitor.notice(Notice { subject: format!("tombstone {}", record.id), message });
    }
    Ok(records.found)
}

/// How old must be what nothing but its age protects: debris whose writer may live, and log that a base backup may need
/// whose set is not published yet. A lease protects what is younger than it: its holder wrote the lease first.
fn protected_age(
    repository: &Repository,
    held: &Held<'_>,
    options: &GcOptions,
    began: Timestamp,
) -> Result<Duration, RepoError> {
    let leases = lease::live(repository, began)?;
    let others = leases.iter().filter(|found| found.id != held.id());
    let age = |found: &FoundLease| Duration::try_from(began.duration_since(found.modified)).unwrap_or_default();
    let oldest = others.map(age).max().map(|age| age + held.elapsed());
    Ok(debris_age(options, oldest))
}

/// How old debris of unknown origin must be. The margin is for those that write a small object and hold no lease, the
/// writers that are just writing theirs among them.
fn debris_age(options: &GcOptions, oldest_lease: Option<Duration>) -> Duration {
    let grace = options.grace.unwrap_or(GRACE).max(MARGIN);
    oldest_lease.map_or(grace, |age| grace.max(age + MARGIN))
}

/// A proof of a snapshot that is gone proves nothing. One that cannot be read is left, and told.
fn remove_stale_proofs(repository: &Repository, monitor: &dyn Monitor) -> Result<(), RepoError> {
    let proofs = repository.readable_records::<Proof>()?;
    for damaged in &proofs.damaged {
        monitor.notice(Notice { subject: format!("proof {}", damaged.id), message: damaged.message() });
    }
    for (id, proof) in proofs.found {
        match repository.backend().stat(Kind::Snapshot, &proof.snapshot) {
            Err(error) if error.is_not_found() => remove_if_there(repository.backend().as_ref(), Kind::Proof, &id)?,
            result => drop(result?),
        }
    }
    Ok(())
}
