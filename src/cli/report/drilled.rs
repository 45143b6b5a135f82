//! The page of a drill: what was restored into servers of its own, what was compared, what differs, and how long it took;
//! also of one that failed, or was killed before it could tell its end.
//!
//! Invariant: it says that something is proven only once the proof is in the repository.

use jiff::Timestamp;

use super::{Page, begin, duration, end, figures, list, steps};
use crate::cli::exit::Exit;
use crate::cli::render::{bytes, time};
use crate::orchestrate::platform::choose::words;
use crate::orchestrate::platform::drill::plan::DrillPlan;
use crate::orchestrate::platform::drill::{Drilled, Outcome, State};
use crate::repo::chain;

/// A drill.
#[derive(Clone, Copy, Debug)]
pub struct Drill<'r> {
    /// What was to be done.
    pub plan: &'r DrillPlan,
    /// The machine that it was done on.
    pub host: &'r str,
    /// When it began.
    pub began: Timestamp,
    /// What it came to; none while it is under way, or when it could not begin.
    pub outcome: Option<&'r Outcome>,
    /// The exit status; none while it is under way.
    pub exit: Option<Exit>,
}

/// The word for what became of a component.
pub fn state(state: State) -> &'static str {
    match state {
        State::Proven => "proven",
        State::Uncompared => "restored, NOT compared, nothing is proven",
        State::NotStarted => "NOT LOOKED AT, nothing is proven",
        State::Hindered => "NOT LOOKED AT TO ITS END, nothing is proven",
        State::Failed => "FAILED",
        State::Different => "DIFFERENT",
    }
}

/// As styles call it.
fn short(state: State) -> &'static str {
    match state {
        State::Proven => "complete",
        State::Uncompared => "partial",
        State::NotStarted | State::Hindered => "skipped",
        State::Failed | State::Different => "failed",
    }
}

impl Drill<'_> {
    fn told(&self) -> (&'static str, &'static str) {
        match self.exit {
            None => (
                "running",
                "under way, or killed before it could tell its end: then the next drill removes what it left",
            ),
            Some(Exit::Done) => ("complete", "everything that was asked for is equal to what was recorded, and proven"),
            Some(Exit::Unread) => ("partial", "a part of what was asked for is proven: see below which"),
            Some(Exit::Interrupted) => ("interrupted", "it was asked to stop, and proves nothing"),
            Some(_) => ("failed", "it is not proven: see below why"),
        }
    }

    fn components(&self) -> &[Drilled] {
        self.outcome.map(|outcome| outcome.components.as_slice()).unwrap_or_default()
    }
}

/// The page.
pub fn html(drill: &Drill<'_>) -> String {
    let (plan, (word, sentence)) = (drill.plan, drill.told());
    let mut page = Page::default();
    let title = format!("Drill of backup set {}", plan.choice.set.short());
    begin(&mut page, &title);
    page.raw("<header>\n");
    page.element("h1", &title);
    page.raw(&format!("<p><span class=\"state {word}\">{word}</span>, "));
    page.text(sentence);
    page.raw("</p>\n<p class=\"soft id\">");
    page.text(&plan.choice.set.to_string());
    page.raw("</p>\n");
    let mut values = vec![
        ("Point in time", time(plan.choice.time)),
        ("Of the machine", plan.choice.host.clone()),
        ("On the machine", drill.host.to_owned()),
        ("Began", time(drill.began)),
        ("Proven before", plan.choice.proven.map_or_else(|| "never".to_owned(), time)),
    ];
    if let Some(exit) = drill.exit {
        let sum = |of: fn(&Drilled) -> u64| drill.components().iter().map(of).fold(0, u64::saturating_add);
        values.push(("Restoring took", duration(sum(|one| one.restore_milliseconds))));
        values.push(("Comparing took", duration(sum(|one| one.compare_milliseconds))));
        values.push(("Exit status", (exit as u8).to_string()));
    }
    figures(&mut page, &values);
    page.raw("</header>\n");
    if let Some(outcome) = drill.outcome {
        list(&mut page, "What ended it", &Vec::from_iter(outcome.error.iter().map(|error| chain(error))));
        list(&mut page, "Left behind", &Vec::from_iter(outcome.stuck.iter().map(|error| chain(error))));
    }
    list(&mut page, "In the way", &plan.obstacles);
    components(&mut page, drill);
    let of = |lines: fn(&Drilled) -> &Vec<String>| -> Vec<String> {
        let told = |one: &Drilled| {
            let name = one.component.name();
            lines(one).iter().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
        };
        drill.components().iter().flat_map(told).collect()
    };
    list(&mut page, "What differs", &of(|one| &one.differences));
    list(&mut page, "To be known", &of(|one| &one.notes));
    let left_out = plan.left_out.iter().map(|(component, why)| format!("{}: {why}", component.name()));
    list(&mut page, "Left out", &Vec::from_iter(left_out));
    let passed = plan.choice.passed.iter();
    let passed = passed.map(|one| format!("{} of {}: it is {}", one.id.short(), time(one.time), words(&one.flaws)));
    list(&mut page, "Sets that were passed over", &Vec::from_iter(passed));
    steps(&mut page, drill.outcome.map(|outcome| outcome.steps.as_slice()).unwrap_or_default());
    end(&mut page, concat!("cairn ", env!("CARGO_PKG_VERSION")), &plan.choice.set.short(), "tells of the set itself");
    page.html
}

fn components(page: &mut Page, drill: &Drill<'_>) {
    page.raw("<h2>Components</h2>\n");
    page.table(&["Component", "State", "What", "#Size", "#Restored in", "#Compared in"], |page| {
        for intent in &drill.plan.components {
            let found = drill.components().iter().find(|one| one.component == intent.component);
            let word = found.map_or("pending", |one| short(one.state));
            let versions =
                found.iter().flat_map(|one| &one.versions).map(|(name, version)| format!("{name} {version}"));
            let told = found.map(|one| format!("{}: {}", state(one.state), one.detail));
            let what: Vec<String> = told.into_iter().chain(versions).chain(intent.trouble.clone()).collect();
            let took = |of: fn(&Drilled) -> u64| found.map_or_else(String::new, |one| duration(of(one)));
            page.row(&[
                ("Component", intent.component.name()),
                ("State", word),
                ("What", &what.join("; ")),
                ("#Size", &bytes(intent.bytes)),
                ("#Restored in", &took(|one| one.restore_milliseconds)),
                ("#Compared in", &took(|one| one.compare_milliseconds)),
            ]);
        }
    });
}
