//! Bringing the platform to rest: services stopped in the order of the guidelines, queues drained, nobody left.
//!
//! Invariants: nothing is stopped before its undoing is in the journal; no element of a queue is deleted here (a purge
//! moves elements aside and stores them; they are dropped when the backup set is published); a PID file goes only when
//! its process is dead.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::format::set::Part;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::{Profile, Unit};
use crate::orchestrate::platform::services::{Census, Starts, Stopped, all_stopped, dependent, running, stop_units};
use crate::orchestrate::platform::store::{Role, Store};
use crate::source::SourceError;
use crate::source::process::Process;
use crate::source::process::pidfile::{self, PidState};
use crate::source::process::table::Rules;
use crate::source::process::terminate::{Ending, terminate};
use crate::source::redis::aside::aside;
use crate::source::redis::encoding::Saved;
use crate::source::redis::read::QueueReader;
use crate::source::redis::{self, Drain};
use crate::source::systemd::Systemd;
use crate::source::wait::pause;

/// The step that empties queues.
pub const PURGE: &str = "purge-queues";
/// How long the last look waits for processes that are just about to end.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What becomes of queues that are not empty.
#[derive(Clone, Copy)]
pub struct Queues<'a> {
    /// How long to wait, instead of what the profile says.
    pub drain_timeout: Option<Duration>,
    /// Where elements are saved that are to be purged; `None` if a queue that does not drain is a failure.
    pub purge_into: Option<&'a Store<'a>>,
}

/// Elements that were taken out of queues.
#[derive(Clone, Debug)]
pub struct Purged {
    /// The snapshot that holds them.
    pub part: Part,
    /// What was stored of each key, by which it is dropped in the end.
    pub saved: Vec<Saved>,
}

impl Purged {
    /// Elements by key.
    pub fn elements(&self) -> BTreeMap<String, u64> {
        self.saved.iter().filter(|saved| saved.elements > 0).map(|saved| (saved.key.clone(), saved.elements)).collect()
    }
}

/// A platform at rest.
#[derive(Debug, Default)]
pub struct AtRest {
    /// What was taken out of queues.
    pub purged: Option<Purged>,
    /// Which start of each unit was its last when all were stopped.
    starts: Starts,
    /// What was started meanwhile, and has ended again.
    pub intruders: Vec<String>,
}

/// The names and globs of all units that a full stop concerns.
pub fn patterns(profile: &Profile) -> Vec<&str> {
    profile.services.units().map(Unit::as_str).collect()
}

/// Brings the platform to rest.
pub fn bring_to_rest(
    executor: &Executor<'_>,
    census: &Census,
    queues: Queues<'_>,
    notes: &Notes<'_>,
) -> Result<AtRest, OrchestrateError> {
    let services = &executor.profile.services;
    stop_all(executor, census, "stop-first", &services.first, notes)?;
    drain(executor, queues, notes)?;
    let purged = match queues.purge_into {
        Some(store) => purge(executor, store, notes)?,
        None => None,
    };
    stop_all(executor, census, "stop-workers", &services.workers, notes)?;
    stop_all(executor, census, "stop-others", &services.others, notes)?;
    let (starts, intruders) = nobody_left(executor, notes)?;
    Ok(AtRest { purged, starts, intruders })
}

/// What is left when all is stopped is ended.
fn nobody_left(executor: &Executor<'_>, notes: &Notes<'_>) -> Result<(Starts, Vec<String>), OrchestrateError> {
    let starts = Starts::look(executor.profile, &patterns(executor.profile), &executor.stop())?;
    leftovers(executor, notes)?;
    last_look(executor, &starts)
}

/// Stops everything, whatever is in the queues, for who replaces what it would change.
pub fn stop_everything(executor: &Executor<'_>, census: &Census, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let services = &executor.profile.services;
    stop_all(executor, census, "stop-first", &services.first, notes)?;
    stop_all(executor, census, "stop-workers", &services.workers, notes)?;
    stop_all(executor, census, "stop-others", &services.others, notes)?;
    nobody_left(executor, notes).map(drop)
}

