//! What Celery's workers say that they are doing: `celery inspect active` and `reserved`.
//!
//! Invariant: "no worker answered" and "no worker has a task" are told apart. A worker whose only process is busy may not
//! answer in time, so nobody should take silence for rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::source::SourceError;
use crate::source::command::{Account, CommandSpec};

/// What one answer may hold.
const OUTPUT: usize = 16 << 20;
/// Tasks that are told one by one.
const TASKS: usize = 100;
/// A task's name or id is told up to here.
const NAME: usize = 200;
/// What the program may take beyond the time that it waits for answers: it has to load the application.
const LOADING: Duration = Duration::from_secs(60);
/// Celery's exit status when no worker answered (`EX_UNAVAILABLE`).
const NOBODY: i32 = 69;

/// How workers are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CelerySettings {
    /// The program with the arguments that name the application; `inspect` and what follows is added. Empty: workers
    /// are not asked, and queues alone are looked at.
    pub command: Vec<String>,
    /// The user to run it as.
    pub user: Option<String>,
    /// Its environment, beside what it takes to be that user.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub directory: Option<PathBuf>,
    /// How long it waits for workers to answer.
    pub answer_timeout_seconds: u64,
}

impl Default for CelerySettings {
    fn default() -> Self {
        let settings = "/etc/eclecticiq/platform_settings.py".to_owned();
        CelerySettings {
            command: Vec::new(),
            user: Some("eclecticiq".to_owned()),
            environment: BTreeMap::from([("EIQ_PLATFORM_SETTINGS".to_owned(), settings)]),
            directory: None,
            answer_timeout_seconds: 5,
        }
    }
}

/// What workers have to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The workers that answered.
    pub workers: BTreeSet<String>,
    /// Tasks that are being done.
    pub active: u64,
    /// Tasks that a worker has taken and not begun.
    pub reserved: u64,
    /// Some of them.
    pub examples: Vec<Task>,
}

/// A task of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The worker.
    pub worker: String,
    /// What kind of task it is.
    pub name: String,
    /// Which one it is.
    pub id: String,
    /// Whether it is being done.
    pub active: bool,
}

impl CelerySettings {
    /// Asks the workers. `None` if the settings name no program.
    pub fn inspect(&self, stop: &dyn Fn() -> bool) -> Result<Option<Inspection>, SourceError> {
        if self.command.is_empty() {
            return Ok(None);
        }
        let mut inspection = Inspection::default();
        for method in ["active", "reserved"] {
            self.ask(method, &mut inspection, stop)?;
        }
        Ok(Some(inspection))
    }

    fn ask(&self, method: &str, inspection: &mut Inspection, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let mut spec = CommandSpec::new(&self.command);
        if let Some(user) = &self.user {
            spec = spec.user(&Account::named(user)?);
        }
        for (name, value) in &self.environment {
            spec = spec.env(name, value);
        }
        if let Some(directory) = &self.directory {
            spec = spec.directory(directory);
        }
        let timeout = format!("--timeout={}", self.answer_timeout_seconds);
        let spec = spec.arg("inspect").arg(method).arg("--json").arg(timeout);
        let limit = LOADING + Duration::from_secs(self.answer_timeout_seconds);
        let finished = spec.run(OUTPUT, limit, stop)?;
        if finished.status.code() == Some(NOBODY) {
            return Ok(());
        }
        let output = finished.output()?;
        let answer = |what: &str| SourceError::Answer {
            server: self.command.join(" "),
            what: format!("inspect {method}: {what}; see what it prints, and correct the setting \"command\""),
        };
        // Warnings of the application may stand before it.
        let line = output.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"{"));
        let line = line.ok_or_else(|| answer("it printed no JSON"))?;
        let workers: BTreeMap<String, Vec<Value>> =
            serde_json::from_slice(line).map_err(|_| answer("its JSON is not a list of tasks for each worker"))?;
        for (worker, tasks) in workers {
            let count = tasks.len() as u64;
            let active = method == "active";
            *(if active { &mut inspection.active } else { &mut inspection.reserved }) += count;
            for task in tasks.iter().take(TASKS.saturating_sub(inspection.examples.len())) {
                let text = |key: &str| task[key].as_str().unwrap_or_default().chars().take(NAME).collect();
                let (name, id, worker) = (text("name"), text("id"), worker.clone());
                inspection.examples.push(Task { worker, name, id, active });
            }
            inspection.workers.insert(worker);
        }
        Ok(())
    }
}
