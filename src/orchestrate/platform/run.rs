//! Steps, one after another, and their undoing in reverse.
//!
//! Invariants: a step's undoing is in the journal before the step begins; undoing goes on when one part of it fails, and
//! what failed stays in the journal, so that `resume` tries it again; nobody stops an undoing, since it is what makes
//! the platform work again.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// Undoes things, one after another; what was seen of each.
pub type Undoing<'a> = dyn FnMut(&[Undo]) -> Vec<Result<String, OrchestrateError>> + 'a;

/// A run under way. Components are captured beside each other, so steps may be done from several threads.
pub struct Run<'a> {
    monitor: &'a dyn Monitor,
    inner: Mutex<Inner>,
}

struct Inner {
    journal: Journal,
    due: Vec<Due>,
    /// Steps whose undoing was tried and failed: it stays due, however well the rest goes.
    stuck: BTreeSet<String>,
    log: Vec<StepRecord>,
}

impl<'a> Run<'a> {
    /// Begins a run. The caller holds the lock.
    pub fn begin(state: &StateDir, header: Header, monitor: &'a dyn Monitor) -> Result<Self, OrchestrateError> {
        Ok(Run::new(Journal::create(state, header)?, Vec::new(), monitor))
    }

    /// Goes on where a run was cut off: everything that is due is still to be undone.
    pub fn resume(state: &StateDir, found: &Found, monitor: &'a dyn Monitor) -> Result<Self, OrchestrateError> {
        // The oldest first, as if this run had begun them.
        let due = found.due.iter().rev().cloned().collect();
        Ok(Run::new(found.resume(state)?, due, monitor))
    }

