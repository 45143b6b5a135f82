//! What is missing, and how far a recovery gets.

use cairn::format::set::{BaseFacts, Facts};
use cairn::format::wal::WalName;
use cairn::format::{Kind, ObjectId};
use cairn::orchestrate::wal::status::{ClusterStatus, status};
use cairn::repo::sets::SetInfo;
use cairn::repo::wal::{Archive, WalFile};
use jiff::Timestamp;

use super::retention::base_set;
use super::{CLUSTER, SIZE, made, numbered, put, segment};
use crate::support::tamper;

pub fn log(archive: &Archive, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let name = numbered(timeline, number);
        let file = WalFile { system_id: CLUSTER, name: WalName::Segment(name) };
        put(archive, &file, &segment(CLUSTER, name, SIZE, number)).unwrap();
    }
}

pub fn history(archive: &Archive, timeline: u32, lines: &str) {
    let file = WalFile { system_id: CLUSTER, name: WalName::History(timeline) };
    put(archive, &file, lines.as_bytes()).unwrap();
}

fn base(timeline: u32, position: &str) -> SetInfo {
    let id = ObjectId::from_bytes([timeline as u8; 32]);
    SetInfo { id, set: base_set(&CLUSTER.to_string(), timeline, position, "base", id) }
}

/// One that was made with archiving: from one position to another, at an end of its own.
fn archived(timeline: u32, (start, stop): (&str, &str), ended: Timestamp) -> SetInfo {
    let mut info = base(timeline, start);
    let Some(Facts::Postgres(facts)) = &mut info.set.components[0].facts else { panic!("no facts") };
    facts.base = Some(BaseFacts {
        start_lsn: start.to_owned(),
        stop_lsn: stop.to_owned(),
        ended,
        segment_bytes: SIZE,
        archived: true,
    });
    info
}

fn state(archive: &Archive, sets: &[SetInfo]) -> ClusterStatus {
    let found = status(archive, &archive.catalog().unwrap(), sets).unwrap();
    assert_eq!(found.len(), 1);
    found.into_iter().next().unwrap()
}

fn gaps(status: &ClusterStatus) -> Vec<(String, String, bool)> {
    let gaps = status.timelines.iter().flat_map(|timeline| &timeline.gaps);
    gaps.map(|gap| (gap.first.clone(), gap.last.clone(), gap.matters)).collect()
}

fn name(timeline: u32, number: u64) -> String {
    numbered(timeline, number).to_string()
}

#[test]
fn a_gap_is_named_and_matters_where_a_base_backup_needs_it() {
    let (_, _, archive) = made();
    log(&archive, 1, [1, 2, 5, 6, 7, 9]);
    let all = state(&archive, &[]);
    assert_eq!(gaps(&all), [(name(1, 3), name(1, 4), true), (name(1, 8), name(1, 8), true)]);
    assert!(all.is_broken());
    // Positions of segments 5 and 9.
    let later = state(&archive, &[base(1, "0/500028")]);
    assert_eq!(gaps(&later), [(name(1, 3), name(1, 4), false), (name(1, 8), name(1, 8), true)]);
    assert_eq!(later.bases[0].reaches, Some(name(1, 7)));
    assert_eq!(later.bases[0].missing, Some(name(1, 8)));
    assert!(later.is_broken());
    let last = state(&archive, &[base(1, "0/900028")]);
    assert!(!last.is_broken(), "{:?}", gaps(&last));
    assert_eq!((last.bases[0].reaches.clone(), last.bases[0].missing.clone()), (Some(name(1, 9)), None));
    assert!(last.oldest_restorable.is_some() && last.newest_restorable.is_some());
    let without = state(&archive, &[base(1, "0/1000028")]);
    assert_eq!((without.bases[0].reaches.clone(), without.oldest_restorable), (None, None));
}

#[test]
fn a_timeline_goes_on_from_where_it_left_the_other() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=5);
    log(&archive, 2, 6..=8);
    // It left within segment 6: timeline 2 has its own copy of that.
    history(&archive, 2, "1\t0/6000A0\tno recovery target specified\n");
    let good = state(&archive, &[base(1, "0/200028")]);
    assert!(!good.is_broken(), "{good:?}");
    assert_eq!(good.timelines[1].parent, Some((1, "0/6000A0".to_owned())));
    assert_eq!(good.bases[0].reaches, Some(name(2, 8)));
    // The older one went on by itself, and the base backup is behind where the other left: it stays on its own.
    log(&archive, 1, 6..=9);
    let beside = state(&archive, &[base(1, "0/700028")]);
    assert_eq!(beside.bases[0].reaches, Some(name(1, 9)));
    assert!(!beside.is_broken(), "{beside:?}");
}

#[test]
fn a_gap_between_two_timelines_is_found() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=3);
    log(&archive, 2, [7, 8]);
    history(&archive, 2, "1\t0/6000A0\tno recovery target specified\n");
    let broken = state(&archive, &[base(1, "0/200028")]);
    assert_eq!(gaps(&broken), [(name(1, 4), name(1, 5), true), (name(2, 6), name(2, 6), true)]);
    assert_eq!(
        (broken.bases[0].reaches.clone(), broken.bases[0].missing.clone()),
        (Some(name(1, 3)), Some(name(1, 4)))
    );
}

#[test]
fn a_timeline_without_its_history_is_named() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=3);
    log(&archive, 2, 3..=4);
    let broken = state(&archive, &[]);
    assert_eq!(broken.missing_histories, ["00000002.history"]);
    assert!(broken.is_broken());
}

