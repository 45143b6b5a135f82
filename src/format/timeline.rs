//! Positions in PostgreSQL's log, and histories of its timelines, as PostgreSQL writes them.
//!
//! Invariant: what is not exactly of that form is refused, never read in part: a history of which a line is missing would
//! send a recovery along another timeline than the server takes.

use crate::format::FormatError;
use crate::format::wal::MAX_SMALL;

/// What a history is called in errors.
const WHAT: &str = "history of a timeline";
/// Half of a position has so many digits at most.
const DIGITS: usize = 8;

/// A position (`0/1A2B3C4`) as a number.
pub fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text: &str| {
        // A sign would be read, too.
        let is_number = text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|_| is_number)
    };
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

/// A position as PostgreSQL writes it.
pub fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
}

/// A timeline that another began from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The one that was left.
    pub parent: u32,
    /// Where.
    pub position: u64,
}

/// Reads the history of a timeline: what it began from, the oldest first, and at least one. Timelines and positions
/// increase, and all are older than this one.
pub fn history(timeline: u32, content: &[u8]) -> Result<Vec<Fork>, FormatError> {
    let invalid = |why: String| FormatError::invalid(WHAT, why);
    if content.len() as u64 > MAX_SMALL {
        return Err(FormatError::TooLarge { what: WHAT, found: content.len() as u64, limit: MAX_SMALL });
    }
    let text = std::str::from_utf8(content).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    let mut forks: Vec<Fork> = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = at + 1;
        let mut fields = line.split_whitespace();
        let parent = fields.next().filter(|field| field.bytes().all(|byte| byte.is_ascii_digit()));
        let fork = parent.and_then(|field| field.parse().ok()).zip(fields.next().and_then(position));
        let Some((parent, position)) = fork else {
            return Err(invalid(format!("line {at} is no timeline and position")));
        };
        let follows = forks.last().is_none_or(|last| last.parent < parent && last.position <= position);
        if !follows || parent == 0 || parent >= timeline {
            return Err(invalid(format!("line {at} contradicts what comes before, or is of a later timeline")));
        }
        forks.push(Fork { parent, position });
    }
    match forks.is_empty() {
        true => Err(invalid("it names no timeline that it began from".to_owned())),
        false => Ok(forks),
    }
}

/// Where a timeline was left on the way to one with this history; nothing if that does not come from it.
pub fn left(forks: &[Fork], timeline: u32) -> Option<u64> {
    let at = forks.binary_search_by_key(&timeline, |fork| fork.parent).ok()?;
    forks.get(at).map(|fork| fork.position)
}

/// The timeline of whose files the segment of a number is one, on the way to a timeline with this history: what was left
/// has no more segments from the one on in which that was.
pub fn writer(forks: &[Fork], timeline: u32, number: u64, segment_size: u64) -> u32 {
    let goes_on = forks.partition_point(|fork| fork.position / segment_size <= number);
    forks.get(goes_on).map_or(timeline, |fork| fork.parent)
}

/// The timeline that wrote what lies at a position.
pub fn owner(forks: &[Fork], timeline: u32, position: u64) -> u32 {
    let goes_on = forks.partition_point(|fork| fork.position <= position);
    forks.get(goes_on).map_or(timeline, |fork| fork.parent)
}

#[cfg(test)]
mod tests {
    use super::{Fork, history, left, lsn, owner, position, writer};

    #[test]
    fn positions_are_two_hexadecimal_numbers_and_nothing_else() {
        for (text, number) in [("1/FF000028", 0x1_FF00_0028), ("0/0", 0), ("FFFFFFFF/ffffffff", u64::MAX)] {
            assert_eq!(position(text), Some(number));
            assert_eq!(lsn(number), text.to_uppercase());
        }
        for text in
            ["nothing", "1", "1/", "/1", "+1/1", "1/+1", "-1/1", "1/ 1", "000000001/1", "100000000/0", "1/1/1", "0x1/1"]
        {
            assert_eq!(position(text), None, "{text}");
        }
    }

    #[test]
    fn histories_are_read_whole_or_not_at_all() {
        let text = "1\t0/3000158\tbefore 2026-11-26 07:12:13.5+00\n\n# a comment\n2\t0/5000000\tno recovery target\n";
        let forks = [Fork { parent: 1, position: 0x300_0158 }, Fork { parent: 2, position: 0x500_0000 }];
        assert_eq!(history(3, text.as_bytes()).ok(), Some(forks.to_vec()));
        assert!(history(2, text.as_bytes()).is_err(), "it cannot have begun from itself");
        for wrong in [
            "",
            "# only\n",
            "x",
            "1",
            "1\t",
            "1\tx",
            "0\t0/1\n",
            "+1\t0/1\n",
            "1\t0/2\n2\t0/1\n",
            "2\t0/1\n1\t0/2\n",
            "1\t0/1\n1\t0/2\n",
            "4294967296\t0/1\n",
            "1\t0/1\nno line\n",
        ] {
            assert!(history(9, wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(history(9, b"1\t0/1\t\xff\n").is_err());
        assert!(history(9, &[b'\n'; (1 << 20) + 1]).is_err());
    }

    #[test]
    fn each_place_belongs_to_the_timeline_that_had_begun_by_then() {
        let forks: Vec<Fork> =
            [(1, 0x300), (2, 0x350), (5, 0x900)].map(|(parent, position)| Fork { parent, position }).into();
        for (number, of) in [(0, 1), (2, 1), (3, 5), (8, 5), (9, 7), (u64::MAX, 7)] {
            assert_eq!(writer(&forks, 7, number, 0x100), of, "{number}");
        }
        for (position, of) in [(0x2FF, 1), (0x300, 2), (0x34F, 2), (0x350, 5), (0x8FF, 5), (0x900, 7)] {
            assert_eq!(owner(&forks, 7, position), of, "{position}");
        }
        assert_eq!((left(&forks, 2), left(&forks, 3), left(&forks, 7)), (Some(0x350), None, None));
        assert_eq!((writer(&[], 1, 5, 0x100), owner(&[], 1, 5)), (1, 1));
    }
}
