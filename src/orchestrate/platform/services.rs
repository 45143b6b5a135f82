//! The platform's units: which run, stopping and starting several at once, and the proof that all is up again.
//!
//! Invariant: what is to be started again is decided before it is stopped: by a census, which is taken before anything
//! is, and by what systemd says that it will stop with a unit (`PartOf=`, `Requires=`, `BindsTo=`). Such a unit would
//! otherwise be found down, or never be looked at, and stay down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::{HostPort, Profile};
use crate::repo::chain;
use crate::source::SourceError;
use crate::source::systemd::change::Change;
use crate::source::systemd::{Activity, Systemd, UnitState};
use crate::source::wait::pause;

/// So many units change at the same time.
const AT_ONCE: usize = 16;
/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// What systemd says of a unit that it had to kill.
const TIMEOUT: &str = "timeout";
/// How often a port is tried.
const TRY: Duration = Duration::from_millis(500);

/// What ran before anything was stopped.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// The units that run, by the name or glob in the profile.
    running: BTreeMap<String, BTreeSet<String>>,
    /// The units that run and are stopped with those, whatever they are called.
    dependent: BTreeSet<String>,
    /// The units of the profile that do not run. One that does its work and ends is none of these.
    down: BTreeSet<String>,
    /// The ports of the profile that accept connections.
    ports: Vec<HostPort>,
}

impl Census {
    /// Looks at what these names and globs stand for, and at the ports.
    pub fn take(profile: &Profile, patterns: &[&str], stop: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        let mut census = Census::default();
        for pattern in patterns {
            let (running, others) = look(profile, pattern, stop)?;
            census.running.insert((*pattern).to_owned(), running);
            census.down.extend(others.into_iter().filter(|state| state.kind != "oneshot").map(|state| state.name));
        }
        census.dependent = dependent(profile, &census.units(), stop)?;
        let ports = profile.services.health.ports.iter();
        census.ports = ports.filter(|port| accepts(port)).cloned().collect();
        Ok(census)
    }

    /// The units of this name or glob that ran.
    pub fn ran(&self, pattern: &str) -> BTreeSet<String> {
        self.running.get(pattern).cloned().unwrap_or_default()
    }

    /// The units that were down, and are to stay so.
    pub fn down(&self) -> Vec<String> {
        self.down.iter().cloned().collect()
    }

    /// All units that ran.
    pub fn units(&self) -> BTreeSet<String> {
        self.running.values().flatten().chain(&self.dependent).cloned().collect()
    }

    /// For people.
    pub fn shown(&self) -> String {
        format!("{} units run, {} ports are open", self.units().len(), self.ports.len())
    }

    /// Waits until what ran runs again and what was open is open.
    pub fn prove_up(&self, profile: &Profile, stop: &dyn Fn() -> bool) -> Result<String, OrchestrateError> {
        let limit = profile.services.health.timeout_seconds.duration();
        let (systemd, started) = (Systemd::new(&profile.systemd), Instant::now());
        let mut down = Vec::new();
        for unit in self.units() {
            let state = systemd.state(&unit, stop)?;
            if state.activity != Activity::Active {
                down.push(state.shown());
            }
        }
        for port in &self.ports {
            while !accepts(port) {
                if started.elapsed() >= limit {
                    down.push(format!("{} accepts no connection", port.as_str()));
                    break;
                }
                pause(TRY, stop)?;
            }
        }
        match down.is_empty() {
            true => Ok(format!("{} units and {} ports are up", self.units().len(), self.ports.len())),
            false => Err(OrchestrateError::Unfit(format!("not up again: {}", down.join("; ")))),
        }
    }
}

/// The units of a name or glob that run, or are about to.
pub fn running(profile: &Profile, pattern: &str, stop: &dyn Fn() -> bool) -> Result<BTreeSet<String>, SourceError> {
    look(profile, pattern, stop).map(|(running, _)| running)
}

/// The units of a name or glob that run, or are about to; and the others.
fn look(
    profile: &Profile,
    pattern: &str,
    stop: &dyn Fn() -> bool,
) -> Result<(BTreeSet<String>, Vec<UnitState>), SourceError> {
    let systemd = Systemd::new(&profile.systemd);
    let (mut running, mut others) = (BTreeSet::new(), Vec::new());
    for unit in systemd.expand(pattern, stop)? {
        let state = systemd.state(&unit, stop)?;
        match state.runs() {
            true => drop(running.insert(unit)),
            false => others.push(state),
        }
    }
    Ok((running, others))
}

