//! What is printed, and where: results to standard output, everything else to standard error. With `--json` standard
//! output has one JSON object a line. Names from a repository are escaped, so they cannot command a terminal.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthChar;

use crate::cli::systemd::{self, Priority};
use crate::progress::Notice;

/// Where output goes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Print JSON.
    pub json: bool,
    /// Print no notes.
    pub quiet: bool,
}

/// The reader of our output has gone; that is not an error.
#[derive(Debug, thiserror::Error)]
#[error("the output is no longer read")]
pub struct OutputClosed;

impl Output {
    /// Prints a line of the result, for people.
    pub fn line(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        write_line(text)
    }

    /// Prints an object of the result, for programs. `kind` becomes its `type`.
    pub fn object(&self, kind: &str, value: impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        write_line(&object(kind, value)?)
    }

    /// Says something that is to be known, to people and to programs.
    pub fn notice(&self, notice: &Notice) {
        // Whoever closed our output is told by the result that cannot be printed either.
        let _ = self.object("notice", notice_fields(notice));
        let _ = writeln!(std::io::stderr(), "{}", systemd::line(Priority::Warning, &notice_line(notice)));
    }

    /// Ends the result: the summary as JSON, or a sentence on standard error.
    pub fn summary(&self, sentence: &str, value: impl Serialize) -> Result<()> {
        self.note(sentence);
        self.object("summary", value)
    }

    /// Says something that is not the result.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json && !text.is_empty() {
            // Standard error may be closed; there is nobody to tell then.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Says why the program fails.
    pub fn error(&self, message: &str, exit_code: u8) {
        let line = systemd::line(Priority::Error, &format!("cairn: error: {message}"));
        let _ = writeln!(std::io::stderr(), "{line}");
        let _ = self.object("error", json!({ "message": message, "exit_code": exit_code }));
    }
}

/// An object of `--json`, as one line. `kind` becomes its `type`.
pub fn object(kind: &str, value: impl Serialize) -> Result<String> {
    let mut object = json!({ "type": kind });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), serde_json::to_value(value)?) {
        object.extend(fields);
    }
    Ok(object.to_string())
}

/// A notice for programs.
pub fn notice_fields(notice: &Notice) -> Value {
    json!({ "subject": notice.subject, "message": notice.message })
}

/// A notice for people.
pub fn notice_line(notice: &Notice) -> String {
    format!("cairn: {}: {}", notice.subject, notice.message)
}

/// Text from elsewhere in one line that cannot command a terminal: control characters, and those that turn the direction
/// of writing, stand as the `%XX` of their bytes. Text that has been escaped before stays as it is.
pub fn visible(text: &str) -> String {
    let mut seen = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => seen.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => seen.push_str(&bytes_of(c)),
            c if c.is_control() => seen.push_str(&bytes_of(c)),
            c => seen.push(c),
        }
    }
    seen
}

fn bytes_of(c: char) -> String {
    c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn write_line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => Ok(result?),
    }
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", units[unit]) }
}

/// A time for people: local, to the second.
pub fn time(time: jiff::Timestamp) -> String {
    time.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z").to_string()
}

/// The beginning of a text that takes so many columns at most.
pub fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

/// The time of day, for people: local, to the second.
pub fn clock(time: jiff::Timestamp) -> String {
    time.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}