fn stop_all(
    executor: &Executor<'_>,
    census: &Census,
    id: &str,
    patterns: &[Unit],
    notes: &Notes<'_>,
) -> Result<(), OrchestrateError> {
    for pattern in patterns {
        let pattern = pattern.as_str();
        stop_pattern(executor, &format!("{id}:{pattern}"), pattern, census, notes)?;
    }
    Ok(())
}

/// Stops what a name or glob stands for. It will be started again if it ran at the census, or runs now; and so will
/// what systemd stops together with it.
pub fn stop_pattern(
    executor: &Executor<'_>,
    id: &str,
    pattern: &str,
    census: &Census,
    notes: &Notes<'_>,
) -> Result<(), OrchestrateError> {
    let stop = executor.stop();
    let now = running(executor.profile, pattern, &stop)?;
    let dependent = dependent(executor.profile, &now, &stop)?;
    let mut again: Vec<String> = now.iter().cloned().chain(dependent).chain(census.ran(pattern)).collect();
    let idle = if again.is_empty() { "nothing of it ran" } else { "it went down with another unit" };
    again.sort();
    again.dedup();
    again.reverse();
    let undo = (!again.is_empty()).then_some(Undo::StartUnits { units: again, down: census.down() });
    let now = Vec::from_iter(now);
    executor.step(id, undo, || {
        let Stopped { seen, killed } = stop_units(executor.profile, &now, &stop)?;
        for unit in killed {
            notes.tell(&unit, format!("{unit} did not end when it was told to, and systemd killed it"));
        }
        Ok((if now.is_empty() { idle.to_owned() } else { seen }, ()))
    })
}

fn drain(executor: &Executor<'_>, queues: Queues<'_>, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let settings = &executor.profile.redis;
    let limit = queues.drain_timeout.unwrap_or(Duration::from_secs(settings.drain_timeout_seconds));
    let mut waited = settings.queues.clone();
    if queues.purge_into.is_none() {
        // Who consumes these is stopped already, as the guidelines have it: they are empty now, or purged, or in the way.
        waited.extend(settings.ingestion_queues.iter().cloned());
    }
    executor.step("drain-queues", None, || {
        let mut client = redis::Client::connect(settings)?;
        give_back(&mut client, notes)?;
        let (mut first, stop) = (None, executor.stop());
        let drain = Drain { queues: &waited, unacked: true, limit };
        let drained = client.wait_drained(drain, &stop, &mut |left| {
            let words = in_words(left);
            executor.tell_item("drain-queues", &format!("waiting: {words}"));
            first.get_or_insert(words);
            attended(executor, left)
        });
        match drained {
            Ok(()) => Ok((format!("all empty; at first {}", first.unwrap_or_default()), ())),
            Err(error @ SourceError::Timeout { .. }) if queues.purge_into.is_some() => {
                Ok((format!("not all empty, and to be purged: {error}"), ()))
            }
            Err(error @ SourceError::Timeout { .. }) => Err(OrchestrateError::Unfit(format!(
                "{error}; wait longer (--drain-timeout), see what holds the workers, or let `backup --purge-queues` save \
                 and delete what is left"
            ))),
            Err(error @ SourceError::Unattended { .. }) => Err(OrchestrateError::Unfit(format!(
                "{error}; let `backup --purge-queues` save and delete what is left, or begin when the platform has \
                 worked it off"
            ))),
            Err(error) => Err(error.into()),
        }
    })
}