/// Whether nothing of the units of a name or glob runs, or is about to end.
pub fn all_stopped(profile: &Profile, pattern: &str, stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
    let (running, others) = look(profile, pattern, stop)?;
    Ok(running.is_empty() && others.iter().all(UnitState::is_stopped))
}

/// Those of some units of which nothing runs.
pub fn stopped(profile: &Profile, units: &[String], stop: &dyn Fn() -> bool) -> Result<Vec<String>, SourceError> {
    let systemd = Systemd::new(&profile.systemd);
    let mut stopped = Vec::new();
    for unit in units {
        if systemd.state(unit, stop)?.is_stopped() {
            stopped.push(unit.clone());
        }
    }
    Ok(stopped)
}

/// The units that run now and that systemd would stop together with these, directly or by way of others.
pub fn dependent(
    profile: &Profile,
    units: &BTreeSet<String>,
    stop: &dyn Fn() -> bool,
) -> Result<BTreeSet<String>, SourceError> {
    let systemd = Systemd::new(&profile.systemd);
    let (mut seen, mut waiting, mut found) = (units.clone(), Vec::from_iter(units.clone()), BTreeSet::new());
    while let Some(unit) = waiting.pop() {
        for other in systemd.state(&unit, stop)?.stopped_with {
            if !seen.insert(other.clone()) {
                continue;
            }
            if systemd.state(&other, stop)?.runs() {
                found.insert(other.clone());
            }
            waiting.push(other);
        }
    }
    Ok(found)
}

/// What was seen of units that were stopped.
#[derive(Clone, Debug, Default)]
pub struct Stopped {
    /// All of it, for people.
    pub seen: String,
    /// Those that did not end when they were told to, and were killed by systemd.
    pub killed: Vec<String>,
}

/// Stops units.
pub fn stop_units(
    profile: &Profile,
    units: &[String],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Stopped, OrchestrateError> {
    let systemd = Systemd::new(&profile.systemd);
    let limit = Duration::from_secs(profile.systemd.stop_timeout_seconds);
    let states = all(units, |unit| systemd.stop(unit, limit, stop))?;
    let killed = states.iter().filter(|state| state.result == TIMEOUT).map(|state| state.name.clone()).collect();
    Ok(Stopped { seen: shown(&states), killed })
}

/// Starts units; what was seen.
pub fn start_units(
    profile: &Profile,
    units: &[String],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<String, OrchestrateError> {
    let systemd = Systemd::new(&profile.systemd);
    let limit = Duration::from_secs(profile.systemd.start_timeout_seconds);
    all(units, |unit| systemd.start(unit, limit, stop)).map(|states| shown(&states))
}

fn shown(states: &[UnitState]) -> String {
    let lines: Vec<String> = states.iter().map(UnitState::shown).collect();
    if lines.is_empty() { "nothing to do".to_owned() } else { lines.join("; ") }
}

/// Changes units, several at once. One that fails does not keep the others from being changed.
fn all(
    units: &[String],
    change: impl Fn(&str) -> Result<Change, SourceError> + Sync,
) -> Result<Vec<UnitState>, OrchestrateError> {
    let (mut seen, mut failed) = (Vec::new(), Vec::new());
    for some in units.chunks(AT_ONCE) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let changes: Vec<_> = some.iter().map(|unit| scope.spawn(|| change(unit))).collect();
            changes.into_iter().map(|change| change.join()).collect()
        });
        for (unit, result) in some.iter().zip(results) {
            match result {
                Ok(Ok(change)) => seen.push(change.state().clone()),
                Ok(Err(SourceError::Interrupted)) => return Err(OrchestrateError::Interrupted),
                Ok(Err(error)) => failed.push(chain(&error)),
                Err(_) => failed.push(format!("{unit}: the thread that changed it ended early")),
            }
        }
    }
    match failed.is_empty() {
        true => Ok(seen),
        false => Err(OrchestrateError::Unfit(failed.join("; "))),
    }
}

fn accepts(port: &HostPort) -> bool {
    let addresses = port.as_str().to_socket_addrs();
    addresses.is_ok_and(|mut all| all.any(|address| TcpStream::connect_timeout(&address, CONNECT).is_ok()))
}
