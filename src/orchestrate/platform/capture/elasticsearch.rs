//! Elasticsearch: a snapshot into its repository, and the repository's directory into ours.
//!
//! Invariant: while the directory is copied the server cannot write to it, because the repository is registered as
//! read-only; and it was this program that made it so, or found it so.

use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use super::{Captured, Scene, unread};
use crate::format::set::Facts;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::TreeOptions;
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::services::{start_units, stop_units};
use crate::orchestrate::platform::store::Role;
use crate::orchestrate::platform::undo::undo;
use crate::progress::{Monitor, Phase, StepWork};
use crate::repo::chain;
use crate::source::SourceError;
use crate::source::elasticsearch::client::Level;
use crate::source::elasticsearch::facts::{Counted, Quiescence};
use crate::source::elasticsearch::location::{create_location, location_state, problems};
use crate::source::elasticsearch::repository::Access;
use crate::source::elasticsearch::snapshot::Snapshot;
use crate::source::elasticsearch::{Client, settings_file};

const CONFIGURE: &str = "configure-elasticsearch";
const REGISTER: &str = "register-elasticsearch";
const SNAPSHOT: &str = "snapshot-elasticsearch";
const PRUNE: &str = "prune-elasticsearch";
const SEAL: &str = "seal-elasticsearch";
const STEP: &str = "capture-elasticsearch";

pub fn capture(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.elasticsearch;
    let client = Client::new(settings)?;
    let configured = if scene.may_configure { configure(&executor, &client) } else { Ok(()) };
    let captured = configured.and_then(|()| save(scene, &client, notes));
    if captured.is_err() {
        // The other components may be well, and the set be published; an edit that served nothing does not stay for that.
        executor.run.undo_step(CONFIGURE, &mut |due| undo(executor.profile, due));
    }
    captured
}

fn save(scene: &Scene<'_>, client: &Client, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.elasticsearch;
    register(&executor, client)?;
    let (snapshot, counted) = take(&executor, client, notes)?;
    let pruned = executor.step(PRUNE, None, || {
        let deleted = client.prune(settings.keep_snapshots, &executor.stop())?;
        Ok((if deleted.is_empty() { "nothing to delete".to_owned() } else { deleted.join(", ") }, ()))
    });
    match pruned {
        Err(error) if error.is_interrupted() => return Err(error),
        // Old snapshots only take space.
        Err(error) => notes.tell("elasticsearch", chain(&error)),
        Ok(()) => {}
    }
    let copied = executor
        .step(SEAL, Some(Undo::MakeRepositoryWritable), || {
            let changed = client.wait_for_access(Access::ReadOnly, &executor.stop())?;
            Ok((if changed { "it is read-only now" } else { "it was read-only" }.to_owned(), ()))
        })
        .and_then(|()| {
            executor.step(STEP, None, || {
                let tree = TreeOptions { roots: vec![settings.location.clone()], ..TreeOptions::default() };
                let (part, missed) = scene.store.tree(Role::REPOSITORY, tree, STEP, notes)?;
                if !client.is_read_only()? {
                    let what = "somebody made the repository writable while it was copied; nothing is taken from it";
                    return Err(SourceError::Answer { server: client.server(), what: what.to_owned() }.into());
                }
                Ok((String::new(), (part, missed)))
            })
        });
    // At once: others may want to take snapshots. What fails is tried again at the end of the run, and told there.
    executor.run.undo_step(SEAL, &mut |due| undo(executor.profile, due));
    let (part, missed) = copied?;
    for note in counted.notes {
        notes.tell("elasticsearch", note);
    }
    let mut captured = Captured { parts: vec![part], lacks: Vec::from_iter(unread(missed)), ..Captured::default() };
    captured.versions.insert("elasticsearch".to_owned(), snapshot.version);
    captured.facts = Some(Facts::Elasticsearch(counted.facts));
    Ok(captured)
}

/// Where the file is kept as it was before `path.repo` was edited.
pub fn kept_settings(executor: &Executor<'_>) -> PathBuf {
    executor.profile.state.directory.join("elasticsearch.yml.before")
}

/// Allows the directory in `path.repo` and starts the server anew, if it does not allow it yet.
fn configure(executor: &Executor<'_>, client: &Client) -> Result<(), OrchestrateError> {
    let profile = executor.profile;
    let settings = &profile.elasticsearch;
    let needed = !client.nodes_without_location()?.is_empty();
    let copy = kept_settings(executor);
    let undo = Undo::RestoreFile {
        path: settings.configuration_file.to_string_lossy().into_owned(),
        copy: copy.to_string_lossy().into_owned(),
        unit: settings.service.clone(),
    };
    executor.step(CONFIGURE, needed.then_some(undo), || {
        if !needed {
            return Ok(("the directory is allowed already".to_owned(), ()));
        }
        let location = settings.location.to_string_lossy();
        create_location(&settings.location, &settings.owner)?;
        settings_file::allow(&settings.configuration_file, &location, &copy)?;
        let (units, stop) = ([settings.service.clone()], executor.stop());
        stop_units(profile, &units, &stop)?;
        start_units(profile, &units, &stop)?;
        client.wait_for_health(Level::Yellow, settings.health_timeout(), &stop)?;
        Ok((format!("path.repo allows {location}"), ()))
    })
}

