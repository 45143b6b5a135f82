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
        for port in &self.ports {
            while !accepts(port) {
                if started.elapsed() >= limit {
                    down.push(format!("{} accepts no connection", port.as_str()));
                    break;
                }
                pause(TRY, stop)?;
            }
        }
        // Last: one that died while a port was waited for is down.
        for unit in self.units() {
            let state = systemd.state(&unit, stop)?;
            if state.activity != Activity::Active {
                down.push(state.shown());
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

/// Which start of each unit was its last.
#[derive(Clone, Debug, Default)]
pub struct Starts(BTreeMap<String, String>);

impl Starts {
    /// Asks systemd, for what these names and globs stand for.
    pub fn look(profile: &Profile, patterns: &[&str], stop: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        let systemd = Systemd::new(&profile.systemd);
        let mut starts = BTreeMap::new();
        for pattern in patterns {
            for unit in systemd.expand(pattern, stop)? {
                let state = systemd.state(&unit, stop)?;
                starts.insert(state.name, state.started);
            }
        }
        Ok(Starts(starts))
    }

    /// The units that were started since an earlier look, also those that have stopped again. A unit of which systemd has
    /// forgotten everything may have been, and is none of them.
    pub fn since(&self, earlier: &Starts) -> BTreeSet<String> {
        let is_new = |(unit, start): &(&String, &String)| !start.is_empty() && earlier.0.get(*unit) != Some(start);
        self.0.iter().filter(is_new).map(|(unit, _)| unit.clone()).collect()
    }
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
    let changes = all(units, |unit: &String| systemd.stop(unit, limit, stop))?;
    let states = changes.iter().map(Change::state);
    let killed = states.filter(|state| state.result == TIMEOUT).map(|state| state.name.clone()).collect();
    Ok(Stopped { seen: shown(&changes), killed })
}

/// Starts units; what was seen.
pub fn start_units(
    profile: &Profile,
    units: &[String],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<String, OrchestrateError> {
    let systemd = Systemd::new(&profile.systemd);
    let limit = Duration::from_secs(profile.systemd.start_timeout_seconds);
    all(units, |unit: &String| systemd.start(unit, limit, stop)).map(|changes| shown(&changes))
}

/// Starts groups of units, one group when the one before runs; what was seen of each. Whether they stay up is looked at
/// once for all: a second for each group would be a second more without the platform.
pub fn start_groups(
    profile: &Profile,
    groups: &[&[String]],
    stop: &(dyn Fn() -> bool + Sync),
) -> Vec<Result<String, OrchestrateError>> {
    let systemd = Systemd::new(&profile.systemd);
    let limit = Duration::from_secs(profile.systemd.start_timeout_seconds);
    let begun: Vec<_> =
        groups.iter().map(|units| all(units, |unit: &String| systemd.begin(unit, limit, stop))).collect();
    let is_new = |change: &Change| matches!(change, Change::Done(state) if state.activity == Activity::Active);
    let waited = match begun.iter().flatten().flatten().any(is_new) {
        true => pause(systemd.settle(), stop),
        false => Ok(()),
    };
    let interrupted = waited.is_err();
    let settled = |changes: Vec<Change>| match interrupted {
        true => Err(OrchestrateError::Interrupted),
        false => all(&changes, |change: &Change| systemd.settled(change.clone(), limit, stop)),
    };
    begun.into_iter().map(|begun| begun.and_then(settled).map(|changes| shown(&changes))).collect()
}

fn shown(changes: &[Change]) -> String {
    let lines: Vec<String> = changes.iter().map(|change| change.state().shown()).collect();
    if lines.is_empty() { "nothing to do".to_owned() } else { lines.join("; ") }
}

/// Changes units, several at once. One that fails does not keep the others from being changed.
fn all<T: Sync>(
    units: &[T],
    change: impl Fn(&T) -> Result<Change, SourceError> + Sync,
) -> Result<Vec<Change>, OrchestrateError> {
    let (mut seen, mut failed) = (Vec::new(), Vec::new());
    for some in units.chunks(AT_ONCE) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let changes: Vec<_> = some.iter().map(|unit| scope.spawn(|| change(unit))).collect();
            changes.into_iter().map(|change| change.join()).collect()
        });
        for result in results {
            match result {
                Ok(Ok(change)) => seen.push(change),
                Ok(Err(SourceError::Interrupted)) => return Err(OrchestrateError::Interrupted),
                Ok(Err(error)) => failed.push(chain(&error)),
                Err(_) => failed.push("the thread that changed a unit ended early".to_owned()),
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
