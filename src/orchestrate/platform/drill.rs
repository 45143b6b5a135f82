//! A drill: a backup set restored into servers that are made for it, beside the platform, and compared with everything
//! that was recorded when it was captured. What was found equal is proven, and the proof is written into the repository; so is
//! what was not, which takes back what an older drill had proven.
//!
//! Invariants: the platform is neither stopped nor asked nor written to; whatever is made lies in one directory, and
//! whatever runs for it ends with it, by itself or by `resume`. A component is proven only if all of it was restored by
//! a server of its own, compared, and equal. What fails takes back what was proven, unless it is certain that this machine
//! was at fault ([`crate::orchestrate::cause`]): that, and what no server could be started for, proves nothing and takes
//! nothing back.
//! What was found is the last write, and nothing is called proven before it.

pub mod bench;
mod config;
mod elasticsearch;
mod neo4j;
pub mod plan;
mod postgres;
mod redis;

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::record::{DrillOutcome, Drilled as DrillRecord, Proof};
use crate::format::set::{self, StepRecord};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::cause::Cause;
use crate::orchestrate::platform::backup::header;
use crate::orchestrate::platform::drill::bench::{Bench, Finding};
use crate::orchestrate::platform::drill::plan::{DrillPlan, Intent, PUBLISH, SCRATCH};
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::run::Run;
use crate::orchestrate::platform::state::StateDir;
use crate::orchestrate::platform::undo::undo;
use crate::progress::Monitor;
use crate::repo::{Repository, chain};

/// What the journal of a drill calls it.
pub const OPERATION: &str = "drill";

/// What a drill needs.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Where the set is, and where the proofs go.
    pub repository: &'a Repository,
    /// The platform.
    pub profile: &'a Profile,
    /// What is done.
    pub plan: &'a DrillPlan,
    /// Where the journal is; the caller holds its lock.
    pub state: &'a StateDir,
    /// Who hears of it.
    pub monitor: &'a dyn Monitor,
}

/// What became of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All of it was restored, and is equal to what was recorded.
    Proven,
    /// It was restored; nothing was recorded that it could be compared with.
    Uncompared,
    /// No server could be started for it, so nothing is known.
    NotStarted,
    /// This machine kept it from being looked at, for want of room, say; so nothing is known.
    Hindered,
    /// It could not be restored, or not be looked at.
    Failed,
    /// It was restored, and is not equal to what was recorded.
    Different,
}

/// A component, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Drilled {
    /// Which.
    pub component: Component,
    /// What became of it.
    pub state: State,
    /// What was compared, or why it is not proven.
    pub detail: String,
    /// What differs, one by one.
    pub differences: Vec<String>,
    /// The versions of the servers that it was restored into.
    pub versions: BTreeMap<String, String>,
    /// What is to be known besides.
    pub notes: Vec<String>,
    /// How long restoring took, in milliseconds.
    pub restore_milliseconds: u64,
    /// How long comparing took.
    pub compare_milliseconds: u64,
}

/// What a drill came to.
#[derive(Debug)]
pub struct Outcome {
    /// The components that were looked at.
    pub components: Vec<Drilled>,
    /// The proofs that were written.
    pub proofs: Vec<ObjectId>,
    /// The records of what was not equal.
    pub findings: Vec<ObjectId>,
    /// What ended the drill early, or kept it from writing what it had found; nothing is proven by it.
    pub error: Option<OrchestrateError>,
    /// What could not be ended or removed. It is in the journal.
    pub stuck: Vec<OrchestrateError>,
    /// What was done, in order.
    pub steps: Vec<StepRecord>,
}

