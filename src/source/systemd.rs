//! The units of systemd, by `systemctl`.
//!
//! * [`mod@unit`]: what a unit is and does now.
//! * [`change`]: stopping and starting, until the unit really is there.
//! * `transient`: a program as a unit of its own.
//!
//! Invariant: that `systemctl` went well is never taken for the state: the state is asked for, and asked again, until it
//! is the one that was wanted or never will be. Units that are missing, masked, failed, or for ever about to start are
//! told apart. What was running before is for the caller to remember; nothing here starts what it was not told to.

pub mod change;
mod transient;
pub mod unit;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::command::{CommandSpec, Finished};

pub use unit::{Activity, Load, UnitState};

/// What `systemctl` may write.
const OUTPUT: usize = 4 << 20;
/// Units that one pattern may stand for.
const UNITS: usize = 1000;
/// What units end with; a name that has none of these is a service.
const SUFFIXES: [&str; 7] = [".service", ".socket", ".target", ".timer", ".path", ".slice", ".mount"];

/// How systemd is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SystemdSettings {
    /// The program.
    pub systemctl: String,
    /// The program that tells a unit's last words.
    pub journalctl: String,
    /// How long a question may take.
    pub query_timeout_seconds: u64,
    /// How long a unit may take to stop. Longer than its own `TimeoutStopSec`.
    pub stop_timeout_seconds: u64,
    /// How long a unit may take to start.
    pub start_timeout_seconds: u64,
    /// How long a unit has to run on before it counts as started.
    pub settle_seconds: u64,
    /// Lines of a unit's journal that are told when it fails.
    pub journal_lines: u32,
}

impl Default for SystemdSettings {
    fn default() -> Self {
        SystemdSettings {
            systemctl: "systemctl".to_owned(),
            journalctl: "journalctl".to_owned(),
            query_timeout_seconds: 30,
            stop_timeout_seconds: 600,
            start_timeout_seconds: 600,
            settle_seconds: 1,
            journal_lines: 10,
        }
    }
}

/// The service manager.
#[derive(Clone, Debug)]
pub struct Systemd {
    settings: SystemdSettings,
}

impl Systemd {
    /// Nothing is asked yet.
    pub fn new(settings: &SystemdSettings) -> Self {
        Systemd { settings: settings.clone() }
    }

    /// Whether this machine is run by systemd at all.
    pub fn is_here() -> bool {
        Path::new("/run/systemd/system").is_dir()
    }

    fn run(&self, arguments: &[&str], stop: &dyn Fn() -> bool) -> Result<Finished, SourceError> {
        let argv = [self.settings.systemctl.as_str(), "--no-pager", "--plain", "--no-legend", "--full"];
        let spec = CommandSpec::new(argv.iter().chain(arguments)).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
        spec.run(OUTPUT, Duration::from_secs(self.settings.query_timeout_seconds.max(1)), stop)
    }

    /// The units that a name or glob stands for: those that systemd has loaded, and those that are installed. A
    /// template (`x@.service`) stands for its instances. A plain name stands for itself, if there is such a unit.
    pub fn expand(&self, pattern: &str, stop: &dyn Fn() -> bool) -> Result<BTreeSet<String>, SourceError> {
        let pattern = with_suffix(pattern)?.replacen("@.", "@*.", 1);
        if !pattern.contains(['*', '?', '[']) {
            let state = self.state(&pattern, stop)?;
            return Ok(if state.load == Load::Missing { BTreeSet::new() } else { BTreeSet::from([pattern]) });
        }
        let mut units = BTreeSet::new();
        for question in [["list-units", "--all"].as_slice(), &["list-unit-files"]] {
            let finished = self.run(&[question, &["--", pattern.as_str()]].concat(), stop)?;
            // list-unit-files ends with status 1 and says nothing when no file fits.
            let nothing = finished.stdout.is_empty() && finished.stderr.trim().is_empty();
            let output = if nothing { Vec::new() } else { finished.output()? };
            for line in String::from_utf8_lossy(&output).lines() {
                let mut fields = line.split_whitespace();
                let (Some(name), second) = (fields.next(), fields.next()) else { continue };
                // The template itself is no unit, and what is only mentioned by another unit does not exist.
                let mentioned = question[0] == "list-units" && second == Some("not-found");
                if !name.contains("@.") && !mentioned {
                    units.insert(name.to_owned());
                }
            }
        }
        if units.len() > UNITS {
            let why = format!("it stands for more than {UNITS} units");
            return Err(SourceError::Pattern { pattern, why });
        }
        Ok(units)
    }

    /// The last lines of a unit's journal; empty if they cannot be had.
    pub fn last_words(&self, unit: &str, stop: &dyn Fn() -> bool) -> String {
        let lines = self.settings.journal_lines.to_string();
        let argv = [self.settings.journalctl.as_str(), "--no-pager", "-q", "-o", "cat", "-n", &lines, "-u", unit];
        let finished = CommandSpec::new(argv).run(64 << 10, Duration::from_secs(20), stop);
        let text = finished.and_then(Finished::output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
        text.trim().chars().map(shown).collect()
    }
}

fn with_suffix(name: &str) -> Result<String, SourceError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@:\\*?[]!".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        let why = "this is no name of a unit".to_owned();
        return Err(SourceError::Pattern { pattern: name.to_owned(), why });
    }
    let complete = SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    Ok(if complete { name.to_owned() } else { format!("{name}.service") })
}
