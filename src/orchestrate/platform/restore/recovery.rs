//! PostgreSQL gone to a time itself: from a base backup along the archived log.
//!
//! What is compared is not what was recorded at the base backup: the log has changed that. It is where the recovery
//! ended: on the timeline and at the very position at which the plan had found, in the log itself, the first transaction
//! that ended after the time. Besides, the cluster is the one that was meant, and every row of every table can be read.
//! A server that ends elsewhere, be it that it knows no better (before version 13, one whose log ends early begins to
//! work all the same), is taken away again.

use std::ffi::OsString;
use std::path::Path;

use crate::format::set::PostgresFacts;
use crate::format::timeline::{lsn, position};
use crate::format::wal::WalName;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::aim::Aim;
use crate::orchestrate::platform::aim::archived::history_file;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::plan::PlannedStep;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::restore::plan::step;
use crate::orchestrate::platform::restore::{Scene, started};
use crate::orchestrate::platform::services::{start_units, stop_units};
use crate::repo::chain;
use crate::repo::wal::Archive;
use crate::source::postgres::log::without_header;
use crate::source::postgres::recovery::{
    NOTHING, Recovered, Target, Until, end_recovery, prepare_recovery, put_histories, recovered, restore_command,
    try_fetch,
};
use crate::source::postgres::{Method, PostgresSettings, facts};

const REPLAY: &str = "replay-postgres";
const COMPARE: &str = "compare-postgres";
const SETTLE: &str = "settle-postgres";
/// Stands for a history that cannot be read. The server only looks whether there is one, and then takes another number.
const UNREADABLE: &[u8] =
    b"# The archived history of this timeline is damaged. This keeps its number from being taken again.\n";

/// Where PostgreSQL goes after its base backup.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The place in the log.
    pub aim: Aim,
    /// `cairn wal fetch` with what opens the repository, as the server's account runs it; the name of a file and its
    /// place follow. No secret is in it.
    pub fetch: Vec<OsString>,
}

/// What is done once the files are in their place.
pub fn steps(aim: &Aim) -> [PlannedStep; 3] {
    let component = Component::Postgres;
    let replay = format!("start PostgreSQL, and have it replay its log to {}", aim.time);
    let compare = "compare where that ended with the log, and read every table";
    [step(component, REPLAY, &replay, false), step(component, COMPARE, compare, false), settling()]
}

/// What whoever says yes should know.
pub fn notes(aim: &Aim) -> Vec<String> {
    vec![
        format!(
            "goes to {}: from the base backup of {}, that ended {}, along timeline {}: {} segments of its log ({} bytes)",
            aim.time,
            aim.set.short(),
            aim.base_ended,
            aim.timeline,
            aim.segments,
            aim.bytes
        ),
        format!(
            "ends at {}, before a transaction that ended {}; a new timeline begins there",
            aim.stop_lsn, aim.next_transaction
        ),
        format!(
            "on this timeline the oldest time that can be reached is {}, the newest is just before {}",
            aim.window.oldest, aim.window.newest
        ),
    ]
}

/// Tells a staged base backup where it will go, and proves that the server's account can get the log.
pub fn stage(scene: &Scene<'_>, goal: &Goal, data: &Path) -> Result<(), OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    let Goal { aim, fetch } = goal;
    // The ones before are all there, as the plan has seen.
    try_fetch(settings, data, fetch, &aim.last_segment, &scene.executor.stop())?;
    let timeline = (aim.timeline != aim.base_timeline).then_some(aim.timeline);
    let target = Target { until: Until::Time(aim.time), timeline, command: restore_command(fetch)? };
    Ok(prepare_recovery(settings, data, &target)?)
}

/// Tells a staged base backup, which is to be as it was captured, to begin a timeline of its own. All log that it needs
/// is in its `pg_wal`; of the archive only the histories are taken, so that the new timeline is none that was there.
pub fn stage_as_captured(
    scene: &Scene<'_>,
    facts: &PostgresFacts,
    data: &Path,
    notes: &Notes<'_>,
) -> Result<(), OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    let archive = Archive::of(scene.order.repository);
    let catalog = archive.catalog()?;
    for record in &catalog.damaged {
        let message = format!("{}; if its timeline is begun once more, archive_command will fail", record.message());
        notes.tell("postgres", message);
    }
    let mut histories = Vec::new();
    for ((system_id, name), _) in catalog.files {
        let WalName::History(timeline) = name else { continue };
        if system_id.to_string() != facts.system_id {
            continue;
        }
        let content = match history_file(&archive, system_id, timeline, notes) {
            Err(OrchestrateError::Repo(error)) if error.is_damage() => {
                notes.tell("postgres", format!("{}; nothing of it is needed here", chain(&error)));
                UNREADABLE.to_vec()
            }
            content => content?,
        };
        histories.push((name.to_string(), content));
    }
    put_histories(settings, data, &histories)?;
    let target = Target { until: Until::Consistent, timeline: None, command: NOTHING.to_owned() };
    Ok(prepare_recovery(settings, data, &target)?)
}

