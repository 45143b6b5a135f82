//! The output of a program as a source. Its bytes count only if it exits 0; a program that fails, is killed, or is
//! given up leaves nothing behind: it runs in its own process group, which is ended with it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::source::error::SourceError;

/// Bytes of standard error kept.
const TAIL: usize = 4096;
/// A longer line of standard error is cut.
const LINE: u64 = 64 << 10;

/// A running program.
pub struct CommandStream {
    program: String,
    child: Option<Child>,
    output: ChildStdout,
    errors: Option<JoinHandle<String>>,
}

impl CommandStream {
    /// Starts a program: `argv[0]` with the rest as its arguments, no shell between. Each line of its standard error
    /// goes to `on_line`.
    pub fn spawn(argv: &[OsString], on_line: impl Fn(&str) + Send + 'static) -> Result<Self, SourceError> {
        let program = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let failed = |source| SourceError::Start { program: program.clone(), source };
        let mut command = Command::new(argv.first().map_or_else(OsString::new, Clone::clone));
        command.args(argv.iter().skip(1));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let missing = || failed(io::Error::other("it has no output"));
        let output = child.stdout.take().ok_or_else(missing)?;
        let errors = child.stderr.take().ok_or_else(missing)?;
        let errors = std::thread::spawn(move || keep_tail(errors, &on_line));
        Ok(CommandStream { program, child: Some(child), output, errors: Some(errors) })
    }

    /// Waits for the program's end, which must be a success.
    pub fn finish(mut self) -> Result<(), SourceError> {
        let program = self.program.clone();
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.wait().map_err(|source| SourceError::Start { program: program.clone(), source })?;
        if status.success() {
            return Ok(());
        }
        // What it started may hold its standard error open; it goes with it.
        end_group(&child);
        let tail = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let status = match (status.code(), status.signal()) {
            (Some(code), _) => format!("failed with exit status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "failed".to_owned(),
        };
        Err(SourceError::Failed { program, status, tail })
    }
}

impl Read for CommandStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            end_group(&child);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn keep_tail(errors: impl Read, on_line: &dyn Fn(&str)) -> String {
    let mut reader = BufReader::new(errors);
    let mut tail: VecDeque<String> = VecDeque::new();
    let mut bytes = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        on_line(&text);
        bytes += text.len();
        tail.push_back(text);
        while bytes > TAIL && tail.len() > 1 {
            bytes -= tail.pop_front().map_or(0, |line| line.len());
        }
    }
    Vec::from(tail).join("\n")
}
