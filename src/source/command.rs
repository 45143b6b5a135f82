//! The standard output of a program as a source.
//!
//! Invariant: [`CommandStream::finish`] is `Ok` only if the program exited with status 0, so its caller publishes
//! nothing of a program that failed or was killed: the end of the output alone says nothing. The program is started
//! from its arguments ([`CommandSpec`]), never by a shell, in a process group of its own; if the stream is dropped
//! before its end, the whole group is killed and the program reaped, so nothing goes on working for a backup that was
//! given up.

mod background;
mod detached;
mod follow;
mod spec;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::progress::Monitor;
use crate::source::{SourceError, wait};
pub use background::{Background, tail};
pub use detached::{Detached, leave_session};
pub use spec::{Account, CommandSpec, Finished, find_program};

/// How much of the end of standard error is kept.
const TAIL: usize = 4 << 10;
/// A line of standard error longer than this is forwarded in pieces.
const LINE: u64 = 4 << 10;
/// How long to wait for the rest of standard error once the program has ended: it may have left a daemon behind that
/// holds it open for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running program, read through [`Read`].
pub struct CommandStream<'m> {
    program: String,
    child: Child,
    stdin: Option<ChildStdin>,
    /// `None` once it is not read any more.
    stdout: Option<ChildStdout>,
    tail: Arc<Mutex<Vec<u8>>>,
    stderr_ended: Receiver<()>,
    stop: Box<dyn Fn() -> bool + 'm>,
    /// How long it may be silent while it is read.
    patience: Option<Duration>,
    reaped: bool,
}

impl<'m> CommandStream<'m> {
    /// Starts a program as this process is, without standard input. `on_line` is given each line of its standard
    /// error, as it comes, on another thread. Waiting for the program ends when `monitor` is interrupted.
    pub fn spawn(
        argv: &[OsString],
        monitor: &'m dyn Monitor,
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, SourceError> {
        CommandStream::start(&CommandSpec::new(argv), move || monitor.interrupted(), on_line)
    }

    /// Starts a program. `on_line` is given each line of its standard error, as it comes, on another thread. Waiting
    /// for the program ends when `stop` says so.
    pub fn start(
        spec: &CommandSpec,
        stop: impl Fn() -> bool + 'm,
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, SourceError> {
        let program = spec.program();
        let failed = |source| SourceError::Spawn { program: program.clone(), source };
        let mut child = spec.command()?.spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        stdin.iter().for_each(wait::widen);
        stdout.iter().for_each(wait::widen);
        let Some(stderr) = child.stderr.take() else {
            return Err(failed(io::Error::other("it has no standard error")));
        };
        let tail = Arc::new(Mutex::new(Vec::new()));
        let (ended, stderr_ended) = channel();
        let kept = Arc::clone(&tail);
        let stop = Box::new(stop);
        let mut stream =
            CommandStream { program, child, stdin, stdout, tail, stderr_ended, stop, patience: None, reaped: false };
        let listener = thread::Builder::new().name("command-stderr".to_owned()).spawn(move || {
            listen(stderr, &kept, on_line);
            let _ = ended.send(());
        });
        match listener {
            Ok(_) => Ok(stream),
            Err(source) => {
                stream.kill();
                Err(SourceError::Spawn { program: stream.program.clone(), source })
            }
        }
    }

    /// From here on a read fails if the program is silent for so long: it waits for something that will not come.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The pipe to its standard input, once, if it was started with one. Dropping it ends the input.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program to end. To be called at the end of its output: a program that still writes gets `SIGPIPE`.
    pub fn finish(mut self) -> Result<(), SourceError> {
        match self.ended(None)? {
            Some((status, _)) if status.success() => Ok(()),
            Some((status, stderr)) => {
                Err(SourceError::Command { program: self.program.clone(), status: told(status), stderr })
            }
            // Without a deadline there is only one reason to return before the end.
            None => Err(SourceError::Interrupted),
        }
    }

    /// Waits until there is output, or its end, to be read; false at the deadline.
    pub(super) fn readable(&mut self, deadline: Instant) -> io::Result<bool> {
        let Some(stdout) = &self.stdout else { return Ok(true) };
        wait::until_readable_by(stdout, &*self.stop, Some(deadline))
    }

    /// Waits for the end; `None` at the deadline. What its standard error ended with comes with the status.
    pub(super) fn ended(&mut self, deadline: Option<Instant>) -> Result<Option<(ExitStatus, String)>, SourceError> {
        if self.reaped {
            // A read was given up and took the program with it: how that ended says nothing.
            return Err(SourceError::Interrupted);
        }
        // Closing our ends first: a program that is not read to its end must not block for ever.
        (self.stdin, self.stdout) = (None, None);
        let program = &self.program;
        let lost = |error: io::Error| {
            wait::or_stopped(error, |source| SourceError::Unreadable {
                action: "wait for",
                path: program.clone(),
                source,
            })
        };
        let Some(status) = wait::until_ended_by(&mut self.child, &*self.stop, deadline).map_err(lost)? else {
            return Ok(None);
        };
        self.reaped = true;
        let _ = self.stderr_ended.recv_timeout(PATIENCE);
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some((status, String::from_utf8_lossy(&tail).into_owned())))
    }

    fn kill(&mut self) {
        if !self.reaped {
            if let Ok(id) = i32::try_from(self.child.id())
                && let Some(group) = Pid::from_raw(id)
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.reaped = true;
        }
    }
}

impl Read for CommandStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stdout) = &mut self.stdout else { return Ok(0) };
        match wait::until_readable_by(&*stdout, &*self.stop, self.patience.map(wait::deadline)) {
            Ok(true) => stdout.read(buffer),
            Ok(false) => {
                self.kill();
                let seconds = self.patience.unwrap_or_default().as_secs();
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} was silent for {seconds} s", self.program)))
            }
            Err(error) => {
                self.kill();
                Err(error)
            }
        }
    }
}

impl Drop for CommandStream<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

fn listen(stderr: ChildStderr, tail: &Mutex<Vec<u8>>, mut on_line: impl FnMut(&str)) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                tail.extend_from_slice(&line);
                let surplus = tail.len().saturating_sub(TAIL);
                tail.drain(..surplus);
            }
        }
        on_line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
    }
}
