//! Starting a program as a unit of its own, which no session takes with it when it ends.

use std::time::Duration;

use crate::source::SourceError;
use crate::source::command::{CommandSpec, Finished};
use crate::source::systemd::Systemd;

/// The program of systemd that starts others.
const RUN: &str = "systemd-run";
/// What it may write.
const OUTPUT: usize = 64 << 10;

impl Systemd {
    /// Starts a program as a service of this name, as root, and returns once it has been started. What it needs has to
    /// be in its arguments: of the environment it has only what systemd gives.
    pub fn launch(
        &self,
        unit: &str,
        description: &str,
        argv: &[&str],
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        // One that failed keeps its name until it is forgotten. That there is none is no failure.
        let _ = self.run(&["reset-failed", &format!("{unit}.service")], stop)?;
        let (unit, description) = (format!("--unit={unit}"), format!("--description={description}"));
        let options = [RUN, &unit, &description, "--property=KillMode=mixed", "--"].map(str::to_owned);
        // systemd takes a `$` in arguments for a variable, and two for one.
        let argv = argv.iter().map(|argument| argument.replace('$', "$$"));
        let spec = CommandSpec::new(options.into_iter().chain(argv)).env("LC_ALL", "C");
        let limit = Duration::from_secs(self.settings.query_timeout_seconds.max(1));
        spec.run(OUTPUT, limit, stop).and_then(Finished::output).map(drop)
    }
}
