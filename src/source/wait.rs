//! Waiting for input that may never come, without becoming deaf to a stop that is asked for meanwhile.
//!
//! Invariant: nothing here waits longer than 100 ms without looking at [`Monitor::interrupted`]. A plain `read`
//! of an idle pipe or terminal would never look again: a signal handler only sets a flag, and the system goes on
//! waiting after it. Looking at an interval instead of waking through a pipe of our own has no race: a stop that
//! comes between looking and waiting is seen at the next look.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::progress::Monitor;
use crate::source::SourceError;

/// How long a stop may go unseen.
const INTERVAL: Duration = Duration::from_millis(100);

/// A stop was asked for. Not [`io::ErrorKind::Interrupted`]: the standard library would take that as "try again".
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Stopped;

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        io::Error::other(stopped)
    }
}

/// A stop as its own error, anything else as `other` makes it.
pub(super) fn or_stopped(error: io::Error, other: impl FnOnce(io::Error) -> SourceError) -> SourceError {
    match error.get_ref() {
        Some(inner) if inner.is::<Stopped>() => SourceError::Interrupted,
        _ => other(error),
    }
}

/// Returns when `input` has something to read, or has ended.
pub fn until_readable(input: impl AsFd, monitor: &dyn Monitor) -> io::Result<()> {
    until_readable_by(input, &|| monitor.interrupted(), None).map(|_| ())
}

/// The same, with whatever may ask for a stop, until a deadline: false then.
pub(super) fn until_readable_by(
    input: impl AsFd,
    stop: &dyn Fn() -> bool,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    until(input, PollFlags::IN, stop, deadline)
}

/// Returns when `output` takes something, or nobody reads it any more.
pub(super) fn until_writable(output: impl AsFd, stop: &dyn Fn() -> bool) -> io::Result<()> {
    until(output, PollFlags::OUT, stop, None).map(|_| ())
}

fn until(
    descriptor: impl AsFd,
    events: PollFlags,
    stop: &dyn Fn() -> bool,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let mut polled = [PollFd::new(&descriptor, events)];
    loop {
        let left = deadline.map_or(INTERVAL, |deadline| deadline.saturating_duration_since(Instant::now()));
        let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(left.min(INTERVAL).subsec_nanos()) };
        let ready = match poll(&mut polled, Some(&interval)) {
            Err(Errno::INTR) => 0,
            other => other?,
        };
        if stop() {
            return Err(Stopped.into());
        }
        if ready > 0 || left.is_zero() {
            return Ok(ready > 0);
        }
    }
}

/// Waits for a process to end.
pub fn until_ended(child: &mut Child, monitor: &dyn Monitor) -> io::Result<ExitStatus> {
    let ended = until_ended_by(child, &|| monitor.interrupted(), None)?;
    ended.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
}

/// The same, with whatever may ask for a stop, until a deadline: `None` then.
pub(super) fn until_ended_by(
    child: &mut Child,
    stop: &dyn Fn() -> bool,
    deadline: Option<Instant>,
) -> io::Result<Option<ExitStatus>> {
    // Mostly it ends with its output, a moment after it was seen to be at its end.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop() {
            return Err(Stopped.into());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(INTERVAL);
    }
}

/// Standard input as a source.
pub struct StandardInput<'m> {
    input: File,
    monitor: &'m dyn Monitor,
}

impl<'m> StandardInput<'m> {
    /// Takes standard input, unbuffered: what a buffer holds, waiting for more would not see.
    pub fn new(monitor: &'m dyn Monitor) -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?.into();
        Ok(StandardInput { input, monitor })
    }
}

impl Read for StandardInput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        until_readable(&self.input, self.monitor)?;
        self.input.read(buffer)
    }
}