#[test]
fn a_history_that_cannot_be_understood_is_named_and_followed_nowhere() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=5);
    log(&archive, 2, 6..=8);
    // One line of it means something, the other does not.
    history(&archive, 2, "1\t0/6000A0\tno recovery target specified\nno line\n");
    let broken = state(&archive, &[base(1, "0/200028")]);
    assert!(broken.is_broken() && broken.missing_histories.is_empty(), "{broken:?}");
    let (name_of, why) = broken.malformed_histories.first_key_value().unwrap();
    assert!(name_of == "00000002.history" && why.contains("line 2"), "{name_of}: {why}");
    assert_eq!((broken.timelines[1].parent.clone(), broken.bases[0].reaches.clone()), (None, Some(name(1, 5))));
    // Also where nothing of its timeline is archived yet.
    history(&archive, 3, "3\t0/6000A0\tit began from itself\n");
    assert_eq!(state(&archive, &[]).malformed_histories.len(), 2);
}

#[test]
fn hostile_histories_do_not_keep_anybody_busy() {
    let (_, _, archive) = made();
    log(&archive, 2, 1..=2);
    log(&archive, 3, 1..=2);
    history(&archive, 2, "3\tFFFFFFFF/FFFFFFFF\tx\n4294967295\t0/0\n");
    history(&archive, 3, "2\tFFFFFFFF/FFFFFFFF\tx\nno line\n3\t1\n");
    state(&archive, &[base(2, "0/100028"), base(3, "FFFFFFFF/FFFFFFFF")]);
}

/// Every segment of a timeline can be lost, so that nothing is left between which there were a gap.
#[test]
fn log_that_is_lost_without_leaving_a_gap_is_told_of_base_backups() {
    let (_, _, archive) = made();
    log(&archive, 1, 1..=5);
    history(&archive, 2, "1\t0/6000A0\tx\n");
    history(&archive, 3, "1\t0/6000A0\tx\n2\t0/9000A0\tx\n");
    log(&archive, 3, 9..=12);
    let lost = state(&archive, &[base(1, "0/200028")]);
    assert_eq!((gaps(&lost), lost.bases[0].missing.clone()), (Vec::new(), Some(name(2, 6))));
    assert!(lost.is_broken());
    log(&archive, 2, 6..=8);
    let good = state(&archive, &[base(1, "0/200028")]);
    assert!(!good.is_broken(), "{good:?}");
}

#[test]
fn a_base_backup_without_its_log_is_broken_if_it_was_made_with_archiving() {
    let (_, _, archive) = made();
    log(&archive, 1, 5..=9);
    let now = Timestamp::now();
    let lost = state(&archive, &[archived(1, ("0/200028", "0/300000"), now)]);
    assert_eq!((lost.bases[0].reaches.clone(), lost.bases[0].missing.clone()), (None, Some(name(1, 2))));
    assert!(gaps(&lost).is_empty() && lost.is_broken());
    // One that is older than the archive has the log that it needs itself.
    let older = state(&archive, &[base(1, "0/200028")]);
    assert_eq!((older.bases[0].missing.clone(), older.is_broken()), (Some(name(1, 2)), false));
    assert_eq!((older.oldest_restorable, older.newest_restorable), (None, None));
}

#[test]
fn what_can_be_restored_spans_no_gap() {
    let (_, _, archive) = made();
    let before = Timestamp::now();
    log(&archive, 1, 1..=3);
    let between = Timestamp::now();
    log(&archive, 1, 5..=7);
    let first = archived(1, ("0/100028", "0/200000"), before);
    let second = archived(1, ("0/500028", "0/600000"), between);
    let both = state(&archive, &[first.clone(), second.clone()]);
    assert!(both.bases[0].reaches_time < both.newest_restorable);
    assert_eq!(both.oldest_restorable, Some(between));
    log(&archive, 1, [4]);
    assert_eq!(state(&archive, &[second.clone(), first]).oldest_restorable, Some(before));
    // One whose log does not reach its own end leads nowhere.
    let beyond = archived(1, ("0/500028", "0/900000"), before);
    assert_eq!(state(&archive, &[second, beyond]).oldest_restorable, Some(between));
}

/// Where a timeline was left while a base backup was being made, it cannot go along the newer one.
#[test]
fn a_base_backup_follows_what_began_behind_its_end() {
    let (_, _, archive) = made();
    log(&archive, 1, 5..=8);
    log(&archive, 2, 6..=9);
    history(&archive, 2, "1\t0/6000A0\tx\n");
    let now = Timestamp::now();
    let status = state(&archive, &[archived(1, ("0/500028", "0/600200"), now)]);
    assert_eq!(status.bases[0].reaches, Some(name(1, 8)));
    let status = state(&archive, &[archived(1, ("0/500028", "0/6000A0"), now)]);
    assert_eq!(status.bases[0].reaches, Some(name(2, 9)));
}

#[test]
fn a_damaged_history_is_named_and_hides_nothing_else() {
    let (memory, _, archive) = made();
    log(&archive, 1, 1..=5);
    history(&archive, 2, "1\t0/6000A0\tx\n");
    let key = (Kind::Wal, archive.id(&WalFile { system_id: CLUSTER, name: WalName::History(2) }));
    tamper(&memory, key, |mut bytes| {
        *bytes.last_mut().unwrap() ^= 1;
        Some(bytes)
    });
    let status = state(&archive, &[base(1, "0/200028")]);
    assert!(status.is_broken() && status.malformed_histories.contains_key("00000002.history"), "{status:?}");
    assert_eq!(status.bases[0].reaches, Some(name(1, 5)));
}
