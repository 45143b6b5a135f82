//! A backup of the platform: to rest, captured, up again, and published as the last write.
//!
//! Invariants: whatever ends a run, everything that it stopped is started again; what cannot be started stays in the
//! journal, for `resume`. A set is published only when every service was told to start again, and names only snapshots
//! that are there. Elements that were purged from queues are deleted only after the set that holds them is published.

use std::time::Duration;

use jiff::Timestamp;

use crate::format::ObjectId;
use crate::format::record::Purpose;
use crate::format::set::{self, BackupSet, Consistency, Status, StepRecord};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::answering::Answering;
use crate::orchestrate::platform::capture::{self, Scene};
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::journal::{Header, Undo};
use crate::orchestrate::platform::plan::{Plan, stopped_units};
use crate::orchestrate::platform::preflight::{self as check, Look, preflight};
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::rest::{
    AtRest, PURGE, Purged, Queues, bring_to_rest, in_words, patterns, still_at_rest,
};
use crate::orchestrate::platform::run::Run;
use crate::orchestrate::platform::services::Census;
use crate::orchestrate::platform::state::StateDir;
use crate::orchestrate::platform::store::Store;
use crate::orchestrate::platform::undo::{patiently, undo};
use crate::progress::{Monitor, Notice};
use crate::repo::lease::Held;
use crate::repo::{RepoError, Repository, chain};
use crate::source::elasticsearch::settings_file;
use crate::source::postgres::Method;
use crate::source::redis;

/// The step that looks whether a run may begin; it changes nothing.
pub const PREFLIGHT: &str = "preflight";

/// What a backup is told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The checks of the preflight in spite of which it begins.
    pub allow: Vec<String>,
    /// How long to wait for the queues, instead of what the profile says.
    pub drain_timeout: Option<Duration>,
    /// Whether what is left in queues is saved and deleted.
    pub purge_queues: bool,
    /// Whether `path.repo` of Elasticsearch may be edited.
    pub configure_path_repo: bool,
}

/// What a backup needs.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Where it goes.
    pub repository: &'a Repository,
    /// The platform.
    pub profile: &'a Profile,
    /// What is done.
    pub plan: &'a Plan,
    /// How.
    pub options: &'a Options,
    /// Where the journal is; the caller holds its lock.
    pub state: &'a StateDir,
    /// Who hears of it.
    pub monitor: &'a dyn Monitor,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The set, if one was published.
    pub set: Option<(ObjectId, BackupSet)>,
    /// What ended the run early; everything that could be undone is undone.
    pub error: Option<OrchestrateError>,
    /// What could not be undone or is not up again. What is left to do is in the journal.
    pub stuck: Vec<OrchestrateError>,
    /// What was done, in order.
    pub steps: Vec<StepRecord>,
}

impl Outcome {
    /// What a run has come to. A journal that cannot be put aside is one more thing that is not as it should be, and no
    /// reason to be silent about the rest.
    pub(super) fn of(
        run: Run<'_>,
        set: Option<(ObjectId, BackupSet)>,
        error: Option<OrchestrateError>,
        mut stuck: Vec<OrchestrateError>,
    ) -> Self {
        let steps = run.log();
        stuck.extend(run.finish().err());
        Outcome { set, error, stuck, steps }
    }
}

/// Runs a backup. An error is only that it could not begin; then nothing was changed.
pub fn backup(order: &Order<'_>) -> Result<Outcome, OrchestrateError> {
    crate::format::name::validate(&order.profile.name).map_err(RepoError::from)?;
    let header = header("backup", order.profile);
    // Until its set is published nobody sees what a base backup needs of the log's archive; this lease protects it.
    let is_base = order.profile.postgres.method == Method::Base;
    let _lease = is_base.then(|| Held::take(order.repository, Purpose::Write)).transpose()?;
    let run = Run::begin(order.state, header, order.monitor)?;
    let executor = Executor { profile: order.profile, plan: order.plan, run: &run, monitor: order.monitor };
    let store = Store::new(order.repository, &order.profile.name);
    let (set, error, stuck) = match attempt(order, &executor, &store) {
        Ok(taken) => conclude(order, &executor, taken),
        Err(error) => (None, Some(error), run.undo_all(&mut |due| undo(order.profile, due))),
    };
    Ok(Outcome::of(run, set, error, stuck))
}

/// What the journal of a run begins with.
pub fn header(operation: &str, profile: &Profile) -> Header {
    Header { version: 1, operation: operation.to_owned(), time: Timestamp::now(), profile: profile.to_toml() }
}

