//! Elasticsearch: the snapshot repository in a directory of its own, registered as read-only, and its indices restored.
//!
//! Invariants: the platform's own snapshot repository is neither moved nor written over; an index that is there is closed
//! and replaced only after a snapshot of it is whole; an index that a failed restore has made is deleted only if it was
//! not there before.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::format::ObjectId;
use crate::format::codec::escape_path;
use crate::format::set::{self, ElasticsearchFacts, Facts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::restore::plan::{Draft, Intent, Look, Work, part, step};
use crate::orchestrate::platform::restore::trees;
use crate::orchestrate::platform::restore::{Back, Existing, Old, Scene};
use crate::orchestrate::platform::store::Role;
use crate::orchestrate::platform::undo::undo;
use crate::progress::{Monitor, Phase, StepWork};
use crate::source::SourceError;
use crate::source::elasticsearch::client::Level;
use crate::source::elasticsearch::facts::{Tally, compare, not_recorded};
use crate::source::elasticsearch::location::create_location;
use crate::source::elasticsearch::repository::{Access, RESTORE_PREFIX};
use crate::source::elasticsearch::restore::{Rename, Request};
use crate::source::elasticsearch::{Client, ElasticsearchSettings, SAVED_PREFIX};

const STAGE: &str = "stage-elasticsearch";
const ASIDE: &str = "aside-elasticsearch";
const RESTORE: &str = "restore-elasticsearch";
const COMPARE: &str = "compare-elasticsearch";

/// What is done.
#[derive(Clone, Debug)]
pub struct IndexWork {
    snapshot: ObjectId,
    /// The repository's directory in the set.
    root: PathBuf,
    /// The registration that it is restored from.
    from: ElasticsearchSettings,
    /// The snapshot of what is there already.
    aside: String,
    facts: ElasticsearchFacts,
    /// The indices of the set that are there already.
    there: Vec<String>,
    /// Of those the ones that are closed.
    there_closed: Vec<String>,
    existing: Existing,
}

impl IndexWork {
    /// How an index is called when it is back.
    fn name(&self, index: &str) -> String {
        match &self.existing {
            Existing::Prefix(prefix) => format!("{prefix}{index}"),
            _ => index.to_owned(),
        }
    }
}

/// Looks what is there.
pub fn draft(look: &Look<'_>, found: &set::Component) -> Result<Draft, OrchestrateError> {
    let settings = &look.profile.elasticsearch;
    let Some(Facts::Elasticsearch(facts)) = &found.facts else {
        return Err(OrchestrateError::Unfit("the set says nothing of its Elasticsearch: see its report".to_owned()));
    };
    let stored = part(&found.parts, Role::REPOSITORY)?;
    let info = look.snapshot(stored)?;
    let [root] = info.snapshot.paths.as_slice() else {
        return Err(OrchestrateError::Unfit("the set holds more than one directory of Elasticsearch".to_owned()));
    };
    let name = format!("{RESTORE_PREFIX}{}", look.mark);
    let from = ElasticsearchSettings { location: settings.location.join(&name), repository: name, ..settings.clone() };
    let work = IndexWork {
        snapshot: info.id,
        root: trees::path(root),
        aside: format!("{SAVED_PREFIX}{}", look.mark),
        facts: facts.clone(),
        there: Vec::new(),
        there_closed: Vec::new(),
        existing: look.options.existing.clone(),
        from,
    };
    let client = Client::new(settings)?;
    let present: BTreeMap<String, bool> = client.indices()?.into_iter().map(|index| (index.name, index.open)).collect();
    let mut there = Tally::of(facts).indices();
    there.retain(|one| present.contains_key(&work.name(one)));
    let there_closed = there.iter().filter(|one| present.get(*one) == Some(&false)).cloned().collect();
    let mut obstacles = Vec::new();
    if work.existing != Existing::Close && !there.is_empty() {
        obstacles.push(format!(
            "these indices are there already: {}; --close-existing puts them aside in a snapshot and replaces them, \
             --rename PREFIX restores beside them",
            there.join(", ")
        ));
    }
    let without = client.nodes_without_location()?;
    if !without.is_empty() {
        obstacles.push(format!("path.repo of {} does not allow it; {}", without.join(", "), client.advice()));
    }
    let component = Component::Elasticsearch;
    let steps = vec![
        step(component, STAGE, "write the snapshot repository to a directory of its own, and register it", true),
        step(component, ASIDE, "take a snapshot of the indices that are there", true),
        step(component, RESTORE, "restore the indices of the snapshot (_restore), and wait for their health", true),
        step(component, COMPARE, "compare the documents of each index with what was recorded", false),
    ];
    let intent = Intent {
        component,
        into: Tally::of(facts).indices().iter().map(|index| work.name(index)).collect(),
        replaces: there.clone(),
        bytes: stored.bytes,
        notes: Vec::new(),
        steps,
        work: Work::Indices(IndexWork { there, there_closed, ..work }),
    };
    Ok(Draft { intent, obstacles, space: vec![(settings.location.clone(), stored.bytes.saturating_mul(2))] })
}

/// Writes the repository's directory and registers it.
pub fn stage(scene: &Scene<'_>, work: &IndexWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let settings = &scene.executor.profile.elasticsearch;
    let undo = Undo::ForgetRepository {
        name: work.from.repository.clone(),
        directory: work.from.location.to_string_lossy().into_owned(),
    };
    scene.executor.step(STAGE, Some(undo), || {
        create_location(&settings.location, &settings.owner)?;
        let report = trees::write(scene, STAGE, &work.snapshot, &work.root, &work.from.location, notes)?;
        let client = Client::new(&work.from)?;
        client.wait_for_access(Access::ReadOnly, &scene.executor.stop())?;
        let found = client.find_snapshot(&work.facts.snapshot)?;
        let wanted = found.filter(|found| found.uuid == work.facts.snapshot_uuid && found.is_complete());
        wanted.ok_or_else(|| {
            let what = format!("the restored repository does not hold the snapshot {} whole", work.facts.snapshot);
            SourceError::Answer { server: client.server(), what }
        })?;
        Ok((format!("{} files, read back and equal", report.files), ()))
    })
}

/// Restores the indices that were counted when they were captured, and counts their documents.
pub fn put_in(scene: &Scene<'_>, work: &IndexWork, notes: &Notes<'_>) -> Result<Back, OrchestrateError> {
    let replaced = match work.existing {
        Existing::Close => work.there.clone(),
        _ => Vec::new(),
    };
    if replaced.is_empty() {
        return Ok(Back { compared: indices_in(scene, work, &replaced, notes)?, aside: Vec::new() });
    }
    save(scene, work, &replaced)?;
    let compared = indices_in(scene, work, &replaced, notes).inspect_err(|_| {
        let settings = &scene.executor.profile.elasticsearch;
        notes.tell("elasticsearch", format!("what was there is also {}", settings.snapshot_that_stays(&work.aside)));
    })?;
    let aside = vec![Old::Indices { indices: replaced, snapshot: work.aside.clone() }];
    Ok(Back { compared, aside })
}

fn indices_in(
    scene: &Scene<'_>,
    work: &IndexWork,
    replaced: &[String],
    notes: &Notes<'_>,
) -> Result<Option<String>, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.elasticsearch;
    let stop = executor.stop();
    let client = Client::new(&work.from)?;
    let found = client.find_snapshot(&work.facts.snapshot)?;
    let recorded = Tally::of(&work.facts);
    let left = found.map(|found| not_recorded(&found, &recorded)).unwrap_or_default();
    let indices = recorded.indices();
    let recorded = recorded.renamed(|index| work.name(index));
    let closed: Vec<String> = recorded.closed.keys().cloned().collect();
    let made = indices.iter().map(|index| work.name(index)).filter(|name| !replaced.contains(name)).collect();
    let snapshot = (!replaced.is_empty()).then(|| work.aside.clone());
    let undoing =
        Undo::PutBackIndices { made, snapshot, replaced: replaced.to_vec(), closed: work.there_closed.clone() };
    let restored = executor.step(RESTORE, Some(undoing), || {
        for index in replaced {
            client.close_index(index)?;
        }
        let rename = match &work.existing {
            Existing::Prefix(prefix) => Some(Rename { pattern: "(.+)".to_owned(), replacement: format!("{prefix}$1") }),
            _ => None,
        };
        let request = Request { snapshot: work.facts.snapshot.clone(), indices, rename, global_state: false };
        let (mut known, mut written) = (false, 0);
        let restored =
            client.restore_as_recorded(&request, &closed, settings.restore_timeout(), &stop, &mut |progress| {
                if !known && progress.bytes > 0 {
                    notes.within(RESTORE, StepWork::Begin(Phase::Restore, Some(progress.bytes)));
                    known = true;
                }
                notes.within(RESTORE, StepWork::Advance(progress.bytes_done.saturating_sub(written)));
                written = written.max(progress.bytes_done);
            })?;
        let health = client.wait_for_health(Level::Yellow, settings.health_timeout(), &stop)?;
        Ok((format!("{} indices; the cluster is {}", restored.len(), health.level), restored))
    })?;
    let compared = executor.step(COMPARE, None, || {
        let found = client.tally(&restored, &stop)?;
        let differences = compare(&recorded, &found);
        if !differences.is_empty() {
            return Err(OrchestrateError::Unfit(differences.join("; ")));
        }
        let seen = found.shown();
        Ok((seen.clone(), seen))
    })?;
    // What it was restored from is not needed any more. What fails is tried again at the end of the run.
    executor.run.undo_step(STAGE, &mut |due| undo(executor.profile, due));
    // Never silently: whoever misses one finds it in the set, by hand.
    for index in &left {
        notes
            .tell("elasticsearch", format!("{index}: it was NOT restored; the set's snapshot repository still has it"));
    }
    if !left.is_empty() {
        notes.tell("elasticsearch", format!("the others are equal: {compared}"));
    }
    Ok(left.is_empty().then_some(compared))
}

/// Takes a snapshot of what is there, in the platform's own repository.
fn save(scene: &Scene<'_>, work: &IndexWork, replaced: &[String]) -> Result<(), OrchestrateError> {
    let executor = scene.executor;
    let settings = ElasticsearchSettings { indices: replaced.to_vec(), ..executor.profile.elasticsearch.clone() };
    let stop = executor.stop();
    let undoing = Undo::DeleteUnfinishedSnapshot { name: work.aside.clone() };
    executor.step(ASIDE, Some(undoing), || {
        let client = Client::new(&settings)?;
        client.wait_for_access(Access::Writable, &stop)?;
        client.create(&work.aside)?;
        let snapshot = client.wait(&work.aside, settings.snapshot_timeout(), &stop, &mut |_| {})?;
        let missing: Vec<&String> = replaced.iter().filter(|index| !snapshot.indices.contains(index)).collect();
        if !snapshot.is_complete() || !missing.is_empty() {
            let what = format!("the snapshot {} of what is there is not whole, so nothing is replaced", work.aside);
            return Err(SourceError::Answer { server: client.server(), what }.into());
        }
        Ok((format!("{} in {}", work.aside, escape_path(&settings.location)), ()))
    })
}
