//! Undoing what a run changed.
//!
//! Invariant: every undoing asks how things are before it changes them, so it can be done twice, and by `resume` on a
//! machine that has just booted: a server that does not answer yet is waited for. Nobody interrupts it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::services::{start_groups, start_units, stop_units, stopped};
use crate::source::SourceError;
use crate::source::elasticsearch::client::Level;
use crate::source::elasticsearch::location::remove_restored;
use crate::source::elasticsearch::repository::Access;
use crate::source::elasticsearch::restore::Request;
use crate::source::elasticsearch::{self, ElasticsearchSettings, SAVED_PREFIX, settings_file};
use crate::source::files::swap::Swap;
use crate::source::redis;
use crate::source::scratch::Scratch;
use crate::source::wait::pause;

/// How often a server that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Undoes things, one after another; what was seen of each.
pub fn undo(profile: &Profile, all: &[Undo]) -> Vec<Result<String, OrchestrateError>> {
    let mut results = Vec::new();
    for some in all.chunk_by(|one, next| is_start(one) && is_start(next)) {
        match some {
            [one] if !is_start(one) => results.push(undo_one(profile, one)),
            some => results.extend(start(profile, some)),
        }
    }
    results
}

fn is_start(undo: &Undo) -> bool {
    matches!(undo, Undo::StartUnits { .. })
}

fn undo_one(profile: &Profile, undo: &Undo) -> Result<String, OrchestrateError> {
    match undo {
        Undo::StartUnits { units, .. } => Ok(start_units(profile, units, &never)?),
        Undo::MergeQueues { queues } => put_back(profile, queues),
        Undo::RestoreFile { path, copy, unit } => restore_file(profile, Path::new(path), Path::new(copy), unit),
        Undo::DeleteUnfinishedSnapshot { name } => delete_unfinished(profile, name),
        Undo::MakeRepositoryWritable => {
            let client = elasticsearch::Client::new(&profile.elasticsearch)?;
            let limit = profile.elasticsearch.health_timeout();
            client.wait_for_health(Level::Red, limit, &never)?;
            // A server that has just started tells its health before it knows its repositories.
            let changed = patiently(limit, || client.wait_for_access(Access::Writable, &never))?;
            Ok(if changed { "it is writable again" } else { "it was writable" }.to_owned())
        }
        Undo::DiscardStaged { swaps } => {
            swaps.iter().try_for_each(Swap::discard_staged)?;
            Ok("nothing of it is left".to_owned())
        }
        Undo::TakeBack { swaps, unit, start } => take_back(profile, swaps, unit, *start),
        Undo::PutBackFiles { kept } => {
            let changed = kept.put_back(&never)?;
            Ok(if changed { "the files are as they were" } else { "no file was changed" }.to_owned())
        }
        Undo::ForgetRepository { name, directory } => {
            let settings = ElasticsearchSettings { repository: name.clone(), ..profile.elasticsearch.clone() };
            let client = elasticsearch::Client::new(&settings)?;
            patiently(profile.elasticsearch.health_timeout(), || client.unregister())?;
            remove_restored(Path::new(directory))?;
            Ok("its registration and its directory are gone".to_owned())
        }
        Undo::EndScratch { directory } => {
            let ended = Scratch::at(Path::new(directory)).end()?;
            Ok(format!("{ended} processes that were left are ended, and the directory is gone"))
        }
        Undo::PutBackIndices { made, snapshot, replaced, closed } => {
            put_back_indices(profile, made, snapshot.as_deref(), (replaced, closed))
        }
    }
}

/// What was moved aside in its place again, and its server on it if that ran before.
fn take_back(profile: &Profile, swaps: &[Swap], unit: &str, start: bool) -> Result<String, OrchestrateError> {
    let mut any_in = false;
    for swap in swaps {
        any_in |= swap.is_in()?;
    }
    let units = [unit.to_owned()];
    if any_in {
        stop_units(profile, &units, &never)?;
    }
    let mut back = 0;
    for swap in swaps.iter().rev() {
        back += usize::from(swap.take_back()?);
    }
    if start {
        start_units(profile, &units, &never)?;
    }
    Ok(format!("{back} of {} places were changed, and are as before", swaps.len()))
}

/// Indices as they were. Only what the restore has made is deleted.
fn put_back_indices(
    profile: &Profile,
    made: &[String],
    snapshot: Option<&str>,
    (replaced, closed): (&[String], &[String]),
) -> Result<String, OrchestrateError> {
    let settings = &profile.elasticsearch;
    let client = elasticsearch::Client::new(settings)?;
    client.wait_for_health(Level::Red, settings.health_timeout(), &never)?;
    for index in made {
        client.delete_index(index)?;
    }
    if let Some(snapshot) = snapshot {
        for index in replaced {
            client.close_index(index)?;
        }
        let (snapshot, indices) = (snapshot.to_owned(), replaced.to_vec());
        let request = Request { snapshot, indices, rename: None, global_state: false };
        client.restore_as_recorded(&request, closed, settings.restore_timeout(), &never, &mut |_| {})?;
    }
    Ok(format!("{} indices deleted, {} brought back", made.len(), replaced.len()))
}