/// What was captured.
struct Taken {
    census: Census,
    answering: Answering,
    purged: Option<Purged>,
    time: Timestamp,
    components: Vec<set::Component>,
    /// What was at work in spite of all while the platform was captured, or may have been.
    intruders: Vec<String>,
    warnings: Vec<String>,
}

fn attempt(order: &Order<'_>, executor: &Executor<'_>, store: &Store<'_>) -> Result<Taken, OrchestrateError> {
    let stop = executor.stop();
    let (profile, options) = (order.profile, order.options);
    let Looked { at_work, mut warnings } = look(order, executor)?;
    let alone = stopped_units(profile, &order.plan.components);
    let units: Vec<&str> = match executor.is_full() {
        true => [patterns(profile), vec![&profile.postgres.service, &profile.neo4j.service]].concat(),
        // Whoever stops nothing has no need of systemd.
        false => alone.iter().map(String::as_str).collect(),
    };
    let (census, answering) = executor.step("census", None, || {
        let census = Census::take(profile, &units, &stop)?;
        let answering = Answering::ask(profile, &order.plan.components, &stop)?;
        Ok((census.shown(), (census, answering)))
    })?;
    let notes = Notes::new(order.monitor);
    let purge_into = options.purge_queues.then_some(store);
    let rest = match executor.is_full() {
        true => {
            let queues = Queues { drain_timeout: options.drain_timeout, purge_into };
            bring_to_rest(executor, &census, queues, &notes)?
        }
        false => AtRest::default(),
    };
    let time = Timestamp::now();
    let may_configure = options.configure_path_repo && executor.is_full();
    let scene = Scene { executor: *executor, store, census: &census, purged: rest.purged.as_ref(), may_configure };
    let components = capture::all(&scene)?;
    let mut intruders = if executor.is_full() { still_at_rest(executor, &rest)? } else { Vec::new() };
    let AtRest { purged, intruders: earlier, .. } = rest;
    intruders.extend(earlier.into_iter().chain(at_work));
    warnings.extend(notes.into_vec());
    Ok(Taken { census, answering, purged, time, components, intruders, warnings })
}

/// What the preflight saw and was allowed.
struct Looked {
    /// Who is at work in a database, and is not stopped.
    at_work: Vec<String>,
    warnings: Vec<String>,
}

/// The preflight, as a step: nothing was changed yet. What was allowed is a warning of the set.
fn look(order: &Order<'_>, executor: &Executor<'_>) -> Result<Looked, OrchestrateError> {
    let Order { profile, plan, options, monitor, .. } = *order;
    executor.step(PREFLIGHT, None, || {
        let found = preflight(&Look { profile, components: &plan.components, mode: plan.mode, monitor })?;
        let refusals = found.refusals(&options.allow);
        if !refusals.is_empty() {
            let checks = refusals.iter().map(|check| format!("{}: {} -> {}", check.id, check.seen, check.advice));
            return Err(OrchestrateError::Refused { checks: checks.collect::<Vec<_>>().join("; ") });
        }
        let allowed = found.checks.iter().filter(|check| check.outcome != check::Outcome::Pass);
        let (mut at_work, mut warnings) = (Vec::new(), Vec::new());
        for check in allowed {
            warnings.push(format!("the check {} was allowed: {}", check.id, check.seen));
            if executor.is_full() && check.outcome == check::Outcome::Fail && check::is_about_writers(&check.id) {
                at_work.push(check.seen.clone());
            }
        }
        let seen = format!("{} checks, {} of them allowed", found.checks.len(), warnings.len());
        Ok((seen, Looked { at_work, warnings }))
    })
}

type Concluded = (Option<(ObjectId, BackupSet)>, Option<OrchestrateError>, Vec<OrchestrateError>);

