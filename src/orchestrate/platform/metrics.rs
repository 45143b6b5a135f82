//! A text file for a monitoring system that collects such files (Prometheus' node exporter, textfile collector): when
//! the last run succeeded, how long it took, how large each component is.
//!
//! Ages are not in it: a file that is written once a night would show the age of that moment all day. Whoever asks
//! subtracts the time from `time()` (docs/systemd.md has the alerts), and a run that never happens again is noticed, too.
//!
//! Invariant: the file is replaced as a whole, and a run that fails leaves the time of the last success as it is, since
//! that time is what an alert looks at.

use std::fmt::Write;
use std::path::Path;

use crate::format::set::{BackupSet, Status};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::state::{read_file, replace_file};

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct RunFigures<'a> {
    /// The set of this run; none when it published none.
    pub set: Option<&'a BackupSet>,
    /// The newest complete set of the profile, this one included.
    pub last_complete: Option<&'a BackupSet>,
    /// The profile's name.
    pub profile: &'a str,
    /// The exit code.
    pub exit_code: u8,
    /// When the run ended.
    pub ended: jiff::Timestamp,
}

/// A file that is there is read up to here.
const MAX_FILE: u64 = 64 << 10;

/// Writes that a run ended before it had figures: what the file says of earlier runs stays, above all the last success.
pub fn write_failure(
    path: &Path,
    profile: &str,
    exit_code: u8,
    ended: jiff::Timestamp,
) -> Result<(), OrchestrateError> {
    // What cannot be read is as if it were not there: the newest run is what matters.
    let before = read_file(path, MAX_FILE).unwrap_or_default();
    let figures = RunFigures { set: None, last_complete: None, profile, exit_code, ended };
    let kept =
        |line: &&str| line.contains("cairn_platform_last_complete_") || line.contains("cairn_platform_last_success_");
    let before =
        String::from_utf8_lossy(&before).lines().filter(kept).map(|line| format!("{line}\n")).collect::<String>();
    replace_file(path, &(text(&figures) + &before))
}

/// Writes the figures of a run.
pub fn write(path: &Path, figures: &RunFigures<'_>) -> Result<(), OrchestrateError> {
    replace_file(path, &text(figures))
}

/// The figures in the exposition format of Prometheus.
pub fn text(figures: &RunFigures<'_>) -> String {
    let mut text = Exposition { text: String::new(), profile: label(figures.profile) };
    text.figure("cairn_platform_last_run_timestamp_seconds", "When the last run ended.", figures.ended.as_second());
    text.figure("cairn_platform_last_run_exit_code", "How the last run ended; 0 is well.", figures.exit_code);
    if let Some(set) = figures.last_complete {
        let help = "What point in time the newest complete backup set stands for; its age is time() minus this.";
        text.figure("cairn_platform_last_complete_set_timestamp_seconds", help, set.time.as_second());
        let help = "When the newest run that made a complete backup set had everything up again.";
        text.figure("cairn_platform_last_success_timestamp_seconds", help, set.ended.as_second());
    }
    if let Some(set) = figures.set {
        let complete = u8::from(set.status == Status::Complete);
        text.figure("cairn_platform_last_set_complete", "1 if the newest set is complete.", complete);
        let seconds = set.ended.duration_since(set.time).as_secs_f64();
        text.figure("cairn_platform_last_set_seconds", "From the first capture to the last service up.", seconds);
        type Figure = fn(&crate::format::set::Component) -> f64;
        let by_component: [(&str, &str, Figure); 4] = [
            ("bytes", "Bytes saved.", |c| c.bytes() as f64),
            ("stored_bytes", "Bytes added to the repository.", |c| c.stored_bytes() as f64),
            ("seconds", "How long the capture took.", |c| c.milliseconds as f64 / 1000.0),
            ("complete", "1 if the component is complete.", |c| f64::from(u8::from(c.status == Status::Complete))),
        ];
        for (name, help, figure) in by_component {
            let name = format!("cairn_platform_component_{name}");
            text.head(&name, help);
            for component in set.components.iter().filter(|component| component.status != Status::Skipped) {
                text.line(&name, &format!(",component=\"{}\"", label(&component.name)), figure(component));
            }
        }
    }
    text.text
}

struct Exposition {
    text: String,
    profile: String,
}

impl Exposition {
    fn figure(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, help);
        self.line(name, "", value);
    }

    fn head(&mut self, name: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{{profile=\"{}\"{labels}}} {value}", self.profile);
    }
}

/// A label's value, escaped as the format asks.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