    fn new(journal: Journal, due: Vec<Due>, monitor: &'a dyn Monitor) -> Self {
        Run { monitor, inner: Mutex::new(Inner { journal, due, stuck: BTreeSet::new(), log: Vec::new() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far, in the order in which it ended.
    pub fn log(&self) -> Vec<StepRecord> {
        self.inner().log.clone()
    }

    /// What has to be undone, in the order in which it was begun.
    pub fn due(&self) -> Vec<Due> {
        self.inner().due.clone()
    }

    /// Does a step. `act` returns what was seen, for people, and what the caller wants to know. A step that fails may
    /// have done a part of its work, so its undoing stays due.
    pub fn step<T>(
        &self,
        step: &Step,
        act: impl FnOnce() -> Result<(String, T), OrchestrateError>,
    ) -> Result<T, OrchestrateError> {
        if self.monitor.interrupted() {
            return Err(OrchestrateError::Interrupted);
        }
        let (time, began) = (Timestamp::now(), Instant::now());
        let Step { id, title, undo } = step.clone();
        {
            let mut inner = self.inner();
            let entry = Entry::Begin { step: id.clone(), title: title.clone(), time, undo: undo.clone() };
            inner.journal.append(&entry)?;
            inner.due.extend(undo.map(|undo| Due { step: id.clone(), title: title.clone(), undo }));
        }
        self.tell(&id, &title, StepState::Running, "");
        match act() {
            Ok((seen, value)) => {
                self.record(&id, &title, StepState::Done, (time, began), seen);
                self.inner().journal.append(&Entry::Done { step: id, time: Timestamp::now() })?;
                Ok(value)
            }
            Err(error) => {
                self.record(&id, &title, StepState::Failed, (time, began), chain(&error));
                // A signal also makes a step fail that waits for a server's answer (EINTR); the record says what happened.
                Err(match error.is_interrupted() || self.monitor.interrupted() {
                    true => OrchestrateError::Interrupted,
                    false => OrchestrateError::Step { step: id, title, source: Box::new(error) },
                })
            }
        }
    }

    /// Undoes what one step changed, before the end: what it stopped need not be down any longer.
    pub fn undo_step(&self, step: &str, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        self.unwind(|due| due.step == step, undoing)
    }

    /// Undoes what every run undoes at its end: services up again, in reverse order. What failed is returned.
    pub fn close(&self, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        self.unwind(|due| due.undo.belongs_to_every_end(), undoing)
    }

    /// Undoes everything but the edit of a file, once services are up again: the server that reads it would have to be
    /// started anew beneath them. What failed is returned.
    pub fn undo_late(&self, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        let mut failures = self.unwind(|due| !matches!(due.undo, Undo::RestoreFile { .. }), undoing);
        failures.extend(self.keep_changes().err());
        failures
    }

    /// Undoes everything. What failed is returned.
    pub fn undo_all(&self, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        self.unwind(|_| true, undoing)
    }

    fn unwind(&self, which: impl Fn(&Due) -> bool, undoing: &mut Undoing<'_>) -> Vec<OrchestrateError> {
        let mut failures = Vec::new();
        let mut tried = BTreeSet::new();
        loop {
            let batch = self.next_batch(&|due| which(due) && !tried.contains(&due.step));
            if batch.is_empty() {
                return failures;
            }
            let title = |due: &Due| format!("undo: {}", due.title);
            let began = (Timestamp::now(), Instant::now());
            for due in &batch {
                tried.insert(due.step.clone());
                self.tell(&due.step, &title(due), StepState::Running, "");
            }
            let undos: Vec<Undo> = batch.iter().map(|due| due.undo.clone()).collect();
            let mut results = undoing(&undos).into_iter();
            for due in batch {
                let untold = || Err(OrchestrateError::Unfit("it is not known what became of it".to_owned()));
                let title = title(&due);
                match results.next().unwrap_or_else(untold) {
                    Ok(seen) => {
                        self.record(&due.step, &title, StepState::Undone, began, seen);
                        // If this cannot be written, a resume does it once more, which changes nothing.
                        failures.extend(self.discharge(&due.step).err());
                    }
                    Err(error) => {
                        self.inner().stuck.insert(due.step.clone());
                        self.record(&due.step, &title, StepState::Stuck, began, chain(&error));
                        failures.push(OrchestrateError::Step { step: due.step, title, source: Box::new(error) });
                    }
                }
            }
        }
    }

    /// What is to be undone next: the newest, and together with units that are started those that follow, since it is
    /// looked at once for all whether they stay up.
    fn next_batch(&self, which: &dyn Fn(&Due) -> bool) -> Vec<Due> {
        let inner = self.inner();
        let mut waiting = inner.due.iter().rev().filter(|due| which(due)).peekable();
        let mut batch = Vec::from_iter(waiting.next().cloned());
        let starts = |due: &Due| matches!(due.undo, Undo::StartUnits { .. });
        while batch.last().is_some_and(starts) && waiting.peek().is_some_and(|due| starts(due)) {
            batch.extend(waiting.next().cloned());
        }
        batch
    }

    /// What only a failure would have undone is no longer to be undone: the run went well, and what it changed stays. A
    /// service that could not be started is still due, and so is what it was tried to undo in vain.
    pub fn keep_changes(&self) -> Result<(), OrchestrateError> {
        let stuck = self.inner().stuck.clone();
        let kept = |due: &Due| !due.undo.belongs_to_every_end() && !stuck.contains(&due.step);
        let kept = self.due().into_iter().filter(kept);
        kept.into_iter().rev().try_for_each(|due| self.discharge(&due.step))
    }

    fn discharge(&self, step: &str) -> Result<(), OrchestrateError> {
        let mut inner = self.inner();
        inner.due.retain(|due| due.step != step);
        inner.journal.append(&Entry::Undone { step: step.to_owned(), time: Timestamp::now() })
    }

    /// What was stopped shall stay so until somebody starts it: `resume` leaves it alone.
    pub fn stay_at_rest(&self) -> Result<(), OrchestrateError> {
        self.inner().journal.append(&Entry::AtRest { time: Timestamp::now() })
    }

    /// Ends the run. A journal with something due stays, for `resume`.
    pub fn finish(self) -> Result<Vec<StepRecord>, OrchestrateError> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        if inner.due.is_empty() {
            inner.journal.finish()?;
        }
        Ok(inner.log)
    }

    fn record(&self, step: &str, title: &str, state: StepState, began: (Timestamp, Instant), detail: String) {
        self.tell(step, title, state, &detail);
        self.inner().log.push(StepRecord {
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
