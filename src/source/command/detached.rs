//! A program that goes on when whoever started it, and its terminal, have gone.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::source::SourceError;

/// A program that was started, and is not ended when this is dropped.
#[derive(Debug)]
pub struct Detached {
    child: Child,
}

impl Detached {
    /// Starts a program in `/`, with nothing on its three standard streams. It has to call [`leave_session`] itself.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self, SourceError> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        let failed = |source| SourceError::Spawn { program: program.display().to_string(), source };
        Ok(Detached { child: command.spawn().map_err(failed)? })
    }

    /// Whether it has ended, and not well.
    pub fn has_failed(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if !status.success())
    }
}

/// Leaves the session of whoever started this program, and with it the terminal, whose end would be told by SIGHUP.
pub fn leave_session() {
    // Fails only for who leads a process group, as the process of a unit does: that has no terminal.
    let _ = rustix::process::setsid();
}