/// Starts units, and stops again what was started along with them. What of `down` runs already stays: somebody wants it.
fn start(profile: &Profile, all: &[Undo]) -> Vec<Result<String, OrchestrateError>> {
    let (mut groups, mut down) = (Vec::new(), BTreeSet::new());
    for undo in all {
        if let Undo::StartUnits { units, down: stay_down } = undo {
            groups.push(units.as_slice());
            down.extend(stay_down.iter().cloned());
        }
    }
    // What was down at first and ran when it was stopped is to run.
    for unit in groups.iter().copied().flatten() {
        down.remove(unit);
    }
    let down = stopped(profile, &Vec::from_iter(down), &never);
    let mut results = start_groups(profile, &groups, &never);
    let down_again = down.map_err(OrchestrateError::from).and_then(|down| stop_along(profile, down));
    // What cannot be stopped again is not as it was; it is looked at once more together with what was started last.
    if let (Err(error), Some(last)) = (down_again, results.last_mut().filter(|last| last.is_ok())) {
        *last = Err(error);
    }
    results
}

/// Stops those of some units that were stopped before and run now.
fn stop_along(profile: &Profile, down: Vec<String>) -> Result<(), OrchestrateError> {
    let (still, mut along) = (stopped(profile, &down, &never)?, down);
    along.retain(|unit| !still.contains(unit));
    stop_units(profile, &along, &never).map(drop)
}

fn never() -> bool {
    false
}

fn put_back(profile: &Profile, queues: &[(String, String)]) -> Result<String, OrchestrateError> {
    let keys: Vec<String> = queues.iter().map(|(key, _)| key.clone()).collect();
    let limit = profile.services.health.timeout_seconds.duration();
    // A server that still reads its data accepts connections, and answers nothing else.
    let aside = patiently(limit, || {
        let mut client = redis::Client::connect(&profile.redis)?;
        let aside = client.set_aside_already(&keys)?;
        client.put_back(&keys)?;
        Ok(aside)
    })?;
    let elements: u64 = aside.values().sum();
    Ok(format!("{elements} elements are back in {} queues", aside.len()))
}

/// The file as it was, and the server that reads it started anew unless it runs with that already.
fn restore_file(profile: &Profile, path: &Path, copy: &Path, unit: &str) -> Result<String, OrchestrateError> {
    let settings = &profile.elasticsearch;
    let changed = settings_file::undo(path, &settings.location.to_string_lossy(), copy)?;
    let client = elasticsearch::Client::new(settings)?;
    let without = client.nodes_without_location().is_ok_and(|nodes| !nodes.is_empty());
    let units = [unit.to_owned()];
    if !without {
        stop_units(profile, &units, &never)?;
    }
    start_units(profile, &units, &never)?;
    Ok(if changed { "the file is as it was" } else { "the file was as before" }.to_owned())
}

/// The server goes on with what it was asked for, whoever asked is gone or not: the next snapshot would have to wait for it.
/// One that is whole does no harm, and makes the next one small. Services may be down until this is done, so the end is
/// waited for only as long as for one answer.
fn delete_unfinished(profile: &Profile, name: &str) -> Result<String, OrchestrateError> {
    let client = elasticsearch::Client::new(&profile.elasticsearch)?;
    let limit = profile.elasticsearch.health_timeout();
    client.wait_for_health(Level::Red, limit, &never)?;
    // Whoever took the registration away has taken the snapshots with it.
    let find = || if client.is_registered()? { client.find_snapshot(name) } else { Ok(None) };
    match patiently(limit, find)? {
        None => Ok(format!("there is no snapshot {name}")),
        // Nobody would look for it: what it holds is there again.
        Some(found) if found.is_complete() && name.starts_with(SAVED_PREFIX) => {
            Ok(format!("what was there is also {}", profile.elasticsearch.snapshot_that_stays(name)))
        }
        Some(found) if found.is_complete() => Ok(format!("the snapshot {name} is whole, and stays")),
        Some(_) => {
            client.delete_within(name, profile.elasticsearch.request_timeout(), &never)?;
            Ok(format!("the snapshot {name} was not whole, and is deleted"))
        }
    }
}

/// Tries for as long as a server does not answer, says that it cannot yet, or is broken off by a signal: the second wish to
/// stop comes while everybody waits for the undoing. What is tried must be the same, done twice.
pub fn patiently<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, SourceError>) -> Result<T, SourceError> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.may_pass() && started.elapsed() < limit => pause(AGAIN, &never)?,
            result => return result,
        }
    }
}
