//! A terminal with lines that change: what has ended scrolls up, what runs is drawn below, one line a step.
//!
//! Invariant: a line that will be drawn over is never wider than the terminal, so that as many rows are taken back as
//! were drawn; and what comes from elsewhere has lost what could move the cursor.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use unicode_width::UnicodeWidthStr;

use crate::cli::live::steps::{Step, Work};
use crate::cli::render::{cut, visible};
use crate::cli::report::duration;
use crate::progress::StepState;

/// What is taken for a terminal that does not say how large it is.
const USUAL: Size = Size { columns: 80, rows: 24 };

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// How a terminal is drawn on.
pub struct Screen {
    /// Its size at this moment.
    pub size: Box<dyn Fn() -> Size + Send>,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
    /// Whether it shall show colours.
    pub colour: bool,
}

impl Screen {
    /// Standard error, if it is a terminal that can be drawn on.
    pub fn of_standard_error() -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let able = set("TERM").is_some_and(|term| term != "dumb");
        if !able || !std::io::stderr().is_terminal() {
            return None;
        }
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        let unicode = locale.contains("utf-8") || locale.contains("utf8");
        Some(Screen { size: Box::new(standard_error_size), unicode, colour: set("NO_COLOR").is_none() })
    }

    /// The line of a step that has ended; however long it is.
    pub fn ended(&self, state: StepState, title: &str, figures: &str, detail: &str) -> String {
        let (mark, word, colour) = match state {
            StepState::Running => (">", "begun:", 0),
            StepState::Done => ("\u{2713}", "done:", 32),
            StepState::Failed => ("\u{2717} failed:", "failed:", 31),
            StepState::Undone => ("\u{21ba}", "undone:", 33),
            StepState::Stuck => ("\u{2717} not undone:", "not undone:", 31),
        };
        let mark = if self.unicode { mark } else { word };
        let mark = if self.colour { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() };
        let parts = [self.shown(title), figures.to_owned(), self.shown(detail)];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{mark} {}", parts.join("  "))
    }

    /// The line of a step that runs, not wider than the terminal.
    pub fn running(&self, step: &Step, now: Instant, columns: usize) -> String {
        // The last column stays free: some terminals begin a new line when it is used.
        let columns = columns.saturating_sub(1);
        let title = self.shown(&step.title);
        let tails = self.tails(step, now);
        let wanted = title.width().min((columns / 3).max(12));
        let fits = |tail: &&String| wanted + tail.width() + 4 <= columns;
        let tail = tails.iter().find(fits).or(tails.last()).cloned().unwrap_or_default();
        let space = columns.saturating_sub(tail.width() + 4);
        let item = self.shown(&step.item);
        // Without room for both, what a step waits for says more than its title; a file among many says less.
        let text = match () {
            () if item.is_empty() => title,
            () if title.width() + 18 <= space => format!("{title}: {item}"),
            () if step.work.is_none() => item,
            () => title,
        };
        let text = self.fitted(&text, space);
        let gap = " ".repeat(space.saturating_sub(text.width()));
        self.fitted(&format!("{} {text}{gap}  {tail}", self.spinner(now.duration_since(step.began))), columns)
    }

    /// What may stand at the end of a step's line, the longest first.
    fn tails(&self, step: &Step, now: Instant) -> Vec<String> {
        let elapsed = duration(now.duration_since(step.began).as_millis() as u64);
        let Some(work) = &step.work else { return vec![elapsed] };
        let (far, speed) = (work.far(), work.speed(now));
        let left = work.left(now).map(|left| format!("{} left", duration(left.as_millis() as u64)));
        let left = left.unwrap_or_default();
        let tails: Vec<Vec<String>> = match part(work) {
            Some(part) => vec![
                vec![self.bar(part, 24), far.clone(), speed.clone(), left.clone()],
                vec![self.bar(part, 12), far.clone(), speed.clone(), left],
                vec![self.bar(part, 12), far.clone(), speed],
                vec![self.bar(part, 6), far],
                vec![format!("{} %", (part * 100.0) as u8)],
            ],
            None => vec![vec![far.clone(), speed.clone(), elapsed], vec![far.clone(), speed], vec![far]],
        };
        let joined =
            |words: Vec<String>| words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        tails.into_iter().map(joined).collect()
    }

    fn bar(&self, part: f64, columns: usize) -> String {
        let (full, empty) = if self.unicode { ("\u{2588}", "\u{2591}") } else { ("#", "-") };
        let filled = ((part * columns as f64) as usize).min(columns);
        format!("[{}{}]", full.repeat(filled), empty.repeat(columns - filled))
    }

    fn spinner(&self, elapsed: Duration) -> char {
        let frames: &[char] = if self.unicode {
            &['\u{280b}', '\u{2819}', '\u{2838}', '\u{2834}', '\u{2826}']
        } else {
            &['|', '/', '-', '\\']
        };
        frames[(elapsed.as_millis() / 200) as usize % frames.len()]
    }

    /// Text as this terminal can show it, in one line.
    pub fn shown(&self, text: &str) -> String {
        let text = visible(text);
        if self.unicode { text } else { text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect() }
    }

    /// The beginning of a text that takes so many columns at most, with a sign where it was cut.
    fn fitted(&self, text: &str, columns: usize) -> String {
        if text.width() <= columns {
            return text.to_owned();
        }
        let Some(left) = columns.checked_sub(1) else { return String::new() };
        format!("{}{}", cut(text, left), if self.unicode { '\u{2026}' } else { '~' })
    }
}

/// How large a part of its work is done, from 0 to 1, where that is known.
fn part(work: &Work) -> Option<f64> {
    let total = work.total?;
    Some(if total == 0 { 1.0 } else { (work.done as f64 / total as f64).min(1.0) })
}

fn standard_error_size() -> Size {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(USUAL, |size| Size { columns: size.ws_col.into(), rows: size.ws_row.into() })
}

/// What is drawn at this moment below what has scrolled up.
#[derive(Debug, Default)]
pub struct Drawn {
    widths: Vec<usize>,
}

impl Drawn {
    /// What to write so that these lines scroll up and those others stand below them.
    pub fn replace(&mut self, ended: &[String], running: &[String], columns: usize) -> String {
        let mut frame = String::new();
        // A terminal that became narrower shows a line in several rows.
        let rows: usize = self.widths.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        if rows > 0 {
            frame.push_str(&format!("\r\x1b[{rows}A\x1b[J"));
        }
        for line in ended.iter().chain(running) {
            frame.push_str(line);
            frame.push('\n');
        }
        self.widths = running.iter().map(|line| line.width()).collect();
        frame
    }

    /// Whether anything is drawn.
    pub fn is_empty(&self) -> bool {
        self.widths.is_empty()
    }
}
