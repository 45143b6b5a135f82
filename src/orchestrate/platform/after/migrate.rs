//! Bringing the indices of Elasticsearch to the present version, by a program that may take hours and has to survive the
//! terminal, or the SSH session, of whoever started it.
//!
//! The worker is this program once more: as a transient unit of systemd where that runs the machine (a session that
//! ends takes no unit with it), else in a session of its own. It runs the platform's program, writes what that says to the
//! log, and records how it ended ([`record`](super::record)).
//!
//! Invariants: one migration runs at a time, and one is begun at a time, so two who ask at once start one. The worker
//! holds this machine's lock: a backup would otherwise end its program as a leftover of the platform.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::after::record::{Ended, Files, LOCK, Record, State};
use crate::orchestrate::platform::after::{last_lines, nothing_cut_off, program};
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::state::StateDir;
use crate::repo::chain;
use crate::source::command::{Detached, Finished, leave_session};
use crate::source::systemd::Systemd;
use crate::source::wait::{self, pause};

/// The unit in which it runs.
pub const UNIT: &str = "cairn-migrate";
/// Held by who starts a migration.
const BEGINNING: &str = "migrate.begin";
/// How long the worker may take to say that it has begun.
const BEGIN: Duration = Duration::from_secs(60);
/// How long the worker waits for a lock that somebody may hold for a moment.
const MOMENT: Duration = Duration::from_secs(10);

/// What became of the wish to start one.
#[derive(Debug)]
pub enum Started {
    /// It was started.
    Begun(Record),
    /// One runs already.
    Already(Record),
}

/// How the worker is started: this program, and its arguments up to the profile and the id, which are added.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its first arguments.
    pub arguments: &'a [&'a str],
}

/// Starts a migration, unless one runs. `wait` is for another run on this machine.
pub fn start(
    state: &StateDir,
    profile: &Profile,
    worker: Worker<'_>,
    wait: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<Started, OrchestrateError> {
    let after = &profile.after_restore;
    if after.upgrade.is_empty() {
        let why = "the profile names no program that migrates indices: see after-restore.upgrade";
        return Err(OrchestrateError::Unfit(why.to_owned()));
    }
    let files = Files::of(state);
    let _beginning = state.lock_file(BEGINNING, BEGIN + MOMENT, stop)?;
    if let Some(record) = running(&files)? {
        return Ok(Started::Already(record));
    }
    {
        let _lock = state.lock(wait, stop)?;
        nothing_cut_off(state)?;
        // What the worker would find out only where nobody sees it.
        program(after, &after.upgrade)?;
    }
    let id = Timestamp::now().to_string();
    let path = files.write_profile(profile)?;
    let mut child = launch(profile, worker, &path, &id, stop)?;
    let began = Instant::now();
    loop {
        if let (_, Some(record)) = files.look()?
            && record.id == id
        {
            return Ok(Started::Begun(record));
        }
        if began.elapsed() >= BEGIN || child.as_mut().is_some_and(Detached::has_failed) {
            return Err(OrchestrateError::Unfit(format!(
                "the migration did not begin: see `journalctl -u {UNIT}`, or run it with -vv"
            )));
        }
        pause(wait::INTERVAL, stop)?;
    }
}

/// The record of the migration that runs.
fn running(files: &Files<'_>) -> Result<Option<Record>, OrchestrateError> {
    match files.look()? {
        (State::Running, Some(record)) => Ok(Some(record)),
        _ => Ok(None),
    }
}

/// Starts the worker. The child, where systemd does not look after it.
fn launch(
    profile: &Profile,
    worker: Worker<'_>,
    path: &Path,
    id: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Detached>, OrchestrateError> {
    let program = worker.program.display().to_string();
    let path = path.display().to_string();
    let own = ["--profile", path.as_str(), "--worker", id];
    let arguments: Vec<&str> = worker.arguments.iter().copied().chain(own).collect();
    if Systemd::is_here() && rustix::process::geteuid().is_root() {
        let argv: Vec<&str> = [program.as_str()].into_iter().chain(arguments).collect();
        Systemd::new(&profile.systemd).launch(UNIT, "cairn: migration of the platform's indices", &argv, stop)?;
        return Ok(None);
    }
    Ok(Some(Detached::start(worker.program, &arguments)?))
}

/// The worker's own work. How it ended is in the record; an error is only that there is none.
pub fn work(
    state: &StateDir,
    profile: &Profile,
    id: &str,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Record, OrchestrateError> {
    leave_session();
    let files = Files::of(state);
    let _working = state.lock_file(LOCK, MOMENT, stop)?;
    let mut log = files.create_log()?;
    let command = profile.after_restore.upgrade.words().to_vec();
    let mut record =
        Record { id: id.to_owned(), began: Timestamp::now(), process: std::process::id(), command, ended: None };
    files.write(&record)?;
    let ran = state.lock(MOMENT, stop).and_then(|lock| {
        nothing_cut_off(state)?;
        let after = &profile.after_restore;
        let spec = program(after, &after.upgrade)?;
        let limit = after.timeout_seconds.duration();
        let finished = spec.follow(limit, stop, &mut |line| log.add(line))?;
        drop(lock);
        Ok(finished)
    });
    let (exit_status, how) = match ran {
        Ok(finished) => (finished.status.code(), told(&finished)),
        Err(error) if error.is_interrupted() => (None, "interrupted: its program was killed".to_owned()),
        Err(error) => (None, chain(&error)),
    };
    record.ended = Some(Ended { time: Timestamp::now(), exit_status, lines: log.lines, how });
    files.write(&record)?;
    Ok(record)
}

fn told(finished: &Finished) -> String {
    match finished.status.success() {
        true => finished.ended(),
        false => format!("{}: {}", finished.ended(), last_lines(&finished.stderr)),
    }
}
