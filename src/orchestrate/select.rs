//! Selecting a snapshot: `latest`, an id prefix, `NAME` or `NAME@TIME`, with `:PATH` where a path is wanted.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::format::ObjectId;
use crate::repo::SnapshotInfo;
use crate::repo::records::DamagedSnapshot;

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
    /// The clocks of the zone show it twice.
    #[error("{text:?} was there twice, since the clocks were set back: say {first} or {second}")]
    Twice {
        /// What was given.
        text: String,
        /// It may be this.
        first: String,
        /// Or this.
        second: String,
    },
    /// The clocks of the zone never show it.
    #[error("{text:?} was never there, since the clocks were set forward: say {earlier} or {later}")]
    Never {
        /// What was given.
        text: String,
        /// By the clock before.
        earlier: String,
        /// By the clock after.
        later: String,
    },
    /// Nothing fits.
    #[error("no snapshot is selected by {text:?}: see `cairn snapshots`{}", hint(text))]
    None {
        /// What was given.
        text: String,
    },
    /// The one that fits cannot be read.
    #[error("snapshot {id} cannot be read: {message}")]
    Damaged {
        /// Its id.
        id: String,
        /// What is wrong.
        message: String,
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
    #[error("{text:?} is ambiguous: it may be {candidates}; give more digits of the id")]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it may be.
        candidates: String,
    },
}

/// What is probably wrong with a word that selects nothing.
fn hint(text: &str) -> String {
    if text.contains(':') && !text.contains('@') {
        return "; a path in a snapshot begins with a slash, as in NAME:/PATH".to_owned();
    }
    if text.len() < ObjectId::MIN_PREFIX && !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return format!("; the beginning of an id needs at least {} digits", ObjectId::MIN_PREFIX);
    }
    String::new()
}

/// Splits `SNAP:PATH`. Times contain colons, so the path begins at the first `:/`, or is absent.
pub fn split_path(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.windows(2).position(|pair| pair == b":/") {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Reads a time. A date alone means the end of that day in the zone: `NAME@2026-05-31` includes all of that day. A time
/// without a fraction means the end of its second, because times are shown so: what is listed at 10:00:00 may have been
/// made half a second later, and `NAME@TIME` of the time that is shown must find it. A local time that the clocks of the zone
/// show twice, or never, is refused with what may be meant: an hour more or less is another recovery point.
pub fn parse_time(text: &str, zone: &TimeZone) -> Result<Timestamp, SelectError> {
    let invalid = || SelectError::Time { text: text.to_owned() };
    let rest_of_second = SignedDuration::new(0, if text.contains(['.', ',']) { 0 } else { 999_999_999 });
    let whole = |time: Timestamp| time.checked_add(rest_of_second).map_err(|_| invalid());
    if let Ok(time) = text.parse::<Timestamp>() {
        return whole(time);
    }
    if let Ok(date) = text.parse::<Date>()
        && text.len() <= 10
    {
        let next = date.checked_add(1.day()).map_err(|_| invalid())?;
        let start = next.to_zoned_datetime(zone.clone()).map_err(|_| invalid())?.timestamp();
        return start.checked_sub(1.nanosecond()).map_err(|_| invalid());
    }
    let local = text.parse::<DateTime>().map_err(|_| invalid())?;
    let by = |offset: Offset| offset.to_timestamp(local).map_err(|_| invalid());
    // With its offset it means one moment, however it is read.
    let shown = |offset: Offset| Ok(format!("{}", by(offset)?.display_with_offset(offset)));
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => whole(by(offset)?),
        AmbiguousOffset::Fold { before, after } => {
            Err(SelectError::Twice { text: text.to_owned(), first: shown(before)?, second: shown(after)? })
        }
        AmbiguousOffset::Gap { before, after } => {
            let shown = |offset: Offset, of: Offset| Ok(format!("{}", by(of)?.display_with_offset(offset)));
            let (earlier, later) = (shown(before, after)?, shown(after, before)?);
            Err(SelectError::Never { text: text.to_owned(), earlier, later })
        }
    }
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
    let with_prefix: Vec<&SnapshotInfo> = snapshots.iter().filter(|info| info.id.begins_with(text)).collect();
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

/// The damaged snapshot whose id begins so, if there is just one.
pub fn damaged_by_id<'d>(damaged: &'d [DamagedSnapshot], text: &str) -> Option<&'d DamagedSnapshot> {
    let mut found = damaged.iter().filter(|info| info.id.begins_with(text));
    found.next().filter(|_| found.next().is_none())
}

/// The damaged snapshots that `text` might have selected instead of `chosen`, had they been readable: whoever asks for
/// the newest must hear that there may be a newer one.
pub fn passed_over<'d>(
    damaged: &'d [DamagedSnapshot],
    text: &str,
    chosen: Option<&SnapshotInfo>,
    zone: &TimeZone,
) -> Vec<&'d DamagedSnapshot> {
    let (name, before) = match text.split_once('@') {
        Some((name, time)) => (name, parse_time(time, zone).ok()),
        None => (text, None),
    };
    if chosen.is_some_and(|info| name != "latest" && info.snapshot.name != name) {
        // Chosen by its id.
        return Vec::new();
    }
    let may_be = |info: &&DamagedSnapshot| {
        let named = name == "latest" || info.name.as_ref().is_none_or(|other| other == name);
        let newer = |time| chosen.is_none_or(|chosen| time > chosen.snapshot.time);
        let in_time = info.time.is_none_or(|time| newer(time) && before.is_none_or(|before| time <= before));
        named && in_time
    };
    damaged.iter().filter(may_be).collect()
}
