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

/// Work within a step of a longer run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepWork<'a> {
    /// [`Monitor::begin`].
    Begin(Phase, Option<u64>),
    /// [`Monitor::advance`].
    Advance(u64),
    /// [`Monitor::item`].
    Item(&'a str),
    /// [`Monitor::end`].
    End,
}

/// Hears of progress. Called from several threads; must return quickly.
pub trait Monitor: Send + Sync {
    /// A phase begins; `total` is its amount of work where it is known (bytes; snapshots for [`Phase::Mark`]; items
    /// for [`Phase::Index`], [`Phase::Check`], [`Phase::Search`] and [`Phase::Compare`]).
    fn begin(&self, _phase: Phase, _total: Option<u64>) {}
    /// The current phase's amount of work, learnt after it began.
    fn total(&self, _total: u64) {}
    /// Whether somebody looks at how far a phase is, so that a total is worth some work of its own.
    fn wants_total(&self) -> bool {
        false
    }
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
    /// Work goes on within a step. Several steps may work at the same time.
    fn within(&self, _step: &str, _work: StepWork<'_>) {}
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

/// Tells the progress of an operation as work within a step, so that several operations can run beside each other.
pub struct WithinStep<'a> {
    step: &'a str,
    outer: &'a dyn Monitor,
}

impl<'a> WithinStep<'a> {
    /// What this hears, `outer` hears of the step.
    pub fn new(step: &'a str, outer: &'a dyn Monitor) -> Self {
        WithinStep { step, outer }
    }
}

impl Monitor for WithinStep<'_> {
    fn begin(&self, phase: Phase, total: Option<u64>) {
        self.outer.within(self.step, StepWork::Begin(phase, total));
    }

    fn advance(&self, units: u64) {
        self.outer.within(self.step, StepWork::Advance(units));
    }

    fn item(&self, name: &str) {
        self.outer.within(self.step, StepWork::Item(name));
    }

    fn end(&self) {
        self.outer.within(self.step, StepWork::End);
    }

    fn step(&self, event: &StepEvent<'_>) {
        self.outer.step(event);
    }

    fn notice(&self, notice: Notice) {
        self.outer.notice(notice);
    }

    fn interrupted(&self) -> bool {
        self.outer.interrupted()
    }
}

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