/// The step that ends it.
pub fn settling() -> PlannedStep {
    let title = "take the settings of the recovery away, and start PostgreSQL anew: it archives again";
    step(Component::Postgres, SETTLE, title, false)
}

/// Recovers, compares and settles.
pub fn replay(
    scene: &Scene<'_>,
    goal: &Goal,
    place: &Path,
    stop_step: &str,
) -> Result<Option<String>, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    let stop = executor.stop();
    let aim = &goal.aim;
    executor.step(REPLAY, None, || {
        let replayed = started(scene, stop_step, &settings.service).and_then(|()| super::recovered(scene, place));
        replayed.map_err(|error| match error.is_interrupted() {
            true => error,
            false => OrchestrateError::Unfit(format!("PostgreSQL did not reach {}: {}", aim.time, chain(&error))),
        })?;
        Ok((format!("{} segments", aim.segments), ()))
    })?;
    let seen = executor.step(COMPARE, None, || {
        let seen = compared(settings, place, aim, &stop)?;
        Ok((seen.clone(), seen))
    })?;
    settle(scene, place)?;
    Ok(Some(seen))
}

/// Makes an ordinary server of one that has recovered.
pub fn settle(scene: &Scene<'_>, place: &Path) -> Result<(), OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    let (stop, unit) = (executor.stop(), [settings.service.clone()]);
    executor.step(SETTLE, None, || {
        end_recovery(settings, place)?;
        stop_units(executor.profile, &unit, &stop)?;
        let seen = start_units(executor.profile, &unit, &stop)?;
        super::recovered(scene, place)?;
        Ok((seen, ()))
    })
}

fn compared(
    settings: &PostgresSettings,
    place: &Path,
    aim: &Aim,
    stop: &dyn Fn() -> bool,
) -> Result<String, OrchestrateError> {
    let found = recovered(settings, place)?;
    differs(aim, &found).map_or(Ok(()), |why| Err(OrchestrateError::Unfit(why)))?;
    let (tables, rows) = facts(settings, Method::Base, stop)?.totals();
    let last = found.last.map_or("none after the base backup".to_owned(), |last| last.to_string());
    Ok(format!(
        "it went to {}: the last transaction is of {last}, the first one left out of {}; timeline {} begins at {}; \
         {tables} tables with {rows} rows, all of which were read",
        aim.time, aim.next_transaction, found.timeline, aim.stop_lsn
    ))
}

/// How the end of a recovery differs from what was aimed at.
fn differs(aim: &Aim, found: &Recovered) -> Option<String> {
    let Recovered { system_id, timeline, parent, position: at, last } = found;
    let Some(meant) = position(&aim.stop_lsn) else {
        return Some(format!("{:?} is no position, so nothing can be compared", aim.stop_lsn));
    };
    if *system_id != aim.system_id {
        return Some(format!("the cluster is {system_id}, and {} was meant", aim.system_id));
    }
    if timeline <= parent || *parent != aim.timeline {
        return Some(format!("timeline {timeline} began from {parent}, and {} was followed", aim.timeline));
    }
    if without_header(*at, aim.segment_bytes) != without_header(meant, aim.segment_bytes) {
        let (at, meant) = (lsn(*at), lsn(meant));
        return Some(format!("the recovery ended at {at}, and {} is at {meant}: the target was not reached", aim.time));
    }
    last.filter(|last| *last > aim.time).map(|last| format!("a transaction of {last} was replayed, after {}", aim.time))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::differs;
    use crate::format::ObjectId;
    use crate::orchestrate::platform::aim::{Aim, Window};
    use crate::source::postgres::recovery::Recovered;

    #[test]
    fn a_recovery_that_ended_elsewhere_differs() {
        let (time, later) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let aim = |stop_lsn: &str| Aim {
            time,
            set: ObjectId::ZERO,
            system_id: "1".to_owned(),
            base_ended: time,
            base_timeline: 1,
            timeline: 1,
            segments: 1,
            bytes: 1 << 20,
            segment_bytes: 1 << 20,
            last_segment: String::new(),
            stop_lsn: stop_lsn.to_owned(),
            next_transaction: later,
            window: Window { timeline: 1, oldest: time, newest: later },
        };
        let good = Recovered { system_id: "1".to_owned(), timeline: 2, parent: 1, position: 0x30_0100, last: None };
        assert_eq!(differs(&aim("0/300100"), &good), None);
        for other in [
            Recovered { system_id: "2".to_owned(), ..good.clone() },
            Recovered { parent: 3, timeline: 4, ..good.clone() },
            Recovered { timeline: 1, ..good.clone() },
            Recovered { position: 0x30_0108, ..good.clone() },
            Recovered { last: Some(later), ..good.clone() },
        ] {
            assert!(differs(&aim("0/300100"), &other).is_some(), "{other:?}");
        }
        assert!(differs(&aim("nowhere"), &good).is_some(), "nothing was aimed at, so nothing was reached");
    }
}
