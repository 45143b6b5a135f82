//! Waiting for what may never come (input, a process's end, time, a call that blocks), without becoming deaf to a stop
//! that is asked for meanwhile.
//!
//! Invariant: nothing here waits longer than [`INTERVAL`] without looking whether a stop is asked for. A plain `read`
//! of an idle pipe or terminal would never look again: a signal handler only sets a flag, and the system goes on
//! waiting after it. Looking at an interval instead of waking through a pipe of our own has no race: a stop that
//! comes between looking and waiting is seen at the next look. A call that is given up goes on, on its own thread,
//! until it ends by itself; its result is dropped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::progress::Monitor;
use crate::source::SourceError;

/// How long a stop may go unseen.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// The longest that anybody waits. A profile may name any number of seconds, and the clock ends somewhere.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When a wait that begins now and lasts so long is over.
pub fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit.min(LONGEST)
}

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

/// Lets a pipe hold a MiB: with the 64 KiB that it holds otherwise, the two processes wait for each other all the time. What
/// is no pipe, or may not grow, stays as it is.
pub fn widen(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20);
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

/// Sleeps.
pub fn pause(length: Duration, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
    let started = Instant::now();
    loop {
        if stop() {
            return Err(SourceError::Interrupted);
        }
        match length.checked_sub(started.elapsed()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(left) => thread::sleep(left.min(INTERVAL)),
        }
    }
}

/// Does something that blocks, on a thread of its own. `what` names what did not happen if it takes longer than
/// `limit`: "neo4j bolt://... did not answer".
pub fn attended<T: Send + 'static>(
    what: &str,
    limit: Duration,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let started = Instant::now();
    let (done, result) = channel();
    let spawned = thread::Builder::new().name("attended".to_owned()).spawn(move || {
        let _ = done.send(work());
    });
    if let Err(source) = spawned {
        return Err(SourceError::Spawn { program: "a thread".to_owned(), source });
    }
    loop {
        if stop() {
            return Err(SourceError::Interrupted);
        }
        match result.recv_timeout(INTERVAL) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < limit => {}
            Err(RecvTimeoutError::Timeout) => return Err(SourceError::Timeout { what: what.to_owned(), limit }),
            Err(RecvTimeoutError::Disconnected) => {
                let what = format!("{what}: the thread that waited for it died");
                return Err(SourceError::Answer { server: "cairn".to_owned(), what });
            }
        }
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
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        widen(&input);
        Ok(StandardInput { input: input.into(), monitor })
    }
}

impl Read for StandardInput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        until_readable(&self.input, self.monitor)?;
        self.input.read(buffer)
    }
}
