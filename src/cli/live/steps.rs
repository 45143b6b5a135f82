//! The steps that run at this moment, and how far each is. Written by those who work, read by the view.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cli::progress;
use crate::cli::render::bytes;
use crate::progress::{Phase, StepWork};

/// A rate is that of so long before now.
const RATE_OVER: Duration = Duration::from_secs(10);
/// Two looks are at least so far apart.
const LOOKS_APART: Duration = Duration::from_millis(200);

/// The steps that run, oldest first.
#[derive(Debug, Default)]
pub struct Steps {
    all: Vec<Step>,
}

/// A step that runs.
#[derive(Debug)]
pub struct Step {
    /// Its id; empty for work outside of any step.
    pub id: String,
    /// What it does, for people.
    pub title: String,
    /// When it began.
    pub began: Instant,
    /// Bytes of its work that has ended.
    ended_bytes: u64,
    /// Work of it that is counted.
    pub work: Option<Work>,
    /// What it is working on or waiting for; empty when it does not say.
    pub item: String,
    /// When it was last told of.
    pub told: Instant,
    /// How far it was when it was last told of.
    pub told_far: Option<(Option<u64>, String)>,
}

/// Work that can be counted.
#[derive(Debug)]
pub struct Work {
    /// What kind.
    pub phase: Phase,
    /// How much there is, where that is known.
    pub total: Option<u64>,
    /// How much is done.
    pub done: u64,
    began: Instant,
    looks: VecDeque<(Instant, u64)>,
}

impl Steps {
    /// A step begins. One that has the same id and never ended is forgotten.
    pub fn begin(&mut self, id: &str, title: &str, now: Instant) {
        self.end(id);
        self.all.push(Step {
            id: id.to_owned(),
            title: title.to_owned(),
            began: now,
            ended_bytes: 0,
            work: None,
            item: String::new(),
            told: now,
            told_far: None,
        });
    }

    /// A step ends; `None` when it was not known to run.
    pub fn end(&mut self, id: &str) -> Option<Step> {
        let place = self.all.iter().position(|step| step.id == id)?;
        Some(self.all.remove(place))
    }

    /// Work goes on in a step, which begins with it if it was not known to run.
    pub fn work(&mut self, id: &str, work: StepWork<'_>, now: Instant) {
        if !self.all.iter().any(|step| step.id == id) {
            if matches!(work, StepWork::End) {
                return;
            }
            self.begin(id, id, now);
        }
        let Some(step) = self.all.iter_mut().find(|step| step.id == id) else { return };
        match work {
            StepWork::Begin(phase, total) => {
                step.end_work();
                let looks = VecDeque::from([(now, 0)]);
                step.work = Some(Work { phase, total, done: 0, began: now, looks });
            }
            StepWork::Advance(units) => {
                if let Some(work) = &mut step.work {
                    work.done = work.done.saturating_add(units);
                }
            }
            StepWork::Item(name) => {
                step.item.clear();
                step.item.push_str(name);
            }
            StepWork::End => step.end_work(),
        }
    }

    /// The steps, after a look at how far each is.
    pub fn look(&mut self, now: Instant) -> &mut [Step] {
        self.all.iter_mut().filter_map(|step| step.work.as_mut()).for_each(|work| work.look(now));
        &mut self.all
    }
}

impl Step {
    fn end_work(&mut self) {
        self.item.clear();
        if let Some(work) = self.work.take().filter(|work| progress::counts_bytes(work.phase)) {
            self.ended_bytes = self.ended_bytes.saturating_add(work.done);
        }
    }

    /// Bytes that it has worked on.
    pub fn bytes(&self) -> u64 {
        let work = self.work.as_ref().filter(|work| progress::counts_bytes(work.phase));
        self.ended_bytes.saturating_add(work.map_or(0, |work| work.done))
    }
}

impl Work {
    fn look(&mut self, now: Instant) {
        if self.looks.back().is_none_or(|last| now.duration_since(last.0) >= LOOKS_APART) {
            self.looks.push_back((now, self.done));
        }
        // The one before the oldest that is young enough stays: the rate is over at least that time.
        while self.looks.get(1).is_some_and(|look| now.duration_since(look.0) > RATE_OVER) {
            self.looks.pop_front();
        }
    }

    /// Units a second, of late; 0 when it is too early to say.
    pub fn rate(&self, now: Instant) -> f64 {
        let (since, before) = self.looks.front().copied().unwrap_or((self.began, 0));
        let seconds = now.duration_since(since).as_secs_f64();
        if seconds < 0.1 { 0.0 } else { self.done.saturating_sub(before) as f64 / seconds }
    }

    /// How long what is left takes at this rate.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let (left, rate) = (self.total?.saturating_sub(self.done), self.rate(now));
        if rate < f64::MIN_POSITIVE { None } else { Duration::try_from_secs_f64(left as f64 / rate).ok() }
    }

    /// A number of its units for people.
    pub fn count(&self, units: u64) -> String {
        if progress::counts_bytes(self.phase) { bytes(units) } else { units.to_string() }
    }

    /// How far it is: `1.20 GiB of 3.40 GiB`.
    pub fn far(&self) -> String {
        let total = self.total.map(|total| format!(" of {}", self.count(total)));
        format!("{}{}", self.count(self.done), total.unwrap_or_default())
    }

    /// Its rate for people; empty when it is too early to say.
    pub fn speed(&self, now: Instant) -> String {
        let rate = self.rate(now);
        if rate < 0.5 { String::new() } else { format!("{}/s", self.count(rate as u64)) }
    }
}
