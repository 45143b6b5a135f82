//! What is printed, and where: results to standard output, everything else to standard error. With `--json` standard
//! output has one JSON object a line. Names from a repository are escaped, so they cannot command a terminal.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

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
        let mut object = json!({ "type": kind });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), serde_json::to_value(value)?) {
            object.extend(fields);
        }
        write_line(&object.to_string())
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
        let _ = writeln!(std::io::stderr(), "cairn: error: {message}");
        let _ = self.object("error", json!({ "message": message, "exit_code": exit_code }));
    }
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
