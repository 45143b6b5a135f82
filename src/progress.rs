//! What the core tells an observer while it works. A leaf: it knows nothing of the layers, and prints nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The part of an operation that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bringing the index up to date.
    Index,
    /// Reading sources and storing them.
    Backup,
    /// Writing to a target.
    Restore,
    /// Reading metadata and following references.
    Check,
    /// Reading back stored data.
    ReadData,
    /// Finding out what is needed.
    Mark,
    /// Rewriting and removing packs.
    Sweep,
    /// Looking at every entry of trees.
    Search,
    /// Looking at two trees side by side.
    Compare,
}

/// Something that an operator should know and that does not stop the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The file, object or server concerned, for people.
    pub subject: String,
    /// What happened and, where there is one, what to do.
    pub message: String,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It has begun.
    Running,
    /// It ended well.
    Done,
    /// It failed.
    Failed,
    /// What it changed is as before.
    Undone,
    /// Undoing it failed.
    Stuck,
}

impl StepState {
    /// The word for people and records.
    pub fn word(self) -> &'static str {
        match self {
            StepState::Running => "running",
            StepState::Done => "done",
            StepState::Failed => "failed",
            StepState::Undone => "undone",
            StepState::Stuck => "stuck",
        }
    }
}

/// A step of a longer run begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepEvent<'a> {
    /// The step's id in the plan.
    pub step: &'a str,
    /// What it does, for people.
    pub title: &'a str,
    /// What became of it.
    pub state: StepState,
    /// What was seen, or why it failed.
    pub detail: &'a str,
}

/// Hears of progress. Called from several threads; must return quickly.
pub trait Monitor: Send + Sync {
    /// A phase begins; `total` is its amount of work where it is known (bytes, or items for [`Phase::Mark`],
    /// [`Phase::Index`], [`Phase::Check`], [`Phase::Search`] and [`Phase::Compare`]).
    fn begin(&self, _phase: Phase, _total: Option<u64>) {}
    /// So many more units of the current phase are done.
    fn advance(&self, _units: u64) {}
    /// What is being worked on, for people (a path or an id).
    fn item(&self, _name: &str) {}
    /// An entry of a target is changed, or would be in a dry run: "write", "replace", "keep" or "delete", and its path
    /// for people. A restore that is no dry run tells deletions only.
    fn action(&self, _action: &'static str, _path: &str) {}
    /// The current phase has ended.
    fn end(&self) {}
    /// A step of a longer run begins or ends.
    fn step(&self, _event: &StepEvent<'_>) {}
    /// Something to be shown and counted.
    fn notice(&self, _notice: Notice) {}
    /// True when the operator wants to stop: the core then returns its layer's `Interrupted` error at the next
    /// safe point, publishing nothing.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Hears nothing.
pub struct Silent;

impl Monitor for Silent {}

/// A flag that signal handlers set and [`Monitor::interrupted`] reads.
#[derive(Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// The flag itself, for whoever sets it.
    pub fn shared(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