fn register(executor: &Executor<'_>, client: &Client) -> Result<(), OrchestrateError> {
    let settings = &executor.profile.elasticsearch;
    executor.step(REGISTER, None, || {
        let wrong =
            problems(&settings.location, &location_state(&settings.location, &settings.owner)?, &settings.owner);
        if !wrong.is_empty() {
            return Err(OrchestrateError::Unfit(wrong.join("; ")));
        }
        let without = client.nodes_without_location()?;
        if !without.is_empty() {
            let what = format!(
                "path.repo of {} does not allow {}; {}, or let --configure-path-repo do it",
                without.join(", "),
                settings.location.display(),
                client.advice()
            );
            return Err(SourceError::Answer { server: client.server(), what }.into());
        }
        let rivals = client.rivals()?;
        if !rivals.is_empty() {
            let what = format!(
                "{} may write to the same directory; make it read-only, or remove its registration",
                rivals.join(", ")
            );
            return Err(SourceError::Answer { server: client.server(), what }.into());
        }
        // What a cut-off run left so is undone before another begins: this was somebody's will.
        if client.is_read_only()? {
            let what = format!(
                "its repository {:?} is registered as read-only, perhaps because another cluster writes to the same \
                 directory; make it writable, or set elasticsearch.repository and elasticsearch.location",
                settings.repository
            );
            return Err(SourceError::Answer { server: client.server(), what }.into());
        }
        let registered = client.wait_for_access(Access::Writable, &executor.stop())?;
        let nodes = client.verify_repository()?;
        let did = if registered { "registered" } else { "was registered" };
        Ok((format!("{did}; {} can write to it", nodes.join(", ")), ()))
    })
}

/// Takes a snapshot and counts what is in it. One that is not complete is deleted.
fn take(executor: &Executor<'_>, client: &Client, notes: &Notes<'_>) -> Result<(Snapshot, Counted), OrchestrateError> {
    let settings = &executor.profile.elasticsearch;
    let stop = executor.stop();
    // Its name is in the journal before it is asked for: whoever comes after a cut-off run has to end it.
    let name = client.name_for(Timestamp::now())?;
    executor.step(SNAPSHOT, Some(Undo::DeleteUnfinishedSnapshot { name: name.clone() }), || {
        let began = Instant::now();
        // One whose answer was late may have begun all the same.
        client.create(&name).map_err(|error| discard(executor, client, &name, notes, error))?;
        let (mut known, mut written) = (false, 0);
        let taken = client.wait(&name, settings.snapshot_timeout(), &stop, &mut |progress| {
            if !known && progress.bytes_to_write > 0 {
                notes.within(SNAPSHOT, StepWork::Begin(Phase::Backup, Some(progress.bytes_to_write)));
                known = true;
            }
            notes.within(SNAPSHOT, StepWork::Advance(progress.bytes_written.saturating_sub(written)));
            written = written.max(progress.bytes_written);
        });
        if known {
            notes.within(SNAPSHOT, StepWork::End);
        }
        let snapshot = taken.map_err(|error| discard(executor, client, &name, notes, error))?;
        let quiescence = if executor.is_full() { Quiescence::AtRest } else { Quiescence::Online };
        let counted = client.facts(&snapshot, quiescence, &stop)?;
        let documents: u64 = counted.facts.documents.values().sum();
        let seconds = began.elapsed().as_secs_f64();
        let seen = format!("{name}: {} indices, {documents} documents, {seconds:.1} s", snapshot.indices.len());
        Ok((seen, (snapshot, counted)))
    })
}

/// A snapshot that is not whole, or not waited for, must not stay: it takes space, and the next one would have to wait.
/// Whoever wants to stop has services down, and waits for one answer at most.
fn discard(executor: &Executor<'_>, client: &Client, name: &str, notes: &Notes<'_>, error: SourceError) -> SourceError {
    let settings = &executor.profile.elasticsearch;
    let limit = match executor.monitor.interrupted() {
        true => settings.request_timeout(),
        false => settings.delete_timeout(),
    };
    if let Err(left) = client.delete_within(name, limit, &|| false) {
        notes.tell("elasticsearch", format!("the snapshot {name} could not be deleted: {}", chain(&left)));
    }
    error
}
