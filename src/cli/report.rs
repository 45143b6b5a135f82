//! A backup set as a page that stands alone: one file, no script, nothing loaded. For a phone as for a desk, in light and
//! in dark, and for paper. [`terminal`] has it as text; [`unpublished`] is the page of a run that made no set,
//! [`drilled`] that of a drill, [`restored`] that of a restore.
//!
//! Invariant: everything that comes from a set goes through `Page::text`, which escapes it.

pub mod drilled;
mod facts;
mod proofs;
pub mod restored;
pub mod terminal;
pub mod unpublished;

use std::fmt::Write;

use crate::cli::render::{bytes, clock, time};
use crate::format::ObjectId;
use crate::format::set::{BackupSet, Component, Consistency, Status, StepRecord};
use crate::repo::proven::SetProof;

const STYLE: &str = include_str!("report/style.css");

/// The word for a status.
pub fn status(status: Status) -> &'static str {
    match status {
        Status::Complete => "complete",
        Status::Partial => "partial",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    }
}

/// What a consistency means, in a sentence.
pub fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::OnePointInTime => "one point in time: nothing wrote while it was captured",
        Consistency::Online => "online, not one point in time: each component is consistent in itself only",
    }
}

/// What a set came to, in a line.
pub fn sentence(id: &ObjectId, set: &BackupSet) -> String {
    format!(
        "backup set {} of {}: {}, {} saved, {} added, {}",
        id.short(),
        set.profile,
        status(set.status),
        bytes(set.bytes()),
        bytes(set.stored_bytes()),
        duration(lasted(set)),
    )
}

/// A duration for people.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// The page of a set, with what drills have found of it.
pub fn html(id: &ObjectId, set: &BackupSet, proof: Option<&SetProof>) -> String {
    let mut page = Page::default();
    let title = format!("Backup set {} of {}", id.short(), set.profile);
    begin(&mut page, &title);
    head(&mut page, &title, id, (set, proof));
    warnings(&mut page, set);
    components(&mut page, set);
    for component in &set.components {
        facts::write(&mut page, component);
    }
    proofs::write(&mut page, set, proof);
    steps(&mut page, &set.steps);
    end(&mut page, &set.program, &id.short(), "makes this page again");
    page.html
}

fn begin(page: &mut Page, title: &str) {
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
    );
    page.element("title", title);
    page.raw("<style>\n");
    page.raw(STYLE);
    page.raw("</style>\n</head>\n<body>\n<main>\n");
}

/// The end of a page: who wrote it, and what the command that shows a set is good for.
fn end(page: &mut Page, program: &str, set: &str, what: &str) {
    page.raw("</main>\n<footer>Written by ");
    page.text(program);
    page.raw(". <code>cairn platform sets --report ");
    page.text(set);
    page.raw("</code> ");
    page.text(what);
    page.raw(".</footer>\n</body>\n</html>\n");
}

fn head(page: &mut Page, title: &str, id: &ObjectId, (set, proof): (&BackupSet, Option<&SetProof>)) {
    page.raw("<header>\n");
    page.element("h1", title);
    page.raw(&format!("<p><span class=\"state {0}\">{0}</span>, ", status(set.status)));
    page.text(consistency(set.consistency));
    page.raw("</p>\n<p class=\"soft id\">");
    page.text(&id.to_string());
    page.raw("</p>\n");
    let (saved, stored) = (set.bytes(), set.stored_bytes());
    let values = [
        ("Point in time", time(set.time)),
        ("Services up again", time(set.ended)),
        ("Host", set.host.clone()),
        ("Saved", bytes(saved)),
        ("Added to the repository", bytes(stored)),
        ("Saved to added", ratio(saved, stored)),
        ("Lasted", duration(lasted(set))),
        ("Proven by drills", proofs::since(proof)),
    ];
    figures(page, &values);
    page.raw("</header>\n");
}

fn figures(page: &mut Page, values: &[(&str, String)]) {
    page.raw("<dl class=\"figures\">\n");
    for (name, value) in values {
        page.raw("<div>");
        page.element("dt", name);
        page.element("dd", value);
        page.raw("</div>\n");
    }
    page.raw("</dl>\n");
}

/// How many bytes were saved for each that was added to the repository.
fn ratio(saved: u64, stored: u64) -> String {
    match saved as f64 / stored as f64 {
        _ if stored == 0 => "nothing new".to_owned(),
        10_000.0.. => "> 9999 : 1".to_owned(),
        ratio => format!("{ratio:.1} : 1"),
    }
}

/// From the first capture to the last service up, in milliseconds.
fn lasted(set: &BackupSet) -> u64 {
    set.ended.duration_since(set.time).as_millis().max(0) as u64
}

