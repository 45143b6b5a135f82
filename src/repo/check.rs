//! Checking: is the repository sound? Finds and names problems; changes nothing, so it can run beside anything. Frames that
//! could not be read are noted in the index, so that later backups of this machine store their chunks anew.
//!
//! Structure: every record opens, every pack's footer opens and equals the index, every frame's bases can be read at a
//! smaller depth, every snapshot's lists, blocks and chunks are there with the promised lengths. With `read_data` also:
//! every pack has the content its name says, every frame decodes, every chunk has the content its id says.

mod data;

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use crate::format::ObjectId;
use crate::format::record::{Forgotten, Lease, Proof, Record, Snapshot, Tombstone};
use crate::format::set::BackupSet;
use crate::progress::{Monitor, Phase};
use crate::repo::check::data::Reading;
use crate::repo::error::RepoError;
use crate::repo::index::FrameInfo;
use crate::repo::index::refresh::read_footer;
use crate::repo::mark::Mark;
use crate::repo::sets::SetInfo;
use crate::repo::{Condemned, Repository, chain};

/// What is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Read packs whole: this many percent of them, chosen at random; `None` reads none.
    pub read_data_percent: Option<f64>,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object or snapshot concerned.
    pub subject: String,
    /// What is wrong.
    pub message: String,
}

/// What a check did and found.
#[derive(Debug, Default, Clone, Serialize)]
pub struct CheckReport {
    /// Snapshots followed.
    pub snapshots: u64,
    /// Packs whose footers were compared.
    pub packs: u64,
    /// Chunks reached from snapshots.
    pub chunks: u64,
    /// Packs read whole.
    pub packs_read: u64,
    /// Files of PostgreSQL's log whose heads were read.
    pub log_files: u64,
    /// Files of the log read whole.
    pub log_files_read: u64,
    /// Raw bytes decoded and re-hashed.
    pub bytes_read: u64,
    /// What failed writes left behind; `gc` removes it.
    pub debris: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    fn problem(&mut self, subject: impl Into<String>, error: &dyn std::error::Error) {
        self.problems.push(Problem { subject: subject.into(), message: chain(error) });
    }
}

impl Repository {
    /// Checks everything. Problems are in the report; an error means that the check itself could not go on.
    pub fn check(&self, options: &CheckOptions, monitor: &dyn Monitor) -> Result<CheckReport, RepoError> {
        let mut report = CheckReport::default();
        // The index is no part of the repository: what is wrong with it is put right, told, and no problem.
        self.heal_index(monitor)?;
        for (kind, id, message) in self.unusable_packs() {
            report.problems.push(Problem { subject: format!("{kind} {id}"), message });
        }
        let snapshots = self.check_records::<Snapshot>(&mut report)?;
        self.check_records::<Proof>(&mut report)?;
        self.check_sets(&snapshots, &mut report)?;
        self.check_records::<Forgotten>(&mut report)?;
        let tombstones = self.check_records::<Tombstone>(&mut report)?;
        let condemned = self.condemned_by(&tombstones)?;
        self.check_records::<Lease>(&mut report)?;
        if let Err(error) = self.list_keys() {
            report.problem("keys", &error);
        }
        self.check_packs(&condemned, &mut report, monitor)?;
        let present: Vec<_> = snapshots.iter().map(|(id, snapshot)| (*id, snapshot.previous)).collect();
        self.check_snapshots(&snapshots, &mut report, monitor)?;
        if report.problems.is_empty() {
            for vanished in self.vanished(&present)? {
                let message =
                    "this machine has seen it, or a later one names it, and it is gone without a forget record: somebody or something \
                               else removed it"
                        .to_owned();
                report.problems.push(Problem {
                    subject: format!("snapshot {} ({} of {})", vanished.id, vanished.name, vanished.time),
                    message,
                });
            }
        }
        if let Some(percent) = options.read_data_percent {
            self.read_packs(percent, &condemned, &mut report, monitor)?;
        }
        self.check_log(options, &mut report, monitor)?;
        // Counting needs a file of the storage's own to know its time; where nothing can be written there is no debris to
        // speak of.
        report.debris = self.backend().remove_debris(0, true).map_or(0, |(pieces, _)| pieces);
        Ok(report)
    }

    fn check_records<R: Record>(&self, report: &mut CheckReport) -> Result<Vec<(ObjectId, R)>, RepoError> {
        let records = self.readable_records::<R>()?;
        for damaged in records.damaged {
            let subject = format!("{} {}", damaged.kind, damaged.id);
            report.problems.push(Problem { subject, message: damaged.message() });
        }
        Ok(records.found)
    }

