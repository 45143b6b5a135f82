//! Waiting for input that may never come, without becoming deaf to a stop that is asked for meanwhile.
//!
//! Invariant: nothing here waits longer than [`INTERVAL`] without looking at [`Monitor::interrupted`]. A plain `read`
//! of an idle pipe or terminal would never look again: a signal handler only sets a flag, and the system goes on
//! waiting after it. Looking at an interval instead of waking through a pipe of our own has no race: a stop that
//! comes between looking and waiting is seen at the next look.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::progress::Monitor;

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

/// Returns when `input` has something to read, or has ended.
pub fn until_readable(input: impl AsFd, monitor: &dyn Monitor) -> io::Result<()> {
    let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(INTERVAL.subsec_nanos()) };
    let mut polled = [PollFd::new(&input, PollFlags::IN)];
    loop {
        let ready = match poll(&mut polled, Some(&interval)) {
            Err(Errno::INTR) => 0,
            other => other?,
        };
        if monitor.interrupted() {
            return Err(Stopped.into());
        }
        if ready > 0 {
            return Ok(());
        }
    }
}

/// Waits for a process to end.
pub fn until_ended(child: &mut Child, monitor: &dyn Monitor) -> io::Result<ExitStatus> {
    // Mostly it ends with its output, a moment after it was seen to be at its end.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if monitor.interrupted() {
            return Err(Stopped.into());
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
