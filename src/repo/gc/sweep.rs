//! The second phase: copy what is needed of the condemned packs, then remove them.
//!
//! On a full disk, packs of which nothing stays go first: that is where the room for the copies comes from.
//!
//! Crash safety: copies are durable before a pack with something to copy is removed, and removing is idempotent; until
//! the tombstone itself is removed, the next gc does the rest. Copies of what is stored twice meanwhile are harmless.
//! A condemned pack that turns out to be unreadable after others have gone keeps the tombstone alive ([`Swept::Held`]): its
//! dead frames may be differences to what has gone, and a writer that did not see them named would publish what needs them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::backend::{BackendError, remove_if_there};
use crate::format::pack::ChunkEntry;
use crate::format::record::Tombstone;
use crate::format::{Kind, ObjectId, frame};
use crate::progress::{Monitor, Notice, Phase};
use crate::repo::bitmap::Bitmap;
use crate::repo::error::RepoError;
use crate::repo::gc::broken::{self, BrokenPack};
use crate::repo::gc::keep::{self, Keep};
use crate::repo::gc::{GcReport, reach};
use crate::repo::index::{FrameInfo, PackInfo};
use crate::repo::lease::Held;
use crate::repo::writer::packer::{EncodedFrame, Packer, WrittenPack};
use crate::repo::{Repository, chain};

/// zstd's level for frames that are compressed again.
const LEVEL: i32 = 6;

/// What became of a tombstone whose time had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// All that it names is gone, or stays for good; so is the tombstone.
    Whole,
    /// A pack that it names cannot be copied, and what that pack's dead frames are built on is gone. The tombstone stays
    /// for as long as the pack does: it is what keeps writers from relying on those frames.
    Held,
}

/// Sweeps a tombstone whose time has come.
pub fn run(
    repository: &Repository,
    held: &Held<'_>,
    id: &ObjectId,
    tombstone: &Tombstone,
    monitor: &dyn Monitor,
    report: &mut GcReport,
) -> Result<Swept, RepoError> {
    let state = repository.index().state()?;
    let reached = reach(repository, monitor)?;
    let packs = repository.index().packs()?;
    let condemned = condemned_packs(&packs, tombstone)?;
    let has_removed = has_removed(repository, tombstone, &condemned);
    let packs = packs.into_iter().map(|pack| pack.no).collect();
    let mut sweep = Sweep { repository, held, state, packs, monitor, has_removed, condemned };
    let broken = loop {
        let keep = decide(repository, &sweep.condemned, reached.clone())?;
        let broken: Vec<BrokenPack> = broken::unneeded(repository, &keep)?
            .into_iter()
            .filter(|pack| tombstone.packs.iter().any(|named| named.id == pack.id))
            .collect();
        let unreadable = sweep.copy(&keep, report)?;
        if unreadable.is_empty() {
            break broken;
        }
        for (pack, error) in &unreadable {
            // Another tombstone may name it, too.
            if report.unreadable.contains(&pack.id) {
                continue;
            }
            report.unreadable.push(pack.id);
            let message = format!(
                "{}: what is needed of it cannot be copied, so the pack stays; store the same sources again with \
                 `cairn backup --force`, or forget what `cairn check --read-data` names",
                chain(error)
            );
            monitor.notice(Notice { subject: format!("{} {}", pack.kind, pack.id), message });
        }
        if sweep.has_removed {
            monitor.end();
            return Ok(Swept::Held);
        }
        // They stay as they are, with all that their frames are built on; what goes is decided once more.
        sweep.condemned.retain(|(pack, _)| unreadable.iter().all(|(other, _)| other.no != pack.no));
    };
    repository.backend().sync()?;
    sweep.may_remove()?;
    remove(repository, &sweep.condemned, &broken, report)?;
    repository.backend().remove(Kind::Tombstone, id)?;
    repository.backend().sync()?;
    monitor.end();
    Ok(Swept::Whole)
}

/// Whether something that the tombstone names is gone: then what is left of it may lack what its dead frames are built on.
fn has_removed(repository: &Repository, tombstone: &Tombstone, condemned: &Condemned) -> bool {
    let unusable = repository.unusable_packs();
    let is_there = |id: &ObjectId| {
        condemned.iter().any(|(pack, _)| pack.id == *id) || unusable.iter().any(|(_, unusable, _)| unusable == id)
    };
    !tombstone.packs.iter().all(|named| is_there(&named.id))
}