/// Runs a drill. An error is only that it could not begin; then nothing was made.
pub fn drill(order: &Order<'_>) -> Result<Outcome, OrchestrateError> {
    if !order.plan.obstacles.is_empty() {
        return Err(OrchestrateError::Unfit(order.plan.obstacles.join("; ")));
    }
    let run = Run::begin(order.state, header(OPERATION, order.profile), order.monitor)?;
    let executor = Executor { profile: order.profile, plan: &order.plan.run, run: &run, monitor: order.monitor };
    let attempted = attempt(order, &executor);
    // Before anything is published: whatever ran for it has ended.
    let mut stuck = run.undo_all(&mut |due| undo(order.profile, due));
    let (mut components, mut error) = match attempted {
        Ok(components) => (components, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let (mut proofs, mut findings) = (Vec::new(), Vec::new());
    match publish(order, &executor, &components) {
        Ok(written) => (proofs, findings) = written,
        Err(failed) => {
            // What differs is told all the same.
            components.iter_mut().for_each(unproven);
            error = Some(failed);
        }
    }
    let steps = run.log();
    stuck.extend(run.finish().err());
    Ok(Outcome { components, proofs, findings, error, stuck, steps })
}

fn attempt(order: &Order<'_>, executor: &Executor<'_>) -> Result<Vec<Drilled>, OrchestrateError> {
    let scratch = &order.plan.scratch;
    let directory = scratch.path().to_string_lossy().into_owned();
    executor.step(SCRATCH, Some(Undo::EndScratch { directory: directory.clone() }), || {
        scratch.make()?;
        Ok((directory, ()))
    })?;
    let mut all = Vec::new();
    for intent in &order.plan.components {
        all.push(one(order, executor, intent)?);
    }
    Ok(all)
}

/// Looks at a component. An error is only that the operator wants to stop.
fn one(order: &Order<'_>, executor: &Executor<'_>, intent: &Intent) -> Result<Drilled, OrchestrateError> {
    let (began, notes) = (Instant::now(), Notes::new(order.monitor));
    let bench = Bench { executor: *executor, order: *order, notes: &notes };
    let found = match &intent.trouble {
        Some(why) => Err((State::NotStarted, why.clone())),
        None => match component(&bench, intent) {
            Err(error) if error.is_interrupted() => return Err(OrchestrateError::Interrupted),
            Err(error) => Err(told(&bench, &error)),
            Ok(finding) => Ok(finding),
        },
    };
    let took = began.elapsed().as_millis() as u64;
    let mut drilled = Drilled {
        component: intent.component,
        state: State::Failed,
        detail: String::new(),
        differences: Vec::new(),
        versions: BTreeMap::new(),
        notes: Vec::new(),
        restore_milliseconds: took,
        compare_milliseconds: 0,
    };
    match found {
        Err((state, why)) => (drilled.state, drilled.detail) = (state, why),
        Ok(Finding { compared, differences, versions, compare_milliseconds }) => {
            (drilled.state, drilled.detail) = match (differences.is_empty(), compared) {
                (false, _) => (State::Different, "it is not equal to what was recorded".to_owned()),
                (true, Some(compared)) => (State::Proven, compared),
                (true, None) => (State::Uncompared, "nothing was recorded that it could be compared with".to_owned()),
            };
            drilled.differences = differences;
            drilled.versions = versions;
            drilled.restore_milliseconds = took.saturating_sub(compare_milliseconds);
            drilled.compare_milliseconds = compare_milliseconds;
        }
    }
    drilled.notes = notes.into_vec();
    Ok(drilled)
}

/// What a failure says of the data, and why. A server that could not be started says nothing of it.
fn told(bench: &Bench<'_>, error: &OrchestrateError) -> (State, String) {
    let starting = matches!(error, OrchestrateError::Step { step, .. } if step.starts_with(plan::START));
    let why = chain(error);
    match (error.cause(), bench.full()) {
        (Cause::Stored, _) => (State::Failed, why),
        _ if starting => (State::NotStarted, why),
        (Cause::Machine, _) => (State::Hindered, why),
        (Cause::Unknown, Some(full)) => (State::Hindered, format!("{full}: {why}")),
        (Cause::Unknown, None) => (State::Failed, why),
    }
}

fn component(bench: &Bench<'_>, intent: &Intent) -> Result<Finding, OrchestrateError> {
    match intent.component {
        Component::Config => config::drill(bench, &intent.held),
        Component::Postgres => postgres::drill(bench, &intent.held),
        Component::Elasticsearch => elasticsearch::drill(bench, &intent.held),
        Component::Neo4j => neo4j::drill(bench, &intent.held),
        Component::Redis => redis::drill(bench, &intent.held),
    }
}

/// Of a component that was found equal, once that cannot be written.
fn unproven(one: &mut Drilled) {
    if one.state == State::Proven {
        one.state = State::Failed;
        one.detail = format!("it was equal ({}), and the proof of that could not be written", one.detail);
    }
}

/// Writes what was found: the proofs of what is equal, and the records of what is not.
fn publish(
    order: &Order<'_>,
    executor: &Executor<'_>,
    components: &[Drilled],
) -> Result<(Vec<ObjectId>, Vec<ObjectId>), OrchestrateError> {
    let held = |component: Component| order.plan.components.iter().find(|intent| intent.component == component);
    let mut records = Vec::new();
    for one in components {
        let Some(outcome) = outcome(one.state) else { continue };
        let parts = held(one.component).map(|intent| intent.held.parts.as_slice()).unwrap_or_default();
        records.extend(parts.iter().map(|part| record(order, one, (outcome, part))));
    }
    if records.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    executor.step(PUBLISH, None, || {
        let written = order.repository.publish_drill(&order.plan.choice.set, &records)?;
        let sentence = format!("{} objects", written.len());
        let (proofs, findings): (Vec<_>, Vec<_>) = written.into_iter().zip(&records).partition(|(_, one)| one.holds());
        let ids = |all: Vec<(ObjectId, &Proof)>| all.into_iter().map(|(id, _)| id).collect();
        Ok((sentence, (ids(proofs), ids(findings))))
    })
}

/// What is written of a state; nothing where nothing was learnt of the data.
fn outcome(state: State) -> Option<DrillOutcome> {
    match state {
        State::Proven => Some(DrillOutcome::Equal),
        State::Different => Some(DrillOutcome::Different),
        State::Failed => Some(DrillOutcome::Failed),
        State::Uncompared | State::NotStarted | State::Hindered => None,
    }
}

/// So many differences are in a record, each so long at most.
const RECORDED: (usize, usize) = (20, 500);

/// What is written of the differences of a component.
fn recorded(one: &Drilled, outcome: DrillOutcome) -> Vec<String> {
    let (count, length) = RECORDED;
    let all = match (outcome, one.differences.is_empty()) {
        (DrillOutcome::Equal, _) => return Vec::new(),
        (_, true) => std::slice::from_ref(&one.detail),
        (_, false) => one.differences.as_slice(),
    };
    let mut told: Vec<String> = all.iter().take(count).map(|line| line.chars().take(length).collect()).collect();
    told.extend((all.len() > count).then(|| format!("and {} more", all.len() - count)));
    told
}

fn record(order: &Order<'_>, one: &Drilled, (outcome, part): (DrillOutcome, &set::Part)) -> Proof {
    Proof {
        snapshot: part.snapshot,
        time: Timestamp::now(),
        bytes: if outcome == DrillOutcome::Failed { 0 } else { part.bytes },
        milliseconds: one.restore_milliseconds.saturating_add(one.compare_milliseconds),
        host: order.repository.host().to_owned(),
        program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
        drill: Some(DrillRecord {
            set: order.plan.choice.set,
            component: one.component.name().to_owned(),
            outcome,
            differences: recorded(one, outcome),
            compared: one.detail.clone(),
            versions: one.versions.clone(),
            restore_milliseconds: one.restore_milliseconds,
            compare_milliseconds: one.compare_milliseconds,
        }),
    }
}
