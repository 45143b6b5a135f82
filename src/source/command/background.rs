//! A server that runs in the background for as long as it is needed.
//!
//! Invariant: what it prints goes to a file and never blocks it; and whatever becomes of whoever needs it, dropping this
//! kills its process group and reaps it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::source::SourceError;
use crate::source::command::{CommandSpec, told};
use crate::source::wait;

/// Room that its log has from the beginning.
const LAST_WORDS: u64 = 64 << 10;
/// So much of the end of its log is told.
const TAIL: u64 = 4 << 10;
/// So many lines of it.
const LINES: usize = 15;

/// A server that fails to answer is given so long to end.
const ENDING: Duration = Duration::from_secs(2);

/// The end of a file, so long at most.
pub fn tail(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A server that was started.
#[derive(Debug)]
pub struct Background {
    program: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Background {
    /// Starts a server that prints to a file, which is made.
    pub fn start(spec: &CommandSpec, log: &Path) -> Result<Self, SourceError> {
        let program = spec.program();
        let failed = |source| SourceError::Spawn { program: program.clone(), source };
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(log);
        let file = file.map_err(SourceError::when("make", log))?;
        // What it says of a full disk must find room there. Where that cannot be had, it goes without.
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, LAST_WORDS);
        let mut command = spec.command()?;
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(failed)?).stderr(file);
        let child = command.spawn().map_err(failed)?;
        Ok(Background { program, child, ended: None, log: log.to_owned() })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_some()
    }

    /// An error if it has ended by itself: what answers in its place is another one.
    pub fn must_run(&mut self) -> Result<(), SourceError> {
        if !self.has_ended() {
            return Ok(());
        }
        let status = self.ended.map_or_else(|| "an unknown status".to_owned(), told);
        Err(SourceError::Ended { program: self.program.clone(), status, log: self.log_tail() })
    }

    /// Waits for it to be ready, which `wait` looks at until its argument says to stop: when the server has ended, when
    /// the time is over, or when the operator wants to stop. What its log ends with is told of one that is not ready.
    pub fn ready<T>(
        &mut self,
        what: &str,
        limit: Duration,
        stop: &dyn Fn() -> bool,
        wait: impl FnOnce(&dyn Fn() -> bool) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let deadline = wait::deadline(limit);
        let server = RefCell::new(&mut *self);
        let enough = || server.borrow_mut().has_ended() || Instant::now() >= deadline || stop();
        let error = match wait(&enough) {
            Ok(ready) => return Ok(ready),
            Err(error) => error,
        };
        // Who fails to reach it may be a moment ahead of its end.
        let ending = wait::deadline(ENDING).min(deadline);
        while !self.has_ended() && Instant::now() < ending {
            wait::pause(wait::INTERVAL, stop)?;
        }
        if stop() {
            return Err(SourceError::Interrupted);
        }
        self.must_run()?;
        match error {
            SourceError::Interrupted => Err(SourceError::Timeout {
                what: format!("{what} is not ready; its log ends: {}", self.log_tail()),
                limit,
            }),
            error => Err(error),
        }
    }

    /// The last lines that it has printed.
    pub fn log_tail(&self) -> String {
        let text = String::from_utf8_lossy(&tail(&self.log, TAIL).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Asks it to end, and kills it and its group if it has not done so in time.
    pub fn stop(mut self, signal: Signal, limit: Duration) -> Result<(), SourceError> {
        if !self.has_ended()
            && let Some(pid) = self.pid()
        {
            // It is not reaped, so the number is its own.
            let _ = kill_process(pid, signal);
            let ended = wait::until_ended_by(&mut self.child, &|| false, Some(wait::deadline(limit)));
            let lost = |source| SourceError::Unreadable { action: "wait for", path: self.program.clone(), source };
            self.ended = ended.map_err(lost)?;
        }
        self.kill();
        Ok(())
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn kill(&mut self) {
        // Once it is reaped, its number may be another's.
        if let Some(group) = self.pid().filter(|_| self.ended.is_none()) {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.has_ended();
        self.kill();
    }
}
