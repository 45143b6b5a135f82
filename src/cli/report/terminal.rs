//! A backup set as text: for a terminal as narrow as forty columns, for a log and for mail.
//!
//! Invariant: everything that comes from a set goes through `visible`, so it cannot command a terminal, and no line is
//! wider than was asked for.

use unicode_width::UnicodeWidthStr;

use super::{all_warnings, consistency, duration, lasted, proofs, ratio, status, what};
use crate::cli::render::{bytes, cut, time, visible};
use crate::cli::report::facts::coordinates;
use crate::format::ObjectId;
use crate::format::set::{BackupSet, Component, Status, StepRecord};
use crate::repo::proven::SetProof;

/// The table of components is at least this wide; a narrower terminal gets sentences.
const TABLE: usize = 76;
/// No line is asked to be narrower than this.
const LEAST: usize = 20;

/// How many columns a report on standard output has: those of the terminal, or the usual eighty.
pub fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

/// The report of a set and of what drills have found of it, no line of it wider than this.
pub fn text(id: &ObjectId, set: &BackupSet, proof: Option<&SetProof>, columns: usize) -> String {
    let mut report = Report { text: String::new(), columns: columns.max(LEAST) };
    head(&mut report, id, (set, proof));
    report.blank();
    components(&mut report, &set.components);
    drills(&mut report, set, proof);
    warnings(&mut report, set);
    failures(&mut report, set);
    report.text
}

fn head(report: &mut Report, id: &ObjectId, (set, proof): (&BackupSet, Option<&SetProof>)) {
    report.line(0, &format!("Backup set {} of {}: {}", id.short(), set.profile, status(set.status)));
    report.line(2, consistency(set.consistency));
    let (saved, stored) = (set.bytes(), set.stored_bytes());
    for (name, value) in [
        ("point in time", time(set.time)),
        ("services up", format!("{}, after {}", time(set.ended), duration(lasted(set)))),
        ("host", set.host.clone()),
        ("saved", format!("{}, {} added: {}", bytes(saved), bytes(stored), ratio(saved, stored))),
        ("proven", proofs::since(proof)),
        ("id", id.to_string()),
    ] {
        report.line(2, &format!("{name:<14} {value}"));
    }
}

fn components(report: &mut Report, all: &[Component]) {
    let as_table = report.columns >= TABLE;
    if as_table {
        report.row(["COMPONENT", "STATE", "SAVED", "ADDED", "RATIO", "TIME"].map(str::to_owned));
    }
    for component in all {
        let (saved, stored) = (component.bytes(), component.stored_bytes());
        let state = status(component.status).to_owned();
        if component.status == Status::Skipped {
            report.line(0, &format!("{:<14} {state}", visible(&component.name)));
            continue;
        }
        let time = duration(component.milliseconds);
        if as_table {
            report.row([component.name.clone(), state, bytes(saved), bytes(stored), ratio(saved, stored), time]);
        } else {
            let sizes = format!("{} saved, {} added: {}", bytes(saved), bytes(stored), ratio(saved, stored));
            report.line(0, &format!("{}: {state}, {time}, {sizes}", component.name));
        }
        report.line(2, &what(component));
        if let Some(facts) = &component.facts {
            report.line(2, &coordinates(facts));
        }
    }
}

fn drills(report: &mut Report, set: &BackupSet, proof: Option<&SetProof>) {
    if proof.is_none() {
        return;
    }
    report.blank();
    report.line(0, "Drills:");
    for row in proofs::rows(set, proof) {
        let found = row.found.replace('\n', "; ");
        let words = [row.state, &row.when, &found, &row.servers, &row.took];
        let told: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        report.line(2, &format!("{}: {}", row.component, told.join("; ")));
    }
}

fn warnings(report: &mut Report, set: &BackupSet) {
    let all = all_warnings(set);
    if all.is_empty() {
        return;
    }
    report.blank();
    report.line(0, "To be known:");
    for (component, warning) in all {
        let of = component.map(|name| format!("{name}: ")).unwrap_or_default();
        report.line(2, &format!("{of}{warning}"));
    }
}

/// The steps that did not go well; the page has them all.
fn failures(report: &mut Report, set: &BackupSet) {
    let ill = |step: &&StepRecord| !matches!(step.state.as_str(), "done" | "undone" | "skipped");
    let failed: Vec<_> = set.steps.iter().filter(ill).collect();
    if failed.is_empty() {
        return;
    }
    report.blank();
    report.line(0, "What did not go well:");
    for step in failed {
        let (state, took) = (&step.state, duration(step.milliseconds));
        report.line(2, &format!("{} {} {state} ({took}): {}", time(step.time), step.title, step.detail));
    }
}

/// Text being written.
struct Report {
    text: String,
    columns: usize,
}

impl Report {
    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A row of the table. The first column is as wide as is left; numbers stand at their right end.
    fn row(&mut self, cells: [String; 6]) {
        let [name, state, saved, added, ratio, time] = cells.map(|cell| visible(&cell));
        // Wider is only what a record claims that no machine can do.
        let (name, time) = (cut(&name, 14), cut(&time, 13));
        let gap = " ".repeat(14_usize.saturating_sub(name.width()));
        self.text.push_str(&format!("{name}{gap} {state:<8} {saved:>12} {added:>12} {ratio:>12} {time:>13}\n"));
    }

    /// A line that begins so many columns from the left, folded where it is too long; what follows stands two columns
    /// further in.
    fn line(&mut self, indent: usize, text: &str) {
        let text = visible(text);
        let mut rest = text.as_str();
        let mut indent = indent;
        loop {
            let (line, after) = folded(rest, self.columns - indent);
            self.text.push_str(&" ".repeat(indent));
            self.text.push_str(line);
            self.text.push('\n');
            if after.is_empty() {
                return;
            }
            if rest.len() == text.len() {
                indent += 2;
            }
            rest = after;
        }
    }
}

/// The part of a text that fits into so many columns, ending between words where that can be, and the rest.
fn folded(text: &str, columns: usize) -> (&str, &str) {
    let fitting = cut(text, columns);
    if fitting.len() == text.len() {
        return (text, "");
    }
    // A space right behind what fits is as good an end as one within.
    let end = if text[fitting.len()..].starts_with(' ') {
        fitting.len()
    } else {
        fitting.rfind(' ').filter(|end| !fitting[..*end].trim().is_empty()).unwrap_or(fitting.len())
    };
    // A character wider than the line would never fit: it goes in alone.
    let end = if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end };
    (text[..end].trim_end(), text[end..].trim_start())
}
