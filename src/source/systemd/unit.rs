//! What a unit is and does now, as `systemctl show` says.

use std::collections::BTreeMap;

use crate::source::SourceError;
use crate::source::systemd::{Systemd, with_suffix};

/// The properties that are asked for.
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,MainPID,UnitFileState,Job,ExecMainCode,ExecMainStatus,Type,\
     ConsistsOf,RequiredBy,BoundBy,InvocationID,InactiveExitTimestampMonotonic";
/// What systemd stops together with a unit is in these.
const STOPPED_WITH: [&str; 3] = ["ConsistsOf", "RequiredBy", "BoundBy"];
/// Of the kinds of units that systemd stops with another, those that work for the platform.
const KINDS: [&str; 4] = [".service", ".socket", ".timer", ".path"];

/// Whether systemd knows a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// It does.
    Loaded,
    /// There is no such unit.
    Missing,
    /// Somebody forbade to start it (`systemctl mask`).
    Masked,
    /// Its file cannot be used, or something else that systemd says.
    Other(String),
}

/// Whether a unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does, or is only reading its settings again.
    Active,
    /// It does not.
    Inactive,
    /// It does not, because something went wrong.
    Failed,
    /// It is about to, or waits to be tried again.
    Activating,
    /// It still does, and was told to stop.
    Deactivating,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// Its name; of an alias, the unit's own.
    pub name: String,
    /// Whether systemd knows it.
    pub load: Load,
    /// Whether it runs.
    pub activity: Activity,
    /// More exactly: `running`, `exited`, `auto-restart`, ...
    pub sub: String,
    /// `success`, or what went wrong: `exit-code`, `timeout`, `oom-kill`, ...
    pub result: String,
    /// Its main process, if it has one now.
    pub main_pid: Option<u32>,
    /// Whether it is started with the machine: `enabled`, `disabled`, `static`, `masked`, ...; empty if it has no file.
    pub file: String,
    /// Whether systemd has something to do with it just now.
    pub job: bool,
    /// Its main process's last exit status.
    pub exit_status: i32,
    /// `simple`, `forking`, `oneshot`, `notify`, ...
    pub kind: String,
    /// What it got when it was last started, and is never given again; empty if systemd remembers no start.
    pub started: String,
    /// The units that systemd stops when this one is stopped (their `PartOf=`, `Requires=` and `BindsTo=`).
    pub stopped_with: Vec<String>,
}

impl UnitState {
    /// Whether it runs, or is about to.
    pub fn runs(&self) -> bool {
        matches!(self.activity, Activity::Active | Activity::Activating)
    }

    /// Whether anything of it runs or may begin to.
    pub fn is_stopped(&self) -> bool {
        matches!(self.activity, Activity::Inactive | Activity::Failed) && !self.job
    }

    /// For people.
    pub fn shown(&self) -> String {
        let load = match &self.load {
            Load::Loaded => String::new(),
            Load::Missing => "no such unit, ".to_owned(),
            Load::Masked => "masked, ".to_owned(),
            Load::Other(load) => format!("{load}, "),
        };
        let activity = match self.activity {
            Activity::Active => "active",
            Activity::Inactive => "inactive",
            Activity::Failed => "failed",
            Activity::Activating => "activating",
            Activity::Deactivating => "deactivating",
        };
        let result = match self.result.as_str() {
            "success" | "" => String::new(),
            result => format!(", result {result}, exit status {}", self.exit_status),
        };
        format!("{}: {load}{activity} ({}){result}", self.name, self.sub)
    }
}

impl Systemd {
    /// What a unit does now.
    pub fn state(&self, unit: &str, stop: &dyn Fn() -> bool) -> Result<UnitState, SourceError> {
        let unit = with_suffix(unit)?;
        let output = self.run(&["show", "-p", PROPERTIES, "--", &unit], stop)?.output()?;
        let text = String::from_utf8_lossy(&output);
        let properties: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let property = |name: &str| properties.get(name).copied().unwrap_or_default();
        let answer = |what: String| SourceError::Answer { server: format!("systemd, of {unit}"), what };
        let activity = match property("ActiveState") {
            "active" | "reloading" | "refreshing" => Activity::Active,
            "inactive" => Activity::Inactive,
            "failed" => Activity::Failed,
            "activating" => Activity::Activating,
            "deactivating" | "maintenance" => Activity::Deactivating,
            other => return Err(answer(format!("the state {other:?} is not known"))),
        };
        let load = match property("LoadState") {
            "loaded" => Load::Loaded,
            "not-found" => Load::Missing,
            "masked" => Load::Masked,
            other => Load::Other(other.to_owned()),
        };
        Ok(UnitState {
            name: property("Id").to_owned(),
            load,
            activity,
            sub: property("SubState").to_owned(),
            result: property("Result").to_owned(),
            main_pid: property("MainPID").parse().ok().filter(|pid| *pid != 0),
            file: property("UnitFileState").to_owned(),
            job: !matches!(property("Job"), "" | "0"),
            exit_status: property("ExecMainStatus").parse().unwrap_or(0),
            kind: property("Type").to_owned(),
            started: started(property("InvocationID"), property("InactiveExitTimestampMonotonic")),
            stopped_with: STOPPED_WITH
                .iter()
                .flat_map(|name| property(name).split_whitespace())
                .filter(|unit| KINDS.iter().any(|kind| unit.ends_with(kind)))
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// Versions before 232 give no id to a start; the time since the boot, in microseconds, is as good. Of a unit that nothing
/// refers to systemd forgets both when it has stopped.
fn started(id: &str, time: &str) -> String {
    match (id, time) {
        ("", "" | "0") => String::new(),
        (id, time) => format!("{id} {time}"),
    }
}
