//! Stopping and starting units.
//!
//! Invariant: both are idempotent, and return `Ok` only once the unit is in the state that was wanted with no job left.
//! systemd is told what to do without being waited for (`--no-block`), so that a stop by the operator is never deaf; what
//! becomes of it is watched here.

use std::time::{Duration, Instant};

use crate::source::SourceError;
use crate::source::systemd::{Activity, Load, Systemd, UnitState};
use crate::source::wait::pause;

/// How often a unit's state is asked for: first, and at the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was so before.
    Already(UnitState),
    /// It is so now. A unit that was stopped may have failed in the course: see its result.
    Done(UnitState),
}

impl Change {
    /// The unit as it is now.
    pub fn state(&self) -> &UnitState {
        match self {
            Change::Already(state) | Change::Done(state) => state,
        }
    }
}

impl Systemd {
    /// Stops a unit and waits until nothing of it is left. A masked unit that runs is stopped, too.
    pub fn stop(&self, unit: &str, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Change, SourceError> {
        let before = self.state(unit, stop)?;
        if before.load == Load::Missing && before.is_stopped() {
            return Err(self.refused(&before, "there is no such unit; correct the profile"));
        }
        if before.is_stopped() {
            return Ok(Change::Already(before));
        }
        self.run(&["stop", "--no-block", "--", &before.name], stop)?.output()?;
        let started = Instant::now();
        let mut look = LOOKS.0;
        loop {
            let state = self.state(&before.name, stop)?;
            if state.is_stopped() {
                return Ok(Change::Done(state));
            }
            if state.activity == Activity::Active && !state.job {
                let why =
                    "it was stopped and is running again: see what else starts it (a socket, a timer, another unit)";
                return Err(self.refused(&state, why));
            }
            if started.elapsed() >= limit {
                return Err(self.late("did not stop", &state, limit, stop));
            }
            pause(look, stop)?;
            look = (look * 2).min(LOOKS.1);
        }
    }

    /// Starts a unit and waits until it runs, and goes on running for the time that is set to settle. A unit that does
    /// its work and ends (`oneshot`) has started when it has ended well.
    pub fn start(&self, unit: &str, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Change, SourceError> {
        self.bring_up(unit, limit, self.settle(), stop)
    }

    /// Starts a unit and waits until it runs. Whether it goes on running is for [`Systemd::settled`] to prove.
    pub fn begin(&self, unit: &str, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Change, SourceError> {
        self.bring_up(unit, limit, Duration::ZERO, stop)
    }

    /// Proves that a unit still runs that was begun; the time to settle has passed since. One that does not is started
    /// once more, and has to stay up then.
    pub fn settled(&self, begun: Change, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Change, SourceError> {
        let Change::Done(state) = &begun else { return Ok(begun) };
        if state.activity != Activity::Active || self.is_still(state, stop)? {
            return Ok(begun);
        }
        self.start(&state.name, limit, stop)
    }

    /// How long a unit has to run on before it counts as started.
    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.settings.settle_seconds)
    }

    fn bring_up(
        &self,
        unit: &str,
        limit: Duration,
        settle: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Change, SourceError> {
        let before = self.state(unit, stop)?;
        match &before.load {
            Load::Loaded => {}
            Load::Missing => return Err(self.refused(&before, "there is no such unit; correct the profile")),
            Load::Masked => {
                let why = format!("it is masked, so it must not be started; systemctl unmask {}", before.name);
                return Err(self.refused(&before, &why));
            }
            Load::Other(load) => {
                let why = format!("systemd cannot use its file ({load}); see systemctl status {}", before.name);
                return Err(self.refused(&before, &why));
            }
        }
        if before.activity == Activity::Active && !before.job {
            return Ok(Change::Already(before));
        }
        // It may have been started too often in too short a time to be started again: by runs that were stopped at once. A
        // unit that systemd does not hold in memory has no such count, and this fails.
        self.run(&["reset-failed", "--", &before.name], stop)?;
        self.run(&["start", "--no-block", "--", &before.name], stop)?.output()?;
        let started = Instant::now();
        let mut look = LOOKS.0;
        let (mut tries, mut refused) = (0, false);
        loop {
            let state = self.state(&before.name, stop)?;
            match state.activity {
                // It was started too often lately, by whomever. This once it is wanted.
                Activity::Failed if !state.job && !refused && state.result == "start-limit-hit" => {
                    refused = true;
                    self.run(&["reset-failed", "--", &before.name], stop)?.output()?;
                    self.run(&["start", "--no-block", "--", &before.name], stop)?.output()?;
                }
                Activity::Active if !state.job => {
                    pause(settle, stop)?;
                    if self.is_still(&state, stop)? {
                        return Ok(Change::Done(state));
                    }
                    tries += 1;
                }
                Activity::Failed if !state.job => return Err(self.failed(&state, stop)),
                Activity::Inactive if !state.job => {
                    return match (state.kind.as_str(), state.result.as_str()) {
                        ("oneshot", "success") => Ok(Change::Done(state)),
                        _ => Err(self.failed(&state, stop)),
                    };
                }
                _ => {}
            }
            if started.elapsed() >= limit {
                let what = match tries {
                    0 => "did not start".to_owned(),
                    tries => format!("began to run {tries} times, ended again each time, and did not stay up"),
                };
                return Err(self.late(&what, &state, limit, stop));
            }
            pause(look, stop)?;
            look = (look * 2).min(LOOKS.1);
        }
    }

    /// Whether a unit that was active is still the same. A `simple` unit is active the moment that its process exists,
    /// whatever becomes of it.
    fn is_still(&self, state: &UnitState, stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
        let later = self.state(&state.name, stop)?;
        Ok(later.activity == Activity::Active && later.main_pid == state.main_pid)
    }

    fn refused(&self, state: &UnitState, why: &str) -> SourceError {
        SourceError::Answer { server: state.shown(), what: why.to_owned() }
    }

    fn failed(&self, state: &UnitState, stop: &dyn Fn() -> bool) -> SourceError {
        let words = self.words(state, stop);
        self.refused(state, &format!("it does not start; see systemctl status {}{words}", state.name))
    }

    fn late(&self, what: &str, state: &UnitState, limit: Duration, stop: &dyn Fn() -> bool) -> SourceError {
        let words = self.words(state, stop);
        SourceError::Timeout { what: format!("{}{words}\nit {what}", state.shown()), limit }
    }

    fn words(&self, state: &UnitState, stop: &dyn Fn() -> bool) -> String {
        match self.last_words(&state.name, stop).as_str() {
            "" => String::new(),
            words => format!("; its last words:\n{words}"),
        }
    }
}
