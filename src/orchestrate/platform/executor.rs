//! What every part of a run needs: the profile, the plan that is followed, the run with its journal, and who hears of it.
//!
//! Invariant: a step that is done is one of the plan, under the plan's id and title, so what `cairn platform plan` shows
//! is what is done.

use std::sync::{Mutex, PoisonError};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::plan::{Mode, Plan, PlannedStep};
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::run::{Run, Step};
use crate::progress::{Monitor, Notice, StepEvent, StepWork};

/// So many notices of a component are kept for its record.
const MAX_NOTES: usize = 100;

/// What every part of a run needs.
#[derive(Clone, Copy)]
pub struct Executor<'a> {
    /// The platform.
    pub profile: &'a Profile,
    /// What is followed.
    pub plan: &'a Plan,
    /// What was begun.
    pub run: &'a Run<'a>,
    /// Who hears of it.
    pub monitor: &'a dyn Monitor,
}

impl<'a> Executor<'a> {
    /// Whether the platform is at rest while it is captured.
    pub fn is_full(&self) -> bool {
        self.plan.mode == Mode::Full
    }

    /// Whether the operator wants to stop, for drivers.
    pub fn stop(&self) -> impl Fn() -> bool + Sync + 'a {
        let monitor = self.monitor;
        move || monitor.interrupted()
    }

    /// Whether the plan has this step.
    pub fn plans(&self, id: &str) -> bool {
        self.planned(id).is_some()
    }

    /// Says what a step is waiting for, or working on.
    pub fn tell_item(&self, id: &str, text: &str) {
        self.monitor.within(id, StepWork::Item(text));
    }

    fn planned(&self, id: &str) -> Option<&'a PlannedStep> {
        self.plan.steps.iter().find(|step| step.id == id)
    }

    /// Does a step of the plan.
    pub fn step<T>(
        &self,
        id: &str,
        undo: Option<Undo>,
        act: impl FnOnce() -> Result<(String, T), OrchestrateError>,
    ) -> Result<T, OrchestrateError> {
        let planned = self.planned(id).ok_or_else(|| OrchestrateError::Unfit(format!("the plan has no step {id}")))?;
        self.run.step(&Step { id: id.to_owned(), title: planned.title.clone(), undo }, act)
    }
}

/// Hears what an operation tells, hands it on, and keeps the notices for the component's record.
pub struct Notes<'a> {
    outer: &'a dyn Monitor,
    kept: Mutex<(Vec<String>, usize)>,
}

impl<'a> Notes<'a> {
    /// Hands on to `outer`.
    pub fn new(outer: &'a dyn Monitor) -> Self {
        Notes { outer, kept: Mutex::default() }
    }

    /// Tells something that belongs into the record.
    pub fn tell(&self, subject: &str, message: impl Into<String>) {
        self.notice(Notice { subject: subject.to_owned(), message: message.into() });
    }

    /// What was told.
    pub fn into_vec(self) -> Vec<String> {
        let (mut notes, more) = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        if more > 0 {
            notes.push(format!("and {more} more; the log of the run has them all"));
        }
        notes
    }
}

impl Monitor for Notes<'_> {
    fn step(&self, event: &StepEvent<'_>) {
        self.outer.step(event);
    }

    fn within(&self, step: &str, work: StepWork<'_>) {
        self.outer.within(step, work);
    }

    fn notice(&self, notice: Notice) {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.0.len() < MAX_NOTES {
                true => kept.0.push(notice.message.clone()),
                false => kept.1 += 1,
            }
        }
        self.outer.notice(notice);
    }

    fn interrupted(&self) -> bool {
        self.outer.interrupted()
    }
}
