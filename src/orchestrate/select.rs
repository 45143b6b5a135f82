//! Selecting a snapshot: `latest`, an id prefix, `NAME` or `NAME@TIME`, with `:PATH` where a path is wanted.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::repo::SnapshotInfo;

/// An id prefix has at least this many digits.
const MIN_PREFIX: usize = 4;

/// Why nothing was selected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// The time is not one.
    #[error(
        "{text:?} is no time: give RFC 3339 (2026-05-31T03:00:00Z), a date (2026-05-31), or a date and time of the local zone (2026-05-31 03:00)"
    )]
    Time {
        /// What was given.
        text: String,
    },
    /// Nothing fits.
    #[error("no snapshot is selected by {text:?}: see `cairn snapshots`")]
    None {
        /// What was given.
        text: String,
    },
    /// There is none that old.
    #[error("no snapshot of {name:?} was made at or before {time}; the oldest is of {oldest}")]
    TooEarly {
        /// The name.
        name: String,
        /// The time wanted.
        time: String,
        /// The oldest snapshot's time.
        oldest: String,
    },
    /// Several fit.
    #[error("{text:?} is ambiguous: it may be {candidates}")]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it may be.
        candidates: String,
    },
}

/// Splits `SNAP:PATH`. Times contain colons, so the path begins at the first `:/`, or is absent.
pub fn split_path(text: &str) -> (&str, Option<&str>) {
    match text.find(":/") {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Reads a time. A date alone means the end of that day in the zone: `NAME@2026-05-31` includes all of that day.
pub fn parse_time(text: &str, zone: &TimeZone) -> Result<Timestamp, SelectError> {
    let invalid = || SelectError::Time { text: text.to_owned() };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<Date>() {
        if text.len() <= 10 {
            let next = date.checked_add(1.day()).map_err(|_| invalid())?;
            let start = next.to_zoned_datetime(zone.clone()).map_err(|_| invalid())?.timestamp();
            return start.checked_sub(1.nanosecond()).map_err(|_| invalid());
        }
    }
    let local = text.parse::<DateTime>().map_err(|_| invalid())?;
    Ok(local.to_zoned_datetime(zone.clone()).map_err(|_| invalid())?.timestamp())
}

/// Selects among snapshots that are sorted by time.
pub fn select<'s>(snapshots: &'s [SnapshotInfo], text: &str, zone: &TimeZone) -> Result<&'s SnapshotInfo, SelectError> {
    let none = || SelectError::None { text: text.to_owned() };
    if text == "latest" {
        return snapshots.last().ok_or_else(none);
    }
    if let Some((name, time)) = text.split_once('@') {
        let wanted = parse_time(time, zone)?;
        let mut named = snapshots.iter().filter(|info| info.snapshot.name == name || name == "latest").peekable();
        let oldest = named.peek().ok_or_else(none)?.snapshot.time;
        return named.rfind(|info| info.snapshot.time <= wanted).ok_or_else(|| SelectError::TooEarly {
            name: name.to_owned(),
            time: wanted.to_string(),
            oldest: oldest.to_string(),
        });
    }
    let named = snapshots.iter().rev().find(|info| info.snapshot.name == text);
    let is_prefix = text.len() >= MIN_PREFIX && text.bytes().all(|b| b.is_ascii_hexdigit());
    let lower = text.to_ascii_lowercase();
    let with_prefix: Vec<&SnapshotInfo> =
        snapshots.iter().filter(|info| is_prefix && info.id.to_string().starts_with(&lower)).collect();
    match (named, with_prefix.as_slice()) {
        (Some(info), []) => Ok(info),
        (None, [info]) => Ok(info),
        (None, []) => Err(none()),
        (named, found) => {
            let name = named.map(|info| format!("the name of {}", info.id.short()));
            let ids = found.iter().map(|info| info.id.to_string()[..16].to_owned());
            let candidates = name.into_iter().chain(ids).collect::<Vec<_>>().join(", ");
            Err(SelectError::Ambiguous { text: text.to_owned(), candidates })
        }
    }
}
