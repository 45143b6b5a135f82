//! A stream of the repository on its way, with its progress told.

use std::io::{self, Read};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::restore::trees::read_failed;
use crate::progress::{Monitor, Phase, StepWork};
use crate::repo::reader::StreamReader;

const PIECE: usize = 256 << 10;

/// The stream.
pub struct Told<'a> {
    inner: StreamReader,
    step: &'static str,
    notes: &'a Notes<'a>,
}

impl<'a> Told<'a> {
    /// Tells a step of so many bytes.
    pub fn new(inner: StreamReader, step: &'static str, bytes: u64, notes: &'a Notes<'_>) -> Self {
        notes.within(step, StepWork::Begin(Phase::Restore, Some(bytes)));
        Told { inner, step, notes }
    }

    /// Reads all of it and keeps nothing; how many bytes there were.
    pub fn read_through(mut self) -> Result<u64, OrchestrateError> {
        let (mut piece, mut bytes) = (vec![0; PIECE], 0);
        loop {
            if self.notes.interrupted() {
                return Err(OrchestrateError::Interrupted);
            }
            match self.read(&mut piece).map_err(read_failed)? {
                0 => return Ok(bytes),
                length => bytes += length as u64,
            }
        }
    }
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let work = if length == 0 && !buffer.is_empty() { StepWork::End } else { StepWork::Advance(length as u64) };
        self.notes.within(self.step, work);
        Ok(length)
    }
}
