//! Aiming with what a repository holds: its backup sets, and the log that is archived beside them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::format::wal::{WalHead, WalName};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::aim::log::Log;
use crate::orchestrate::platform::aim::{Aim, AimError, Base, Wanted, aim, cluster};
use crate::orchestrate::platform::choose::{
    Choice, ChooseError, Flaw, Known, Passed, Point, Wish, candidates, choose, words,
};
use crate::progress::{Monitor, Notice};
use crate::repo::Repository;
use crate::repo::wal::{Archive, WalFile};

/// Chooses the set whose base backup a recovery begins with, and aims.
///
/// For PostgreSQL alone it may be one that is partial or online: its base backup is whole, and the log makes it one point in
/// time. For the whole platform it is the one that is chosen by its time ([`choose_with_base`]).
pub fn choose_and_aim(
    repository: &Repository,
    known: &[Known],
    wish: &Wish<'_>,
    goal: (Timestamp, Option<u32>),
    alone: bool,
    monitor: &dyn Monitor,
) -> Result<(Choice, Aim), OrchestrateError> {
    let (time, timeline) = goal;
    let set = if alone { None } else { Some(choose_with_base(known, wish, time, monitor)?) };
    let mut wish = Wish { point: Point::At(time), ..wish.clone() };
    if alone {
        wish.allow.extend([Flaw::Partial, Flaw::Online]);
    }
    let (mut bases, mut passed) = (Vec::new(), Vec::new());
    for one in candidates(known, &wish)? {
        let Some(base) = Base::of(one) else { continue };
        let flaws = Vec::from_iter(one.flaws());
        match flaws.iter().all(|flaw| wish.tolerates(*flaw)) {
            true => bases.push(base),
            false => passed.push((base, flaws)),
        }
    }
    let wanted = Wanted { time, timeline, set: set.as_ref().map(|choice| choice.info.id) };
    if bases.is_empty() && !passed.is_empty() {
        let flaws: BTreeSet<Flaw> = passed.iter().flat_map(|(_, flaws)| flaws).copied().collect();
        let flaws = Vec::from_iter(flaws.into_iter().filter(|flaw| !wish.tolerates(*flaw)));
        let why = format!("{} are there, but {}: --allow takes one in spite of it", passed.len(), words(&flaws));
        return Err(AimError::NoBase { time, why }.into());
    }
    let (system_id, segment_bytes) =
        cluster(&bases, wanted).map(|base| (base.system_id.clone(), base.segment_bytes))?;
    bases.retain(|base| base.system_id == system_id && base.segment_bytes == segment_bytes);
    let aim = aimed(repository, &bases, wanted, (&system_id, segment_bytes), monitor)?;
    let choice = match set {
        Some(choice) => choice,
        None => {
            let newer = |base: &Base| base.ended > aim.base_ended && base.ended <= time;
            let passed = passed.into_iter().filter(|(base, _)| newer(base));
            let passed = passed.map(|(base, flaws)| Passed { id: base.set, time: base.time, flaws }).collect();
            let one = known.iter().find(|one| one.info.id == aim.set);
            let one =
                one.ok_or_else(|| OrchestrateError::Unfit("the set is not among those that are known".to_owned()))?;
            Choice { info: one.info.clone(), flaws: Vec::from_iter(one.flaws()), proven: one.proven, passed }
        }
    };
    Ok((choice, aim))
}

/// Chooses among sets whose base backup had ended by a time: a set stands for the moment at which its capture began, and from
/// a base backup that was still being made then no recovery can begin. A newer set that is passed over for that is told.
pub fn choose_with_base(
    known: &[Known],
    wish: &Wish<'_>,
    time: Timestamp,
    monitor: &dyn Monitor,
) -> Result<Choice, ChooseError> {
    let newest = choose(known, wish)?;
    let able = known.iter().filter(|one| Base::of(one).is_some_and(|base| base.ended <= time));
    match choose(&able.cloned().collect::<Vec<_>>(), wish) {
        Ok(choice) => {
            if choice.info.id != newest.info.id {
                let subject = format!("backup set {} of {}", newest.info.id.short(), newest.info.set.time);
                let message =
                    format!("it is passed over: it has no base backup of PostgreSQL that had ended by {time}");
                monitor.notice(Notice { subject, message });
            }
            Ok(choice)
        }
        Err(flawed @ ChooseError::Flawed { .. }) => Err(flawed),
        // There is none at all: whoever looks for its base backup says so.
        Err(_) => Ok(newest),
    }
}

fn aimed(
    repository: &Repository,
    bases: &[Base],
    wanted: Wanted,
    (system_id, segment_bytes): (&str, u64),
    monitor: &dyn Monitor,
) -> Result<Aim, OrchestrateError> {
    let number: u64 = system_id
        .parse()
        .map_err(|_| OrchestrateError::Unfit(format!("{system_id:?} is no identifier of a cluster")))?;
    let archive = Archive::of(repository);
    let catalog = archive.catalog()?;
    for record in &catalog.damaged {
        let subject = format!("{} {}", record.kind, record.id);
        monitor.notice(Notice { subject, message: record.message() });
    }
    let fetch =
        |name, take: &mut dyn FnMut(&[u8])| pieces(&archive, WalFile { system_id: number, name }, monitor, take);
    // Segments of another length are none of this cluster, as its base backups say.
    let is_fit = |head: &WalHead| !head.name.is_log() || head.raw_len == segment_bytes;
    let of_cluster = catalog.files.into_iter().filter(|((of, _), head)| *of == number && is_fit(head));
    let files = of_cluster.map(|((_, name), head)| (name, head.time));
    aim(bases, &Log::new(segment_bytes, files, &fetch)?, wanted)
}

/// Reads an archived file piece by piece, and hears an interruption between two. Only when this returns is its content known
/// to be right.
fn pieces(
    archive: &Archive,
    file: WalFile,
    monitor: &dyn Monitor,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), OrchestrateError> {
    let piece = &mut |piece: &[u8]| match monitor.interrupted() {
        true => Err(OrchestrateError::Interrupted),
        false => {
            take(piece);
            Ok(())
        }
    };
    let none = || OrchestrateError::Unfit(format!("{} is not in the archive any more", file.name));
    archive.fetch(&file, piece)?.map(drop).ok_or_else(none)
}

/// The archived history of a timeline, as it is.
pub fn history_file(
    archive: &Archive,
    system_id: u64,
    timeline: u32,
    monitor: &dyn Monitor,
) -> Result<Vec<u8>, OrchestrateError> {
    // Its length is bounded by what the head of such a file may say.
    let mut content = Vec::new();
    let file = WalFile { system_id, name: WalName::History(timeline) };
    pieces(archive, file, monitor, &mut |piece| content.extend_from_slice(piece))?;
    Ok(content)
}