/// Services up again, the set published, what was purged deleted.
fn conclude(order: &Order<'_>, executor: &Executor<'_>, mut taken: Taken) -> Concluded {
    let run = executor.run;
    let undoing = &mut |due: &_| undo(order.profile, due);
    let captured_none = taken.components.iter().all(|component| component.status == Status::Failed);
    if captured_none || order.monitor.interrupted() {
        // All of it, in its order, and before services are up.
        let stuck = run.undo_all(undoing);
        let none = || OrchestrateError::Unfit("nothing could be captured, so no backup set was published".to_owned());
        let error = if captured_none { none() } else { OrchestrateError::Interrupted };
        return (None, Some(error), stuck);
    }
    let mut stuck = Vec::new();
    if let Some(purged) = taken.purged.take_if(|purged| !taken.components.iter().any(|one| holds(one, purged))) {
        stuck.extend(run.undo_step(PURGE, undoing));
        let back = in_words(&purged.elements());
        taken.warnings.push(format!("nothing was purged, because the set does not hold it: {back}"));
    }
    stuck.extend(run.close(undoing));
    if order.monitor.interrupted() {
        stuck.extend(undo_late(executor));
        return (None, Some(OrchestrateError::Interrupted), stuck);
    }
    if executor.plans("prove-up")
        && let Err(error) = executor.step("prove-up", None, || Ok((prove_up(order.profile, &taken)?, ())))
        // Whoever wants to stop here has everything up again, and no set: the next step says so.
        && !error.is_interrupted()
    {
        stuck.push(error);
    }
    let (purged, set) = (taken.purged.clone(), set(order, executor, taken));
    let published = executor.step("publish", None, || {
        let id = order.repository.publish_set(&set)?;
        Ok((format!("backup set {}", id.short()), id))
    });
    let id = match published {
        Ok(id) => id,
        Err(error) => {
            stuck.extend(undo_late(executor));
            return (None, Some(error), stuck);
        }
    };
    if let Err(error) = settle(order, executor, purged) {
        stuck.push(error);
        stuck.extend(undo_late(executor));
    }
    (Some((id, set)), None, stuck)
}

/// Whether a component of the set names the snapshot that holds what was taken out of the queues.
fn holds(component: &set::Component, purged: &Purged) -> bool {
    component.parts.iter().any(|part| part.snapshot == purged.part.snapshot)
}

fn prove_up(profile: &Profile, taken: &Taken) -> Result<String, OrchestrateError> {
    let units = taken.census.prove_up(profile, &|| false)?;
    Ok(units + &taken.answering.prove_up(profile)?)
}

/// What was changed for good, now that the set holds what it replaced.
fn settle(order: &Order<'_>, executor: &Executor<'_>, purged: Option<Purged>) -> Result<(), OrchestrateError> {
    if let Some(purged) = purged {
        let limit = order.profile.services.health.timeout_seconds.duration();
        patiently(limit, || redis::Client::connect(&order.profile.redis)?.drop_aside(&purged.saved))?;
    }
    executor.run.keep_changes()?;
    keep_edit(executor);
    Ok(())
}

/// The edit of a file stays; services are up on it.
fn undo_late(executor: &Executor<'_>) -> Vec<OrchestrateError> {
    let failures = executor.run.undo_late(&mut |due| undo(executor.profile, due));
    keep_edit(executor);
    failures
}

/// Removes the copy of what an edited file was, unless it is still to be put back.
fn keep_edit(executor: &Executor<'_>) {
    let kept = capture::kept_settings(executor);
    let edit_is_due = executor.run.due().iter().any(|due| matches!(due.undo, Undo::RestoreFile { .. }));
    if !edit_is_due && let Err(error) = settings_file::keep(&kept) {
        // The next edit says so again, and would be refused until it is gone.
        executor.monitor.notice(Notice { subject: "elasticsearch".to_owned(), message: chain(&error) });
    }
}

fn set(order: &Order<'_>, executor: &Executor<'_>, taken: Taken) -> BackupSet {
    let Taken { time, mut components, intruders, mut warnings, .. } = taken;
    let one_point = executor.is_full() && intruders.is_empty();
    if !intruders.is_empty() {
        warnings.push(format!(
            "not one point in time: somebody was at work while components were captured: {}",
            intruders.join("; ")
        ));
    }
    let all_are = |status: Status| components.iter().all(|component| component.status == status);
    let status = match () {
        () if all_are(Status::Complete) => Status::Complete,
        () if all_are(Status::Failed) => Status::Failed,
        () => Status::Partial,
    };
    let skipped = order.plan.skipped.iter().map(|(component, why)| set::Component {
        name: component.name().to_owned(),
        status: Status::Skipped,
        parts: Vec::new(),
        versions: Default::default(),
        facts: None,
        warnings: vec![why.clone()],
        milliseconds: 0,
    });
    components.extend(skipped);
    for due in executor.run.due().iter().filter(|due| due.undo.belongs_to_every_end()) {
        warnings.push(format!("not undone: {}; run `cairn platform resume`", due.title));
    }
    BackupSet {
        profile: order.profile.name.clone(),
        host: order.repository.host().to_owned(),
        time,
        ended: Timestamp::now(),
        consistency: if one_point { Consistency::OnePointInTime } else { Consistency::Online },
        status,
        components,
        steps: executor.run.log(),
        warnings,
        program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// An outcome's failures in words, the first that matters first.
pub fn failures(outcome: &Outcome) -> Vec<String> {
    outcome.error.iter().chain(&outcome.stuck).map(|error| chain(error)).collect()
}