    /// Every set's snapshots are there.
    fn check_sets(&self, snapshots: &[(ObjectId, Snapshot)], report: &mut CheckReport) -> Result<(), RepoError> {
        let present: HashSet<ObjectId> = snapshots.iter().map(|(id, _)| *id).collect();
        for (id, set) in self.check_records::<BackupSet>(report)? {
            let info = SetInfo { id, set };
            for missing in info.snapshots().filter(|snapshot| !present.contains(snapshot)) {
                let subject = format!("backup set {} ({} of {})", id.short(), info.set.profile, info.set.time);
                let message = format!(
                    "its snapshot {missing} is not there, or cannot be read: the set cannot be restored as a whole"
                );
                report.problems.push(Problem { subject, message });
            }
        }
        Ok(())
    }

    /// The index equals the footers, and every base can be read.
    fn check_packs(
        &self,
        condemned: &Condemned,
        report: &mut CheckReport,
        monitor: &dyn Monitor,
    ) -> Result<(), RepoError> {
        let packs = self.index().packs()?;
        monitor.begin(Phase::Check, Some(packs.len() as u64));
        for pack in &packs {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            let subject = || format!("{} {}", pack.kind, pack.id);
            match read_footer(self.backend().as_ref(), self.keys(), pack.kind, &pack.id, pack.len) {
                Ok(footer) => {
                    let known = self.index().frames_of_pack(pack.no)?;
                    let equal = known.len() == footer.frames.len()
                        && known.iter().zip(&footer.frames).all(|(a, b)| a.entry == *b)
                        && footer.header == pack.header;
                    if !equal {
                        let message = "the index differs from the pack: run `cairn index rebuild`".to_owned();
                        report.problems.push(Problem { subject: subject(), message });
                    }
                }
                Err(error) => report.problem(subject(), &error),
            }
            for frame in live_frames(self.index().frames_of_pack(pack.no)?, condemned) {
                for base in &frame.entry.bases {
                    if self.frames().base(base, frame.entry.depth)?.is_none() {
                        let message = format!("frame {} needs the base chunk {base}, which is in no pack", frame.slot);
                        report.problems.push(Problem { subject: subject(), message });
                    }
                }
            }
            report.packs += 1;
            monitor.advance(1);
        }
        monitor.end();
        Ok(())
    }

    fn check_snapshots(
        &self,
        snapshots: &[(ObjectId, Snapshot)],
        report: &mut CheckReport,
        monitor: &dyn Monitor,
    ) -> Result<(), RepoError> {
        monitor.begin(Phase::Mark, Some(snapshots.len() as u64));
        let mut mark = Mark::new(self, monitor);
        for (id, snapshot) in snapshots {
            let subject = format!("snapshot {} ({} of {})", id.short(), snapshot.name, snapshot.time);
            let problems = &mut report.problems;
            mark.snapshot(snapshot, &mut |error| match error {
                RepoError::Interrupted | RepoError::Index { .. } => Err(error),
                error => {
                    problems.push(Problem { subject: subject.clone(), message: chain(&error) });
                    Ok(())
                }
            })?;
            report.snapshots += 1;
            monitor.advance(1);
        }
        report.chunks = mark.chunks;
        monitor.end();
        Ok(())
    }

    fn read_packs(
        &self,
        percent: f64,
        condemned: &Condemned,
        report: &mut CheckReport,
        monitor: &dyn Monitor,
    ) -> Result<(), RepoError> {
        let mut packs = self.index().packs()?;
        if percent < 100.0 {
            let wanted = (packs.len() as f64 * percent / 100.0).ceil() as usize;
            let mut keyed = Vec::new();
            for pack in packs {
                keyed.push((crate::format::crypto::random::<8>()?, pack));
            }
            keyed.sort_by_key(|(key, _)| *key);
            packs = keyed.into_iter().take(wanted).map(|(_, pack)| pack).collect();
        }
        // Frames are decoded near their bases when packs are read in the order they were written.
        packs.sort_by_key(|pack| pack.no);
        monitor.begin(Phase::ReadData, Some(packs.iter().map(|pack| pack.len).sum()));
        report.packs_read = packs.len() as u64;
        let reading = Reading::new(self, condemned, packs, monitor);
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16);
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| reading.work());
            }
        });
        if monitor.interrupted() {
            return Err(RepoError::Interrupted);
        }
        monitor.end();
        let (good, problems) = reading.finish();
        report.bytes_read = good;
        report.problems.extend(problems);
        Ok(())
    }
}

/// The frames on which somebody may rely. In the middle of a sweep the others may be differences to what is gone already.
fn live_frames(frames: Vec<FrameInfo>, condemned: &Condemned) -> impl Iterator<Item = Arc<FrameInfo>> {
    frames.into_iter().filter(|frame| !condemned.holds_all_of(frame)).map(Arc::new)
}
