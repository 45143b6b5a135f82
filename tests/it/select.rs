//! Selecting snapshots by word, prefix and time.

use cairn::format::ObjectId;
use cairn::format::content::Content;
use cairn::format::record::Snapshot;
use cairn::orchestrate::select::{SelectError, parse_time, select, split_path};
use cairn::repo::SnapshotInfo;
use jiff::tz::TimeZone;

use crate::support::stream_record;

fn info(first: u8, second: u8, name: &str, time: &str) -> SnapshotInfo {
    let mut id = [0; 32];
    (id[0], id[1]) = (first, second);
    let snapshot = Snapshot { time: time.parse().unwrap(), ..stream_record(name, Content::EMPTY) };
    SnapshotInfo { id: ObjectId::from_bytes(id), snapshot, proof: None, difference: None }
}

fn all() -> Vec<SnapshotInfo> {
    vec![
        info(0xab, 0xcd, "db", "2026-05-30T10:00:00Z"),
        info(0xab, 0xce, "db", "2026-05-31T10:00:00Z"),
        info(0x12, 0x34, "etc", "2026-05-31T11:00:00Z"),
        info(0xde, 0xad, "abcd", "2026-06-01T10:00:00Z"),
    ]
}

fn picked(text: &str) -> Result<u8, SelectError> {
    let all = all();
    select(&all, text, &TimeZone::UTC).map(|info| all.iter().position(|other| other.id == info.id).unwrap() as u8)
}

#[test]
fn words_select_as_documented() {
    for (text, expected) in [
        ("latest", 3),
        ("db", 1),
        ("etc", 2),
        ("1234", 2),
        ("ABCE", 1),
        ("db@2026-05-30", 0),
        ("db@2026-05-30T10:00:00Z", 0),
        ("db@2026-05-30T12:00:00+02:00", 0),
        ("db@2026-05-31 09:59:59", 0),
        ("db@2026-05-31 10:00", 1),
        ("db@2099-01-01", 1),
        ("latest@2026-05-31", 2),
    ] {
        assert_eq!(picked(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_selects_nothing_or_too_much_is_an_error() {
    for text in ["nothing", "ab", "ffff", "nothing@2026-01-01"] {
        assert!(matches!(picked(text), Err(SelectError::None { .. })), "{text}: {:?}", picked(text));
    }
    // A name that is also the beginning of an id.
    assert!(matches!(picked("abcd"), Err(SelectError::Ambiguous { .. })));
    assert!(matches!(picked("db@2026-05-29"), Err(SelectError::TooEarly { .. })));
    for text in ["db@", "db@yesterday", "db@2026-13-01", "db@2026-05-32", "db@10:00"] {
        assert!(matches!(picked(text), Err(SelectError::Time { .. })), "{text}: {:?}", picked(text));
    }
    let twice = [info(0xaa, 0xaa, "x", "2026-01-01T00:00:00Z"), info(0xaa, 0xaa, "y", "2026-01-02T00:00:00Z")];
    assert!(matches!(select(&twice, "aaaa", &TimeZone::UTC), Err(SelectError::Ambiguous { .. })));
}

#[test]
fn a_date_is_the_end_of_its_day_in_the_zone() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let end = parse_time("2026-05-30", &berlin).unwrap();
    assert!(end < "2026-05-30T22:00:00Z".parse().unwrap() && end > "2026-05-30T21:59:59Z".parse().unwrap());
    // The day on which summer time begins has 23 hours.
    let short =
        parse_time("2026-03-29", &berlin).unwrap().as_second() - parse_time("2026-03-28", &berlin).unwrap().as_second();
    assert_eq!(short, 23 * 3600);
}

#[test]
fn a_path_begins_at_the_first_colon_and_slash() {
    assert_eq!(split_path(b"db"), (b"db".as_slice(), None));
    assert_eq!(split_path(b"etc:/etc/ssh"), (b"etc".as_slice(), Some(b"/etc/ssh".as_slice())));
    assert_eq!(
        split_path(b"etc@2026-05-30T10:00:00Z:/a:/b"),
        (b"etc@2026-05-30T10:00:00Z".as_slice(), Some(b"/a:/b".as_slice()))
    );
}