/// An error once nobody empties an ingestion queue that is not empty: its consumers are stopped before it is waited for.
fn attended(executor: &Executor<'_>, left: &BTreeMap<String, u64>) -> Result<(), SourceError> {
    let (settings, consumers) = (&executor.profile.redis, &executor.profile.services.ingestion);
    let is_ingestion = |queue: &String| settings.ingestion_queues.contains(queue);
    let left: BTreeMap<String, u64> = left
        .iter()
        .filter(|(queue, length)| is_ingestion(queue) && **length > 0)
        .map(|(q, l)| (q.clone(), *l))
        .collect();
    // A profile that names no consumers does not say that there are none.
    if left.is_empty() || consumers.is_empty() {
        return Ok(());
    }
    for consumer in consumers {
        if !all_stopped(executor.profile, consumer.as_str(), &executor.stop())? {
            return Ok(());
        }
    }
    Err(SourceError::Unattended { server: settings.shown(), left: in_words(&left) })
}

/// Elements that are set aside, while no journal says so, are of a purge that Redis has forgotten again: its disk had not
/// seen yet that they were dropped when it lost its power. They are in the queue once more then, rather than nowhere.
fn give_back(client: &mut redis::Client, notes: &Notes<'_>) -> Result<(), SourceError> {
    let settings = client.settings();
    let keys: Vec<String> = settings.all_queues().flat_map(|queue| settings.keys(queue)).collect();
    let aside = client.set_aside_already(&keys)?;
    client.put_back(&keys)?;
    if !aside.is_empty() {
        notes.tell("redis", format!("elements that an earlier run had set aside are back: {}", in_words(&aside)));
    }
    Ok(())
}

/// Elements by queue, for people.
pub fn in_words(left: &BTreeMap<String, u64>) -> String {
    let some = redis::waiting(left);
    if some.is_empty() { "nothing in any queue".to_owned() } else { some.join(", ") }
}

fn purge(executor: &Executor<'_>, store: &Store<'_>, notes: &Notes<'_>) -> Result<Option<Purged>, OrchestrateError> {
    let settings = &executor.profile.redis;
    let mut client = redis::Client::connect(settings)?;
    let queues: Vec<String> = settings.all_queues().cloned().collect();
    let left = client.lengths(&queues)?;
    let keys: Vec<String> =
        left.iter().filter(|(_, length)| **length > 0).flat_map(|(queue, _)| settings.keys(queue)).collect();
    let undo = Undo::MergeQueues { queues: keys.iter().map(|key| (key.clone(), aside(key))).collect() };
    let undo = (!keys.is_empty()).then_some(undo);
    executor.step(PURGE, undo, || {
        if keys.is_empty() {
            return Ok(("nothing in any queue".to_owned(), None));
        }
        client.set_aside(&keys)?;
        let reader = client.read_aside(&keys)?;
        let (part, saved) = store.stream(Role::PURGED, reader, QueueReader::finish, PURGE, notes)?;
        let purged = Purged { part, saved };
        Ok((format!("saved: {}; deleted when the set is published", in_words(&purged.elements())), Some(purged)))
    })
}

fn leftovers(executor: &Executor<'_>, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    let settings = &executor.profile.processes;
    executor.step("leftovers", None, || {
        let (rules, stop) = (Rules::new(&settings.rules)?, executor.stop());
        let mut seen = Vec::new();
        let found = rules.find()?;
        belong_to_no_unit(executor, &found)?;
        for (process, rule) in found {
            let mut told = |process: &Process, signal| {
                executor.tell_item("leftovers", &format!("{} gets {signal:?}", process.shown()));
            };
            let ending = match terminate(process.id, settings.patience(), &stop, &mut told)? {
                Ending::Gone => "had ended",
                Ending::Terminated => "ended when it was asked to",
                Ending::Killed => "did not end when it was asked to, and was killed",
            };
            let line = format!("{} (rule {rule}) {ending}", process.shown());
            notes.tell("leftover process", line.clone());
            seen.push(line);
        }
        for file in pidfile::find(&settings.pid_files, &rules)? {
            let path = file.path.display();
            let line = match &file.state {
                PidState::Stale(pid) if file.remove_stale()? => format!("{path} removed: no process {pid}"),
                PidState::Absent => continue,
                PidState::Stale(_) => format!("{path} changed while it was looked at, and stays"),
                PidState::Alive(process) => {
                    return Err(OrchestrateError::Unfit(format!("{path} is of {}, which runs", process.shown())));
                }
                PidState::Foreign(process) => format!("{path} stays: its number is that of {}", process.shown()),
                PidState::Unusable(why) => format!("{path} stays: {why}"),
            };
            notes.tell("PID file", line.clone());
            seen.push(line);
        }
        Ok((if seen.is_empty() { "none".to_owned() } else { seen.join("; ") }, ()))
    })
}

