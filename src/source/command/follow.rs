//! A program that is run to its end, with every line that it prints handed on as it comes.
//!
//! Invariants: however much the program prints, only a bounded part is kept in memory: what is not taken in time makes
//! the program wait. A line that is longer than [`LINE`] is handed on in pieces. Whoever gives up (a stop, the time limit)
//! has ended the program's whole group before this returns.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::source::SourceError;
use crate::source::command::{CommandSpec, CommandStream, Finished};
use crate::source::wait::{self, or_stopped};

/// A line longer than this is handed on in pieces.
const LINE: usize = 4 << 10;
/// So many lines of standard error may be untaken.
const UNTAKEN: usize = 1024;

impl CommandSpec {
    /// Runs it to its end, however it ends, and hands on each line of its standard output and standard error. The
    /// output is not kept. Running for longer than `limit` is an error: the program is killed then.
    pub fn follow(
        &self,
        limit: Duration,
        stop: &dyn Fn() -> bool,
        told: &mut dyn FnMut(&str),
    ) -> Result<Finished, SourceError> {
        let deadline = wait::deadline(limit);
        let late = || SourceError::Timeout { what: format!("{:?} did not end, and was killed", self.program()), limit };
        let lost = |error| {
            or_stopped(error, |source| SourceError::Unreadable {
                action: "read the output of",
                path: self.program(),
                source,
            })
        };
        let (sender, errors) = sync_channel(UNTAKEN);
        // The receiver goes only when nobody wants the lines any more.
        let mut stream = CommandStream::start(self, stop, move |line| drop(sender.send(line.to_owned())))?;
        let mut output = Lines::default();
        loop {
            take(&errors, told);
            if Instant::now() >= deadline {
                return Err(late());
            }
            if !stream.readable(soon(deadline)).map_err(lost)? {
                continue;
            }
            if output.read(&mut stream, told).map_err(lost)? == 0 {
                break;
            }
        }
        output.end(told);
        loop {
            take(&errors, told);
            if let Some((status, stderr)) = stream.ended(Some(soon(deadline)))? {
                take(&errors, told);
                return Ok(Finished { program: self.program(), status, stdout: Vec::new(), stderr });
            }
            if Instant::now() >= deadline {
                return Err(late());
            }
        }
    }
}

fn soon(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + wait::INTERVAL)
}

fn take(lines: &Receiver<String>, told: &mut dyn FnMut(&str)) {
    while let Ok(line) = lines.try_recv() {
        told(&line);
    }
}

/// The beginning of a line whose end has not come yet.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Reads some, and hands on the lines that are whole.
    fn read(&mut self, input: &mut impl Read, told: &mut dyn FnMut(&str)) -> io::Result<usize> {
        let mut piece = [0; 8 << 10];
        let length = input.read(&mut piece)?;
        for part in piece[..length].split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") || self.begun.len() >= LINE {
                self.end(told);
            }
        }
        Ok(length)
    }

    fn end(&mut self, told: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            told(String::from_utf8_lossy(&self.begun).trim_end_matches('\n'));
            self.begun.clear();
        }
    }
}
