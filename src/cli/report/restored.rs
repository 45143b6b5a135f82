//! The page of a restore: what came back, what it was compared with, where what was there before is now, and what was
//! passed over; also of one that failed, or was killed before it could tell its end.
//!
//! Invariant: it says that something is restored only of what was compared.

use jiff::Timestamp;

use super::{Page, begin, clock, duration, end, figures, list, steps, unpublished};
use crate::cli::render::{bytes, time};
use crate::format::set::StepRecord;
use crate::orchestrate::platform::choose::words;
use crate::orchestrate::platform::restore::plan::RestorePlan;
use crate::orchestrate::platform::restore::{Restored, State};

/// How a restore has ended, or that it has not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was asked for is back and equal.
    Whole,
    /// Something of it is back.
    Part,
    /// Nothing of it is.
    Without(unpublished::End),
}

/// A restore.
#[derive(Clone, Debug)]
pub struct Restoration<'r> {
    /// What was to be done.
    pub plan: &'r RestorePlan,
    /// The machine that it was done on.
    pub host: &'r str,
    /// When it began.
    pub began: Timestamp,
    /// When this was written.
    pub now: Timestamp,
    /// How it ended.
    pub end: End,
    /// The exit status; none while it is under way.
    pub exit: Option<u8>,
    /// What became of each component.
    pub components: &'r [Restored],
    /// What ended it early.
    pub failures: Vec<String>,
    /// What could not be undone.
    pub stuck: Vec<String>,
    /// What was done, in order.
    pub steps: &'r [StepRecord],
}

/// The word for what became of a component.
pub fn state(state: State) -> &'static str {
    match state {
        State::Restored => "restored",
        State::Uncompared => "restored, NOT compared",
        State::Failed => "FAILED, and is as it was before",
    }
}

/// The same, where there is little room.
fn short(state: State) -> &'static str {
    match state {
        State::Restored => "restored",
        State::Uncompared => "uncompared",
        State::Failed => "failed",
    }
}

impl Restoration<'_> {
    fn word(&self) -> &'static str {
        match self.end {
            End::Whole => "complete",
            End::Part => "partial",
            End::Without(end) => end.word(),
        }
    }

    fn sentence(&self) -> &'static str {
        match self.end {
            End::Whole => "everything that was asked for is back, and equal to what was recorded",
            End::Part => "a part of it is back: see below which",
            End::Without(end) => match end {
                unpublished::End::NotYet => {
                    "under way, or killed before it could tell its end: then `cairn platform resume` makes everything as it was"
                }
                unpublished::End::NotBegun => "something is in the way, and nothing was changed",
                unpublished::End::Interrupted => "it was asked to stop, and everything is as it was before",
                unpublished::End::Failed => "it failed, and everything is as it was before",
                unpublished::End::Stuck => {
                    "something is not as it was before: see below, then run `cairn platform resume`"
                }
            },
        }
    }
}

/// The page.
pub fn html(run: &Restoration<'_>) -> String {
    let mut page = Page::default();
    let title = format!("Restore of backup set {}", run.plan.choice.set.short());
    begin(&mut page, &title);
    page.raw("<header>\n");
    page.element("h1", &title);
    page.raw(&format!("<p><span class=\"state {0}\">{0}</span>, ", run.word()));
    page.text(run.sentence());
    page.raw("</p>\n<p class=\"soft id\">");
    page.text(&run.plan.choice.set.to_string());
    page.raw("</p>\n");
    head(&mut page, run);
    page.raw("</header>\n");
    list(&mut page, "What ended it", &run.failures);
    list(&mut page, "Not as it was", &run.stuck);
    list(&mut page, "In the way", &run.plan.obstacles);
    components(&mut page, run);
    let aside = run.components.iter().flat_map(|one| one.aside.iter().map(ToString::to_string));
    list(&mut page, "Moved aside", &Vec::from_iter(aside));
    let note = |one: &Restored| {
        let name = one.component.name();
        one.notes.iter().map(|note| format!("{name}: {note}")).collect::<Vec<_>>()
    };
    list(&mut page, "To be known", &Vec::from_iter(run.components.iter().flat_map(note)));
    let left_out = run.plan.left_out.iter().map(|(component, why)| format!("{}: {why}", component.name()));
    list(&mut page, "Left out", &Vec::from_iter(left_out));
    let passed = run
        .plan
        .choice
        .passed
        .iter()
        .map(|passed| format!("{} of {}: it is {}", passed.id.short(), time(passed.time), words(&passed.flaws)));
    list(&mut page, "Sets that were passed over", &Vec::from_iter(passed));
    steps(&mut page, run.steps);
    let program = concat!("cairn ", env!("CARGO_PKG_VERSION"));
    end(&mut page, program, &run.plan.choice.set.short(), "tells of the set itself");
    page.html
}

fn head(page: &mut Page, run: &Restoration<'_>) {
    let plan = run.plan;
    let proven = plan.choice.proven.map_or_else(|| "never".to_owned(), time);
    let mut values = vec![
        ("Point in time", time(plan.choice.time)),
        ("Of the machine", plan.choice.host.clone()),
        ("Onto the machine", run.host.to_owned()),
        ("Proven", proven),
        ("Began", time(run.began)),
    ];
    if !plan.choice.flaws.is_empty() {
        values.insert(1, ("In spite of it being", words(&plan.choice.flaws)));
    }
    if let Some(exit) = run.exit {
        let lasted = run.now.duration_since(run.began).as_millis().max(0) as u64;
        values.extend([("Ended", clock(run.now)), ("Lasted", duration(lasted)), ("Exit status", exit.to_string())]);
    }
    figures(page, &values);
}

fn components(page: &mut Page, run: &Restoration<'_>) {
    page.raw("<h2>Components</h2>\n");
    page.table(&["Component", "State", "Compared, or why not", "#Size", "#Time"], |page| {
        for intent in &run.plan.components {
            let found = run.components.iter().find(|one| one.component == intent.component);
            let (state, detail, took) = match found {
                Some(one) => (short(one.state), one.detail.as_str(), duration(one.milliseconds)),
                None => ("as before", "", String::new()),
            };
            page.row(&[
                ("Component", intent.component.name()),
                ("State", state),
                ("Compared, or why not", detail),
                ("#Size", &bytes(intent.bytes)),
                ("#Time", &took),
            ]);
        }
    });
}