/// A sweep under way.
struct Sweep<'s> {
    repository: &'s Repository,
    held: &'s Held<'s>,
    /// [`crate::repo::index::Index::state`] when it began.
    state: i64,
    /// The packs over whose numbers it is decided what stays.
    packs: HashSet<u64>,
    monitor: &'s dyn Monitor,
    condemned: Condemned,
    /// Whether this sweep, or one before it that did not end, has removed a pack.
    has_removed: bool,
}

impl Sweep<'_> {
    /// Whether what was decided still stands: the lease, and the numbers by which chunks were kept. A pack whose rows have gone
    /// meanwhile, or came back with other numbers, may need what would be dropped.
    fn may_remove(&self) -> Result<(), RepoError> {
        self.held.check()?;
        let there: HashSet<u64> = self.repository.index().packs()?.into_iter().map(|pack| pack.no).collect();
        match self.repository.index().state()? == self.state && self.packs.is_subset(&there) {
            true => Ok(()),
            false => Err(RepoError::IndexChanged),
        }
    }

    /// Copies what stays of the condemned packs, after making room for it if there is none.
    fn copy(&mut self, keep: &Keep, report: &mut GcReport) -> Result<Vec<(PackInfo, RepoError)>, RepoError> {
        let (repository, monitor) = (self.repository, self.monitor);
        if self.has_removed {
            // A tombstone that stays is swept by every gc: copies made before the unreadable pack is met would pile up.
            let unreadable = copy_all(repository, &self.condemned, keep, Copies::OnlyRead, monitor, report)?;
            if !unreadable.is_empty() {
                return Ok(unreadable);
            }
        }
        match copy_all(repository, &self.condemned, keep, Copies::Write, monitor, report) {
            Err(error @ RepoError::Backend(BackendError::Full { .. })) => {
                if !self.make_room(keep, report)? {
                    return Err(error);
                }
                copy_all(repository, &self.condemned, keep, Copies::Write, monitor, report)
            }
            result => result,
        }
    }

    /// Removes the packs of which nothing stays, so that there is room for copies; false when that would give nothing.
    /// Before, all that stays is read once: a pack that turned out to be unreadable afterwards would have to stay as it
    /// is, and what its dead frames are built on would be gone.
    fn make_room(&mut self, keep: &Keep, report: &mut GcReport) -> Result<bool, RepoError> {
        let repository = self.repository;
        let (mut dead, mut others) = (Vec::new(), Vec::new());
        for (pack, bits) in &self.condemned {
            let part = if keep.is_all_dead(repository, pack)? { &mut dead } else { &mut others };
            part.push((pack.clone(), bits.clone()));
        }
        if dead.is_empty() || !copy_all(repository, &others, keep, Copies::OnlyRead, self.monitor, report)?.is_empty() {
            return Ok(false);
        }
        self.may_remove()?;
        remove(repository, &dead, &[], report)?;
        self.packs.retain(|no| dead.iter().all(|(pack, _)| pack.no != *no));
        self.condemned = others;
        self.has_removed = true;
        Ok(true)
    }
}

/// What becomes of copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copies {
    Write,
    /// To know whether they could be made.
    OnlyRead,
}

