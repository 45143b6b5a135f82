//! Ending a process: it is asked, given time, and killed.
//!
//! Invariant: only the process that was meant gets a signal. It is held by a file descriptor (`pidfd_open`) whose process
//! cannot change, and is signalled through it after its start time was compared. Kernels before 5.3 do not have that:
//! there the start time is compared right before each signal, which leaves the moment between the two.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::source::SourceError;
use crate::source::process::{Process, ProcessId};
use crate::source::wait;

/// How long a process is given.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After it was asked to end.
    pub terminate: Duration,
    /// After it was killed: it may have to come back from the kernel first.
    pub kill: Duration,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It had ended before.
    Gone,
    /// It ended when it was asked to.
    Terminated,
    /// It had to be killed.
    Killed,
}

/// Ends a process. `on_signal` is told of each signal before it is sent.
pub fn terminate(
    id: ProcessId,
    patience: Patience,
    stop: &dyn Fn() -> bool,
    on_signal: &mut dyn FnMut(&Process, Signal),
) -> Result<Ending, SourceError> {
    let Some(held) = Held::new(id)? else { return Ok(Ending::Gone) };
    let steps = [(Signal::TERM, patience.terminate, Ending::Terminated), (Signal::KILL, patience.kill, Ending::Killed)];
    for (signal, limit, ending) in steps {
        if stop() {
            return Err(SourceError::Interrupted);
        }
        on_signal(&held.process, signal);
        if !held.signal(signal)? || held.ends_within(limit, stop)? {
            return Ok(ending);
        }
    }
    let what = format!("{} was killed and did not vanish (it may wait for a disk)", held.process.shown());
    Err(SourceError::Timeout { what, limit: patience.kill })
}

struct Held {
    process: Process,
    pid: Pid,
    /// `None` on kernels that do not have it.
    file: Option<OwnedFd>,
}

impl Held {
    fn new(id: ProcessId) -> Result<Option<Self>, SourceError> {
        let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let file = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(file) => Some(file),
            Err(Errno::SRCH) => return Ok(None),
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(error) => return Err(failed("hold", id, error)),
        };
        // Only now: the descriptor is of the process that is looked at here, or that one has ended.
        let process = Process::read(id.pid).map_err(|source| unreadable("look at", id, source))?;
        Ok(process.filter(|process| process.id == id && !process.ended).map(|process| Held { process, pid, file }))
    }

    fn alive(&self) -> Result<bool, SourceError> {
        self.process.id.is_alive().map_err(|source| unreadable("look at", self.process.id, source))
    }

    /// Whether there was still somebody to send it to.
    fn signal(&self, signal: Signal) -> Result<bool, SourceError> {
        let sent = match &self.file {
            Some(file) => pidfd_send_signal(file, signal),
            None if self.alive()? => kill_process(self.pid, signal),
            None => Err(Errno::SRCH),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(failed("signal", self.process.id, error)),
        }
    }

    fn ends_within(&self, limit: Duration, stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
        let deadline = wait::deadline(limit);
        if let Some(file) = &self.file {
            // A process's descriptor becomes readable when the process ends.
            return wait::until_readable_by(file, stop, Some(deadline))
                .map_err(|error| wait::or_stopped(error, |error| unreadable("wait for", self.process.id, error)));
        }
        while self.alive()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            wait::pause(left.min(wait::INTERVAL), stop)?;
        }
        Ok(true)
    }
}

fn failed(action: &'static str, id: ProcessId, error: Errno) -> SourceError {
    unreadable(action, id, error.into())
}

fn unreadable(action: &'static str, id: ProcessId, source: std::io::Error) -> SourceError {
    SourceError::Unreadable { action, path: format!("process {}", id.pid), source }
}