/// All warnings of a set; first those of no component.
fn all_warnings(set: &BackupSet) -> Vec<(Option<&str>, &str)> {
    let own = set.warnings.iter().map(|text| (None, text.as_str()));
    let theirs = set
        .components
        .iter()
        .flat_map(|component| component.warnings.iter().map(|text| (Some(component.name.as_str()), text.as_str())));
    own.chain(theirs).collect()
}

fn warnings(page: &mut Page, set: &BackupSet) {
    let all = all_warnings(set);
    let told = |(component, text): (Option<&str>, &str)| match component {
        Some(component) => format!("{component}: {text}"),
        None => text.to_owned(),
    };
    list(page, "To be known", &Vec::from_iter(all.into_iter().map(told)));
}

/// A list beneath a heading; nothing if it is empty.
fn list(page: &mut Page, head: &str, all: &[String]) {
    if all.is_empty() {
        return;
    }
    page.element("h2", head);
    page.raw("<ul class=\"warnings\">\n");
    for text in all {
        page.raw("<li>");
        page.text(text);
        page.raw("</li>\n");
    }
    page.raw("</ul>\n");
}

fn components(page: &mut Page, set: &BackupSet) {
    page.raw("<h2>Components</h2>\n");
    page.table(&["Component", "State", "What", "#Saved", "#Added", "#Time"], |page| {
        for component in &set.components {
            page.row(&[
                ("Component", &component.name),
                ("State", status(component.status)),
                ("What", &what(component)),
                ("#Saved", &bytes(component.bytes())),
                ("#Added", &bytes(component.stored_bytes())),
                ("#Time", &duration(component.milliseconds)),
            ]);
        }
    });
}

/// The parts of a component, and its versions.
fn what(component: &Component) -> String {
    let parts = component.parts.iter().map(|part| format!("{} {}", part.role, part.snapshot.short()));
    let versions = component.versions.iter().map(|(program, version)| format!("{program} {version}"));
    let all: Vec<String> = parts.chain(versions).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

fn steps(page: &mut Page, all: &[StepRecord]) {
    if all.is_empty() {
        return;
    }
    page.raw("<h2>What was done</h2>\n");
    page.table(&["At", "Step", "State", "#Time"], |page| {
        for step in all {
            let title =
                if step.detail.is_empty() { step.title.clone() } else { format!("{}: {}", step.title, step.detail) };
            page.row(&[
                ("At", &clock(step.time)),
                ("Step", &title),
                ("State", &step.state),
                ("#Time", &duration(step.milliseconds)),
            ]);
        }
    });
}

/// A page being written.
#[derive(Default)]
struct Page {
    html: String,
}

impl Page {
    fn raw(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.html.push_str("&amp;"),
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                // Control characters have no place in a page, and some would hide what follows.
                c if c.is_control() && c != '\n' => self.html.push('\u{fffd}'),
                c => self.html.push(c),
            }
        }
    }

    fn element(&mut self, name: &str, text: &str) {
        let _ = write!(self.html, "<{name}>");
        self.text(text);
        let _ = writeln!(self.html, "</{name}>");
    }

    /// A table with these column names; those that begin with `#` are numbers.
    fn table(&mut self, columns: &[&str], rows: impl FnOnce(&mut Page)) {
        self.raw("<table class=\"cards\">\n<thead><tr>");
        for column in columns {
            let class = if column.starts_with('#') { " class=\"number\"" } else { "" };
            let _ = write!(self.html, "<th scope=\"col\"{class}>");
            self.text(column.trim_start_matches('#'));
            self.raw("</th>");
        }
        self.raw("</tr></thead>\n<tbody>\n");
        rows(self);
        self.raw("</tbody>\n</table>\n");
    }

    /// A row: column and value. A state gets its colour.
    fn row(&mut self, cells: &[(&str, &str)]) {
        self.raw("<tr>");
        for (column, value) in cells {
            let class = match *column {
                // Where each cell has its name, one without a value would say nothing.
                _ if value.is_empty() => "empty".to_owned(),
                "State" => format!("state {}", word(value)),
                name if name.starts_with('#') => "number".to_owned(),
                _ => String::new(),
            };
            let _ = write!(self.html, "<td data-name=\"{}\" class=\"{class}\">", column.trim_start_matches('#'));
            self.raw("<span>");
            self.text(value);
            self.raw("</span></td>");
        }
        self.raw("</tr>\n");
    }
}

/// A state as the name of a style: letters only, since it comes from a set.
fn word(state: &str) -> String {
    state.chars().filter(char::is_ascii_lowercase).collect()
}