/// Copies what stays of the condemned packs. Those of which something cannot be read are returned; then what was copied
/// is only a duplicate, and nothing may be removed yet.
fn copy_all(
    repository: &Repository,
    condemned: &Condemned,
    keep: &Keep,
    copies: Copies,
    monitor: &dyn Monitor,
    report: &mut GcReport,
) -> Result<Vec<(PackInfo, RepoError)>, RepoError> {
    monitor.begin(Phase::Sweep, Some(condemned.iter().map(|(pack, _)| pack.len).sum()));
    let packers = [Kind::DataPack, Kind::MetaPack]
        .map(|kind| (kind, Packer::new(kind, repository.backend().clone(), repository.keys().clone())));
    let written = std::cell::Cell::new(0);
    let on_written = |pack: &WrittenPack| {
        written.set(written.get() + 1);
        repository.index().add_pack(pack.kind, &pack.id, pack.len, &pack.header, &pack.frames)
    };
    let mut unreadable: Vec<(PackInfo, RepoError)> = Vec::new();
    for (pack, _) in condemned {
        let Some((_, packer)) = packers.iter().find(|(kind, _)| *kind == pack.kind) else { continue };
        for frame in keep::frames_of(repository, pack.no)? {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            match copy(repository, &Arc::new(frame), keep) {
                // Once something stays where it is, copies are of no use: the rest is only read.
                Ok(Some(copy)) if unreadable.is_empty() && copies == Copies::Write => {
                    packer.add(&copy.encoded, &copy.raw, &copy.prefix, &on_written)?;
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    unreadable.push((pack.clone(), error));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        monitor.advance(pack.len);
    }
    for (_, packer) in &packers {
        report.bytes_written += packer.finish(&on_written)?;
    }
    report.packs_written += written.get();
    Ok(unreadable)
}

/// A frame on its way to a new pack.
struct Copy {
    encoded: EncodedFrame,
    raw: Vec<u8>,
    prefix: Vec<u8>,
}

type Condemned = Vec<(PackInfo, Vec<u8>)>;

/// The packs that the tombstone names and that are still there, with their dead bits.
fn condemned_packs(packs: &[PackInfo], tombstone: &Tombstone) -> Result<Condemned, RepoError> {
    let mut known: HashMap<ObjectId, &PackInfo> = packs.iter().map(|pack| (pack.id, pack)).collect();
    let mut condemned = Vec::new();
    for named in &tombstone.packs {
        if let Some(pack) = known.remove(&named.id) {
            condemned.push((pack.clone(), named.dead_bits()?));
        }
    }
    condemned.sort_by_key(|(pack, _)| pack.no);
    Ok(condemned)
}

/// What stays: all of the other packs, what the tombstone does not name dead, what the snapshots need now, and the
/// bases of all that.
fn decide(repository: &Repository, condemned: &Condemned, reached: Bitmap) -> Result<Keep, RepoError> {
    let mut keep = Keep::new(reached);
    let packs: Vec<PackInfo> = condemned.iter().map(|(pack, _)| pack.clone()).collect();
    keep.condemn_all(&packs);
    for pack in repository.index().packs()? {
        if !keep.is_condemned(pack.no) {
            keep.keep_pack(repository, pack.no)?;
        }
    }
    for (pack, dead) in condemned {
        let frames = keep::frames_of(repository, pack.no)?;
        let numbers = frames.iter().flat_map(|frame| frame.first..frame.first + frame.entry.chunks.len() as u64);
        for (position, number) in numbers.enumerate() {
            let is_dead = dead.get(position / 8).is_some_and(|byte| byte & (1 << (position % 8)) != 0);
            if !is_dead {
                keep.insert(number);
            }
        }
    }
    keep.close(repository)?;
    Ok(keep)
}

/// What is copied of a frame: all of it with its bases, or what stays of it, compressed again with the same bases; so
/// its depth remains. Every chunk is compared with its id, so damage is never copied.
fn copy(repository: &Repository, info: &Arc<FrameInfo>, keep: &Keep) -> Result<Option<Copy>, RepoError> {
    if !(info.first..).zip(&info.entry.chunks).any(|(number, _)| keep.contains(number)) {
        return Ok(None);
    }
    let whole = repository.frames().decoded(info)?;
    let (mut raw, mut chunks): (Vec<u8>, Vec<ChunkEntry>) = (Vec::new(), Vec::new());
    for (position, (chunk, number)) in info.entry.chunks.iter().zip(info.first..).enumerate() {
        if !keep.contains(number) {
            continue;
        }
        let bytes = whole.bytes(position).filter(|_| whole.is_proven(repository.keys(), position));
        raw.extend_from_slice(bytes.ok_or(RepoError::DamagedChunk { id: chunk.id })?);
        chunks.push(*chunk);
    }
    let prefix = repository.frames().prefix(&info.entry.bases, info.entry.depth)?;
    let bytes = frame::compress(LEVEL, &raw, &prefix)?;
    let encoded = EncodedFrame { depth: info.entry.depth, bases: info.entry.bases.clone(), chunks, bytes };
    Ok(Some(Copy { encoded, raw, prefix }))
}

fn remove(
    repository: &Repository,
    condemned: &Condemned,
    broken: &[BrokenPack],
    report: &mut GcReport,
) -> Result<(), RepoError> {
    let whole = condemned.iter().map(|(pack, _)| (pack.kind, pack.id, pack.len));
    for (kind, id, len) in whole.chain(broken.iter().map(|pack| (pack.kind, pack.id, pack.len))) {
        remove_if_there(repository.backend().as_ref(), kind, &id)?;
        report.packs_removed += 1;
        report.bytes_removed += len;
    }
    let gone: Vec<u64> = condemned.iter().map(|(pack, _)| pack.no).collect();
    repository.backend().sync()?;
    repository.index().remove_packs(&gone)
}
