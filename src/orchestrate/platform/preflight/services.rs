//! Units: those of the platform, which a full backup stops and starts, and those of servers that are stopped for their
//! capture.
//!
//! What of the platform runs decides how other checks read what they see: a short query of a platform that runs is its
//! own, the same query of one that is down is somebody else's. Where systemd does not say, nothing counts as running.

use std::collections::BTreeMap;

use super::{Check, Look, Verdict, counted, few};
use crate::orchestrate::platform::plan::stopped_units;
use crate::source::SourceError;
use crate::source::systemd::{Activity, Load, Systemd, UnitState};

const ADVICE: &str =
    "look at `systemctl status UNIT`: start it, stop it, or, if it is to stay down, `systemctl reset-failed UNIT`";

/// What of the platform runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Units {
    /// Something.
    pub runs: bool,
    /// Workers; `None` if that is not known, or the profile names no workers.
    pub workers: Option<bool>,
}

/// A unit that the profile means.
struct Found {
    state: UnitState,
    worker: bool,
}

pub(super) fn look(look: &Look<'_>) -> (Units, Vec<Check>) {
    let mut checks = Vec::new();
    let mut units = Units::default();
    let systemd = Systemd::new(&look.profile.systemd);
    if look.is_full() {
        let verdict = match found(look, &systemd) {
            Ok((found, missing)) => {
                units = running(look, &found);
                platform(look, &found, &missing)
            }
            Err(error) => Verdict::of_error(&error, "is this machine run by systemd, and systemd.systemctl right?"),
        };
        checks.push(verdict.of("services"));
    }
    let servers = stopped_units(look.profile, look.components);
    if !servers.is_empty() {
        checks.push(stopped(look, &systemd, &servers).of("servers"));
    }
    (units, checks)
}

/// The units by name, and what of the profile stands for none.
fn found(look: &Look<'_>, systemd: &Systemd) -> Result<(BTreeMap<String, Found>, Vec<String>), SourceError> {
    let stop = || look.monitor.interrupted();
    let services = &look.profile.services;
    let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
    let named = [(&services.first, false), (&services.workers, true), (&services.others, false)];
    for (unit, worker) in named.into_iter().flat_map(|(units, worker)| units.iter().map(move |unit| (unit, worker))) {
        let names = systemd.expand(unit.as_str(), &stop)?;
        if names.is_empty() {
            missing.push(unit.to_string());
        }
        for name in names {
            let state = systemd.state(&name, &stop)?;
            let entry = found.entry(name).or_insert(Found { state, worker });
            entry.worker |= worker;
        }
    }
    Ok((found, missing))
}

fn running(look: &Look<'_>, found: &BTreeMap<String, Found>) -> Units {
    // A unit whose process has ended well (a oneshot that only pulls in others) runs nothing itself.
    let runs = |one: &&Found| !one.state.is_stopped() && one.state.sub != "exited";
    let workers = found.values().filter(|one| one.worker).any(|one| runs(&one));
    let names_workers = !look.profile.services.workers.is_empty();
    Units { runs: found.values().any(|one| runs(&one)), workers: names_workers.then_some(workers) }
}

fn platform(look: &Look<'_>, found: &BTreeMap<String, Found>, missing: &[String]) -> Verdict {
    if look.profile.services.units().next().is_none() {
        return Verdict::pass("the profile names no service to stop");
    }
    if found.is_empty() {
        let advice = "is this the platform's machine? name its units in the profile: services.first, workers, others";
        return Verdict::fail(format!("none of them is installed: {}", missing.join(", ")), advice);
    }
    let states: Vec<&UnitState> = found.values().map(|one| &one.state).collect();
    let bad: Vec<String> = states.iter().filter(|state| !is_settled(state)).map(|state| state.shown()).collect();
    if !bad.is_empty() {
        return Verdict::fail(few(&bad), ADVICE);
    }
    let (active, down): (Vec<&UnitState>, Vec<&UnitState>) =
        states.into_iter().partition(|state| state.activity == Activity::Active);
    let mut seen = match active.len() {
        0 => "none runs".to_owned(),
        count => format!("{} to be stopped and started again", counted(count as u64, "running unit")),
    };
    let names = |units: &[&UnitState]| {
        units.iter().map(|unit| unit.name.trim_end_matches(".service")).collect::<Vec<_>>().join(", ")
    };
    if !down.is_empty() {
        seen.push_str(&format!("; down, and stays down: {}", names(&down)));
    }
    if !missing.is_empty() {
        seen.push_str(&format!("; not installed: {}", missing.join(", ")));
    }
    Verdict::pass(seen)
}

/// Whether a unit is down, or runs and can be started again, with nothing going on and nothing having gone wrong.
fn is_settled(state: &UnitState) -> bool {
    !state.job
        && match state.activity {
            Activity::Active => state.load == Load::Loaded,
            Activity::Inactive => true,
            Activity::Failed | Activity::Activating | Activity::Deactivating => false,
        }
}

/// Units of servers.
fn stopped(look: &Look<'_>, systemd: &Systemd, names: &[String]) -> Verdict {
    let stop = || look.monitor.interrupted();
    let (mut seen, mut bad) = (Vec::new(), Vec::new());
    for name in names {
        let state = match systemd.state(name, &stop) {
            Ok(state) => state,
            Err(error) => {
                return Verdict::of_error(&error, "is this machine run by systemd, and systemd.systemctl right?");
            }
        };
        match state.activity {
            _ if state.load == Load::Missing => bad.push(format!("there is no unit {name}")),
            _ if !is_settled(&state) => bad.push(state.shown()),
            Activity::Active => seen.push(format!("{name} is stopped and started again")),
            _ => seen.push(format!("{name} is down, and stays down")),
        }
    }
    match bad.is_empty() {
        true => Verdict::pass(seen.join("; ")),
        false => Verdict::fail(few(&bad), format!("{ADVICE}; a server's unit is `service` in its part of the profile")),
    }
}
