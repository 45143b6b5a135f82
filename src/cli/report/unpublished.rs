//! The page of a run that published no backup set, so that the page of an earlier one is not taken for its own.
//!
//! Invariant: it never looks like the page of a set: its title, its first line and its state say that there is none.

use jiff::Timestamp;

use super::{Page, begin, duration, end, figures, list, steps};
use crate::cli::render::time;
use crate::format::set::StepRecord;
use crate::progress::StepState;

/// How a run that made nothing has ended, or that it has not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is under way, or was killed before it could tell its end.
    NotYet,
    /// Nothing was begun.
    NotBegun,
    /// Somebody asked it to stop; everything is as it was.
    Interrupted,
    /// It failed; everything is as it was.
    Failed,
    /// Something is not as it was.
    Stuck,
}

impl End {
    /// In a word, as styles call it.
    pub fn word(self) -> &'static str {
        match self {
            End::NotYet => "running",
            End::Interrupted => "interrupted",
            End::NotBegun | End::Failed => "failed",
            End::Stuck => "stuck",
        }
    }
}

/// A run without a backup set.
#[derive(Clone, Debug)]
pub struct Unpublished<'r> {
    /// The platform.
    pub profile: &'r str,
    /// The machine.
    pub host: &'r str,
    /// When the run began.
    pub began: Timestamp,
    /// When this was written.
    pub now: Timestamp,
    /// How it ended.
    pub end: End,
    /// The exit status; none while it is under way.
    pub exit: Option<u8>,
    /// What ended it.
    pub failures: Vec<String>,
    /// What could not be undone.
    pub stuck: Vec<String>,
    /// What was done, in order.
    pub steps: &'r [StepRecord],
}

impl Unpublished<'_> {
    fn sentence(&self) -> &'static str {
        match self.end {
            End::NotYet => "no backup set yet: the run is under way, or was killed before it could tell its end",
            End::NotBegun => "no backup set: the run could not begin, and nothing was changed",
            End::Interrupted => "no backup set: the run was asked to stop, and what it had changed is undone",
            End::Failed => "no backup set: the run failed, and what it had changed is undone",
            End::Stuck => "no backup set, and something of the platform is not as it was before the run",
        }
    }

    fn advice(&self) -> &'static [&'static str] {
        match self.end {
            End::NotYet => &[
                "See whether it runs, and how far it is: `systemctl status cairn-backup`, or the terminal in which it was started.",
                "If it does not run any more, it was killed: `cairn platform resume` starts what it had stopped.",
            ],
            End::NotBegun => &[
                "Remove the cause that is named above; `cairn platform preflight` shows whether a backup may begin.",
                "Then run it again: `systemctl start --no-block cairn-backup`, or `cairn platform backup`.",
            ],
            End::Interrupted => {
                &["Run it again: `systemctl start --no-block cairn-backup`, or `cairn platform backup`."]
            }
            End::Failed => &[
                "Remove the cause that is named above: each failed step has its command and its last words.",
                "Then run it again: `systemctl start --no-block cairn-backup`, or `cairn platform backup`.",
            ],
            End::Stuck => &[
                "Mend what is named under \u{201c}Not as it was\u{201d}.",
                "Then run `cairn platform resume`, which undoes what is left. Until then no backup begins.",
            ],
        }
    }

    /// What ended the run, and the failed steps that this does not tell already.
    fn causes(&self) -> Vec<String> {
        let mut causes = self.failures.clone();
        for step in self.steps.iter().filter(|step| step.state == StepState::Failed.word()) {
            if !causes.iter().any(|cause| cause.contains(&step.detail)) {
                causes.push(format!("{} failed: {}", step.title, step.detail));
            }
        }
        causes
    }
}

/// The page.
pub fn html(run: &Unpublished<'_>) -> String {
    let mut page = Page::default();
    let title = format!("No backup set of {}", run.profile);
    begin(&mut page, &title);
    page.raw("<header>\n");
    page.element("h1", &title);
    page.raw(&format!("<p><span class=\"state {0}\">{0}</span>, ", run.end.word()));
    page.text(run.sentence());
    page.raw("</p>\n");
    let mut values = vec![("Began", time(run.began)), ("Host", run.host.to_owned())];
    if let Some(exit) = run.exit {
        let lasted = run.now.duration_since(run.began).as_millis().max(0) as u64;
        values.insert(1, ("Ended", time(run.now)));
        values.extend([("Lasted", duration(lasted)), ("Exit status", exit.to_string())]);
    }
    figures(&mut page, &values);
    page.raw("</header>\n");
    list(&mut page, "What ended it", &run.causes());
    list(&mut page, "Not as it was", &run.stuck);
    page.raw("<h2>What to do</h2>\n<ul class=\"warnings\">\n");
    for advice in run.advice() {
        page.raw("<li>");
        for (at, text) in advice.split('`').enumerate() {
            page.raw(["", "<code>"][at % 2]);
            page.text(text);
            page.raw(["", "</code>"][at % 2]);
        }
        page.raw("</li>\n");
    }
    page.raw("</ul>\n");
    steps(&mut page, run.steps);
    end(
        &mut page,
        concat!("cairn ", env!("CARGO_PKG_VERSION")),
        "latest",
        "is the page of the newest set that there is",
    );
    page.html
}
