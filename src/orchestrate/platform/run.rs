//! Steps, one after another, and their undoing in reverse.
//!
//! Invariants: a step's undoing is in the journal before the step begins; undoing goes on when one part of it fails, and
//! what failed stays in the journal, so that `resume` tries it again; nobody stops an undoing, since it is what makes
//! the platform work again.

use std::time::Instant;

use jiff::Timestamp;

use crate::format::set::StepRecord;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::journal::{Due, Entry, Found, Header, Journal, Undo};
use crate::orchestrate::platform::state::StateDir;
use crate::progress::{Monitor, StepEvent, StepState};
use crate::repo::chain;

/// A step: what it is called, and how it will be undone.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its id, unique in the run.
    pub id: String,
    /// What it does, for people.
    pub title: String,
    /// How it will be undone; none when it changes nothing.
    pub undo: Option<Undo>,
}

/// Undoes something; what was seen.
pub type Undoing<'a> = dyn FnMut(&Undo) -> Result<String, OrchestrateError> + 'a;

/// A run under way.
pub struct Run<'a> {
    journal: Journal,
    monitor: &'a dyn Monitor,
    due: Vec<Due>,
    log: Vec<StepRecord>,
}

impl<'a> Run<'a> {
    /// Begins a run. The caller holds the lock.
    pub fn begin(state: &StateDir, header: Header, monitor: &'a dyn Monitor) -> Result<Self, OrchestrateError> {
        Ok(Run { journal: Journal::create(state, header)?, monitor, due: Vec::new(), log: Vec::new() })
    }

    /// Goes on where a run was cut off: everything that is due is still to be undone.
    pub fn resume(state: &StateDir, found: &Found, monitor: &'a dyn Monitor) -> Result<Self, OrchestrateError> {
        // The oldest first, as if this run had begun them.
        let due = found.due.iter().rev().cloned().collect();
        Ok(Run { journal: found.resume(state)?, monitor, due, log: Vec::new() })
    }

    /// What happened so far.
    pub fn log(&self) -> &[StepRecord] {
        &self.log
    }

    /// What has to be undone, in the order in which it was begun.
    pub fn due(&self) -> &[Due] {
        &self.due
    }

    /// Does a step. `act` returns what was seen, for people. A step that fails may have done a part of its work, so its
    /// undoing stays due.
    pub fn step(
        &mut self,
        step: &Step,
        act: impl FnOnce() -> Result<String, OrchestrateError>,
    ) -> Result<(), OrchestrateError> {
        if self.monitor.interrupted() {
            return Err(OrchestrateError::Interrupted);
        }
        let (time, began) = (Timestamp::now(), Instant::now());
        let Step { id, title, undo } = step.clone();
        self.journal.append(&Entry::Begin { step: id.clone(), title: title.clone(), time, undo: undo.clone() })?;
        self.due.extend(undo.map(|undo| Due { step: id.clone(), title: title.clone(), undo }));
        self.tell(&id, &title, StepState::Running, "");
        let result = act();
        let (state, detail) = match &result {
            Ok(seen) => (StepState::Done, seen.clone()),
            Err(error) => (StepState::Failed, chain(error)),
        };
        self.record(&id, &title, state, (time, began), detail);
        match result {
            Ok(_) => self.journal.append(&Entry::Done { step: id, time: Timestamp::now() }),
            Err(error @ OrchestrateError::Interrupted) => Err(error),
            Err(error) => Err(OrchestrateError::Step { step: id, title, source: Box::new(error) }),
        }
    }

    /// Undoes what every run undoes at its end: services up again, in reverse order. What failed is returned.
    pub fn close(&mut self, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        self.unwind(Undo::belongs_to_every_end, undoing)
    }

    /// Undoes everything. What failed is returned.
    pub fn undo_all(&mut self, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        self.unwind(|_| true, undoing)
    }

    fn unwind(&mut self, which: impl Fn(&Undo) -> bool, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        let mut failures = Vec::new();
        let mut kept = Vec::new();
        while let Some(due) = self.due.pop() {
            if !which(&due.undo) {
                kept.push(due);
                continue;
            }
            let (time, began) = (Timestamp::now(), Instant::now());
            let title = format!("undo: {}", due.title);
            self.tell(&due.step, &title, StepState::Running, "");
            match undoing(&due.undo) {
                Ok(seen) => {
                    self.record(&due.step, &title, StepState::Undone, (time, began), seen);
                    // If this cannot be written, a resume does it once more, which changes nothing.
                    failures.extend(self.discharge(&due.step).err());
                }
                Err(error) => {
                    self.record(&due.step, &title, StepState::Stuck, (time, began), chain(&error));
                    failures.push(OrchestrateError::Step { step: due.step.clone(), title, source: Box::new(error) });
                    kept.push(due);
                }
            }
        }
        kept.reverse();
        self.due = kept;
        failures
    }

    /// What was due is no longer to be undone: the run went well, and what it changed stays.
    pub fn keep_all(&mut self) -> Result<(), OrchestrateError> {
        while let Some(due) = self.due.last() {
            let step = due.step.clone();
            self.discharge(&step)?;
            self.due.pop();
        }
        Ok(())
    }

    fn discharge(&mut self, step: &str) -> Result<(), OrchestrateError> {
        self.journal.append(&Entry::Undone { step: step.to_owned(), time: Timestamp::now() })
    }

    /// Ends the run. A journal with something due stays, for `resume`.
    pub fn finish(self) -> Result<Vec<StepRecord>, OrchestrateError> {
        if self.due.is_empty() {
            self.journal.finish()?;
        }
        Ok(self.log)
    }

    fn record(&mut self, step: &str, title: &str, state: StepState, began: (Timestamp, Instant), detail: String) {
        self.tell(step, title, state, &detail);
        self.log.push(StepRecord {
            title: title.to_owned(),
            state: state.word().to_owned(),
            time: began.0,
            milliseconds: began.1.elapsed().as_millis() as u64,
            detail,
        });
    }

    fn tell(&self, step: &str, title: &str, state: StepState, detail: &str) {
        self.monitor.step(&StepEvent { step, title, state, detail });
    }
}