/// Fails if one of these is what a unit runs. Who ends it ends the unit, which would stay down, or start it anew.
fn belong_to_no_unit(executor: &Executor<'_>, found: &[(Process, String)]) -> Result<(), OrchestrateError> {
    let (systemd, stop) = (Systemd::new(&executor.profile.systemd), executor.stop());
    for (process, _) in found {
        let Some(unit) = process.unit() else { continue };
        let state = systemd.state(&unit, &stop)?;
        if state.main_pid == Some(process.id.pid) && !state.is_stopped() {
            let shown = process.shown();
            return Err(OrchestrateError::Unfit(format!(
                "{shown} is what the unit {unit} runs, which the profile does not name: add it to services.others there"
            )));
        }
    }
    Ok(())
}

/// Waits until nothing of the platform runs. What was started since all was stopped, and has ended; each start is told once.
fn last_look(executor: &Executor<'_>, starts: &Starts) -> Result<(Starts, Vec<String>), OrchestrateError> {
    executor.step("last-look", None, || {
        let mut left = Vec::new();
        for _ in 0..LAST_LOOK.as_secs().max(1) {
            left = runs(executor)?;
            if left.is_empty() {
                let (starts, ended) = ran(executor, starts, &left)?;
                let nothing = "nothing of the platform runs".to_owned();
                return Ok((if ended.is_empty() { nothing } else { ended.join("; ") }, (starts, ended)));
            }
            pause(Duration::from_secs(1), &executor.stop())?;
        }
        Err(OrchestrateError::Unfit(format!("the platform is not at rest: {}", left.join("; "))))
    })
}

/// Looks whether the platform is still at rest when everything is captured, and was all the time; what was not.
pub fn still_at_rest(executor: &Executor<'_>, rest: &AtRest) -> Result<Vec<String>, OrchestrateError> {
    executor.step("still-at-rest", None, || {
        let mut found = runs(executor)?;
        let (_, ended) = ran(executor, &rest.starts, &found)?;
        found.extend(ended);
        let seen = if found.is_empty() { "nothing of the platform ran".to_owned() } else { found.join("; ") };
        Ok((seen, found))
    })
}

/// Looks again which start was the last of each unit, and what was started meanwhile and is none of what runs now.
fn ran(
    executor: &Executor<'_>,
    earlier: &Starts,
    running: &[String],
) -> Result<(Starts, Vec<String>), OrchestrateError> {
    let now = Starts::look(executor.profile, &patterns(executor.profile), &executor.stop())?;
    let runs = |unit: &String| running.iter().any(|shown| shown.starts_with(&format!("{unit}: ")));
    let ended = now.since(earlier).into_iter().filter(|unit| !runs(unit));
    let ended = ended.map(|unit| format!("{unit}: it was started meanwhile, and has ended again")).collect();
    Ok((now, ended))
}

fn runs(executor: &Executor<'_>) -> Result<Vec<String>, OrchestrateError> {
    at_work(executor.profile, &executor.stop())
}

/// The processes and units of the platform that run.
pub fn at_work(profile: &Profile, stop: &dyn Fn() -> bool) -> Result<Vec<String>, OrchestrateError> {
    let rules = Rules::new(&profile.processes.rules)?;
    let systemd = Systemd::new(&profile.systemd);
    let mut found: Vec<String> = rules.find()?.iter().map(|(process, _)| process.shown()).collect();
    for pattern in patterns(profile) {
        for unit in running(profile, pattern, stop)? {
            found.push(systemd.state(&unit, stop)?.shown());
        }
    }
    Ok(found)
}
