//! Backup sets: they are published last, and never lose a snapshot.

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::record::{DrillOutcome, Proof};
use cairn::format::set::{BackupSet, Component, ConfigFacts, Consistency, Facts, Part, Status};
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::check::CheckOptions;
use cairn::repo::forget::Removals;
use cairn::repo::proven::{SetProof, proven};
use cairn::repo::sets::SetInfo;
use cairn::repo::{RepoError, Repository};
use jiff::Timestamp;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

use crate::cli::sets::proof;
use crate::support::faulty::{Fault, Faulty, Rule};
use crate::support::memory::Memory;
use crate::support::{assert_sound, init, load, open, rows, store};

/// A set of the profile `p` over these snapshots.
pub fn set_of(time: &str, status: Status, snapshots: &[ObjectId]) -> BackupSet {
    let part = |id: &ObjectId| Part { role: "tree".to_owned(), snapshot: *id, bytes: 1, stored_bytes: 1 };
    let time: Timestamp = time.parse().unwrap();
    BackupSet {
        profile: "p".to_owned(),
        host: "h".to_owned(),
        time,
        ended: time,
        consistency: Consistency::OnePointInTime,
        status,
        components: vec![Component {
            name: "config".to_owned(),
            status,
            parts: snapshots.iter().map(part).collect(),
            versions: Default::default(),
            facts: Some(Facts::Config(ConfigFacts::default())),
            warnings: Vec::new(),
            milliseconds: 5,
        }],
        steps: Vec::new(),
        warnings: Vec::new(),
        program: "a test".to_owned(),
    }
}

fn repository() -> (Arc<Memory>, Repository, ObjectId) {
    let memory = Memory::new();
    init(memory.as_ref());
    let backend: Arc<dyn Backend> = memory.clone();
    let repository = open(&backend);
    let id = store(&repository, "p.config", &rows(1, 200)).unwrap().id.unwrap();
    (memory, repository, id)
}

fn removal(id: ObjectId) -> Vec<(ObjectId, String)> {
    vec![(id, "a test".to_owned())]
}

#[test]
fn a_set_comes_back_as_it_was_and_keeps_its_snapshots() {
    let (_memory, repository, id) = repository();
    let set = set_of("2026-03-01T02:00:00Z", Status::Complete, &[id]);
    let set_id = repository.publish_set(&set).unwrap();
    let sets = repository.sets().unwrap();
    assert_eq!(sets.len(), 1);
    assert_eq!((sets[0].id, &sets[0].set), (set_id, &set));
    let error = repository.forget(&removal(id)).unwrap_err();
    assert!(matches!(&error, RepoError::Refused { why } if why.contains(&set_id.short())), "{error}");
    assert!(load(&repository, &id).is_ok());
    repository.forget_all(&Removals { snapshots: removal(id), sets: removal(set_id) }).unwrap();
    assert!(repository.sets().unwrap().is_empty() && repository.snapshots().unwrap().is_empty());
    assert_sound(&repository);
}

#[test]
fn a_set_over_a_snapshot_that_is_gone_is_not_published() {
    let (memory, repository, id) = repository();
    let gone = ObjectId::from_bytes([9; 32]);
    let set = set_of("2026-03-01T02:00:00Z", Status::Complete, &[id, gone]);
    let error = repository.publish_set(&set).unwrap_err();
    assert!(matches!(error, RepoError::Disappeared { kind: Kind::Snapshot, id } if id == gone), "{error}");
    assert!(repository.sets().unwrap().is_empty());
    assert!(memory.ids().iter().all(|(kind, _)| *kind != Kind::Set));
}

/// The forgetter has written its record and not yet removed: a set that comes between must lose, or nobody.
#[test]
fn a_set_that_comes_between_a_forget_record_and_its_removal_is_withdrawn() {
    let (memory, repository, id) = repository();
    // A copy of the repository in which the forgetting got as far as its record.
    let record = {
        let other: Arc<dyn Backend> = crate::support::fork(&memory);
        let forgetting = open(&other);
        forgetting.forget(&removal(id)).unwrap();
        let records = other_records(other.as_ref());
        assert_eq!(records.len(), 1);
        records.into_iter().next().unwrap()
    };
    memory.write_new(Kind::Forgotten, &record.0, &record.1).unwrap();
    let error = repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &[id])).unwrap_err();
    assert!(matches!(error, RepoError::Disappeared { .. }), "{error}");
    assert!(repository.sets().unwrap().is_empty());
}

fn other_records(backend: &dyn Backend) -> Vec<(ObjectId, Vec<u8>)> {
    let read = |id: ObjectId| {
        let range = cairn::backend::ByteRange::All { limit: 1 << 20 };
        (id, backend.read(Kind::Forgotten, &id, range).unwrap())
    };
    cairn::backend::list_all(backend, Kind::Forgotten).unwrap().into_iter().map(|(id, _)| read(id)).collect()
}

#[test]
fn check_names_a_set_that_lost_a_snapshot() {
    let (memory, repository, id) = repository();
    repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &[id])).unwrap();
    memory.remove(Kind::Snapshot, &id).unwrap();
    let report = repository.check(&CheckOptions::default(), &Silent).unwrap();
    let named = |problem: &cairn::repo::check::Problem| problem.subject.contains("backup set");
    assert!(report.problems.iter().any(named), "{:?}", report.problems);
}

#[test]
fn figures_that_no_number_holds_together_were_a_panic() {
    let mut set = set_of("2026-03-01T02:00:00Z", Status::Complete, &[ObjectId::from_bytes([1; 32]); 2]);
    for part in &mut set.components[0].parts {
        (part.bytes, part.stored_bytes) = (u64::MAX, u64::MAX - 1);
    }
    assert_eq!((set.bytes(), set.components[0].stored_bytes()), (u64::MAX, u64::MAX));
    assert!(cairn::cli::report::html(&ObjectId::from_bytes([2; 32]), &set, None).contains("PiB"));
}

#[test]
fn a_set_is_proven_by_proofs_of_every_part_of_it_and_of_no_other() {
    let (_memory, repository, first) = repository();
    let second = store(&repository, "p.config", &rows(2, 200)).unwrap().id.unwrap();
    let set = set_of("2026-03-01T02:00:00Z", Status::Complete, &[first, second]);
    let id = repository.publish_set(&set).unwrap();
    let proven = || {
        let proofs = repository.readable_snapshots().unwrap().proven(&repository.sets().unwrap());
        proofs.get(&id).and_then(|proof| proof.proven).map(|time| time.to_string())
    };
    let publish = |set: &ObjectId, snapshot, time| repository.publish_drill(set, &[proof(set, snapshot, time)]);
    assert_eq!(proven(), None);
    publish(&id, first, "2026-03-02T00:00:00Z").unwrap();
    assert_eq!(proven(), None, "one part is not the whole");
    // A proof of a set that is gone is not left.
    let other = ObjectId::of(b"another set");
    let error = publish(&other, second, "2026-03-03T00:00:00Z").unwrap_err();
    assert!(matches!(error, RepoError::Disappeared { kind: Kind::Set, .. }), "{error}");
    assert_eq!((proven(), repository.readable_snapshots().unwrap().drills.len()), (None, 1));
    publish(&id, second, "2026-03-04T00:00:00Z").unwrap();
    assert_eq!(proven().as_deref(), Some("2026-03-02T00:00:00Z"));
    publish(&id, first, "2026-03-05T00:00:00Z").unwrap();
    assert_eq!(proven().as_deref(), Some("2026-03-04T00:00:00Z"), "each part's newest, and of these the oldest");
    // Without one of its snapshots nothing of it can be restored, whatever was proven once.
    let sets = repository.sets().unwrap();
    let all = repository.readable_snapshots().unwrap();
    let left = [first].into_iter().collect();
    assert!(cairn::repo::proven::proven(&sets, &all.drills, &left).is_empty());
    assert_sound(&repository);
}

/// The record of a drill that did not find the first component equal.
fn finding(set: &ObjectId, snapshot: ObjectId, time: &str, outcome: DrillOutcome) -> Proof {
    let mut found = proof(set, snapshot, time);
    let drill = found.drill.as_mut().unwrap();
    (drill.outcome, drill.differences) = (outcome, vec!["the key lost.key is not in the set".to_owned()]);
    found
}

fn result_of(repository: &Repository, set: &ObjectId) -> SetProof {
    let proofs = repository.readable_snapshots().unwrap().proven(&repository.sets().unwrap());
    proofs.get(set).cloned().unwrap_or_default()
}

#[test]
fn a_difference_takes_back_what_an_older_drill_had_proven() {
    for outcome in [DrillOutcome::Different, DrillOutcome::Failed] {
        let (memory, repository, snapshot) = repository();
        let set = repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &[snapshot])).unwrap();
        let publish = |proof: Proof| repository.publish_drill(&set, &[proof]);
        publish(proof(&set, snapshot, "2026-03-02T00:00:00Z")).unwrap();
        assert!(result_of(&repository, &set).proven.is_some());
        let before = crate::support::fork(&memory);
        let written = publish(finding(&set, snapshot, "2026-03-03T00:00:00Z", outcome)).unwrap();
        let result = result_of(&repository, &set);
        assert_eq!((result.proven, result.components.len(), result.different.len()), (None, 0, 1));
        let found = result.last_different().unwrap();
        assert_eq!((found.time.to_string().as_str(), found.outcome), ("2026-03-03T00:00:00Z", outcome));
        let info = repository.snapshots().unwrap().remove(0);
        assert!(info.proof.is_none() && info.difference.is_some());

        // Whatever becomes of the record, the older proof does not count again: it is gone.
        let stored = memory.read(Kind::Proof, &written[0], cairn::backend::ByteRange::All { limit: 1 << 20 }).unwrap();
        memory.remove(Kind::Proof, &written[0]).unwrap();
        assert_eq!(result_of(&repository, &set), SetProof::default());
        // Also where both are there, and in whatever order they came.
        let both: Arc<dyn Backend> = before;
        both.write_new(Kind::Proof, &written[0], &stored).unwrap();
        assert_eq!(result_of(&open(&both), &set), result);

        // A later one that finds it equal proves it again, but not by a clock that is behind.
        memory.write_new(Kind::Proof, &written[0], &stored).unwrap();
        let error = publish(proof(&set, snapshot, "2026-03-02T12:00:00Z")).unwrap_err().to_string();
        for word in ["2026-03-03T00:00:00Z", "clocks", &written[0].to_string()] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(result_of(&repository, &set).proven, None);
        publish(proof(&set, snapshot, "2026-03-04T00:00:00Z")).unwrap();
        let result = result_of(&repository, &set);
        assert_eq!(result.proven.map(|time| time.to_string()).as_deref(), Some("2026-03-04T00:00:00Z"));
        assert!(result.different.is_empty());
        assert_sound(&repository);
    }
}

#[test]
fn a_difference_that_cannot_be_published_leaves_no_older_proof() {
    let (memory, repository, snapshot) = repository();
    let set = repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &[snapshot])).unwrap();
    repository.publish_drill(&set, &[proof(&set, snapshot, "2026-03-02T00:00:00Z")]).unwrap();
    let found = finding(&set, snapshot, "2026-03-03T00:00:00Z", DrillOutcome::Different);
    // The removal of what is taken back, and the writing.
    for (change, fault) in [0, 1].into_iter().flat_map(|change| FAULTS.map(|fault| (change, fault))) {
        let copy = crate::support::fork(&memory);
        let faulty = Faulty::new(copy.clone());
        let backend: Arc<dyn Backend> = faulty.clone();
        let repository = open(&backend);
        faulty.add(Rule::on_change(fault).kind(Kind::Proof).after(change));
        assert!(repository.publish_drill(&set, std::slice::from_ref(&found)).is_err(), "{change} {fault:?}");
        let after: Arc<dyn Backend> = Memory::with_state(copy.snapshot().after_power_loss());
        let result = result_of(&open(&after), &set);
        // Before the first of them the drill has said nothing.
        let nothing_done = (change, fault) == (0, Fault::CrashBefore) || (change, fault) == (0, Fault::CrashAfter);
        assert!(result.proven.is_none() || nothing_done, "{change} {fault:?}: {result:?}");
        let has_told = matches!((change, fault), (0, Fault::Error | Fault::Full | Fault::LostAcknowledgement));
        assert_eq!(result.different.len(), usize::from(has_told), "{change} {fault:?}");
    }
}

const FAULTS: [Fault; 5] =
    [Fault::Error, Fault::Full, Fault::LostAcknowledgement, Fault::CrashBefore, Fault::CrashAfter];

/// A record of a newer cairn may say of any set that it differs.
#[test]
fn a_record_that_cannot_be_understood_keeps_sets_from_being_proven() {
    let (memory, repository, snapshot) = repository();
    let set = repository.publish_set(&set_of("2026-03-01T02:00:00Z", Status::Complete, &[snapshot])).unwrap();
    repository.publish_drill(&set, &[proof(&set, snapshot, "2026-03-02T00:00:00Z")]).unwrap();
    let mut strange = finding(&set, snapshot, "2026-03-03T00:00:00Z", DrillOutcome::Different);
    strange.drill.as_mut().unwrap().differences.clear();
    let id = repository.write_record(&strange).unwrap();
    let snapshots = repository.readable_snapshots().unwrap();
    assert!(snapshots.damaged_proofs[0].message().contains("contradict"), "{}", snapshots.damaged_proofs[0].message());
    let result = result_of(&repository, &set);
    assert_eq!((result.proven, result.components.len()), (None, 1));
    memory.remove(Kind::Proof, &id).unwrap();
    assert!(result_of(&repository, &set).proven.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_set_is_proven_only_by_what_no_later_drill_has_taken_back(
        // Which part, when, and whether it was equal.
        results in proptest::collection::vec((0usize..2, 0i64..6, any::<bool>()), 0..10),
    ) {
        let parts = [ObjectId::from_bytes([1; 32]), ObjectId::from_bytes([2; 32])];
        let id = ObjectId::from_bytes([3; 32]);
        let set = SetInfo { id, set: set_of("2026-03-01T02:00:00Z", Status::Complete, &parts) };
        let time = |second: i64| Timestamp::from_second(second).unwrap().to_string();
        let record = |(part, second, equal): &(usize, i64, bool)| match equal {
            true => proof(&id, parts[*part], &time(*second)),
            false => finding(&id, parts[*part], &time(*second), DrillOutcome::Failed),
        };
        let records: Vec<Proof> = results.iter().map(record).collect();
        let present = parts.into_iter().collect();
        let result = proven(&[set], &records, &present).remove(&id).unwrap_or_default();
        let newest = |part: usize, equal: bool| {
            results.iter().filter(|one| (one.0, one.2) == (part, equal)).map(|one| one.1).max()
        };
        let holds = |part| newest(part, true).filter(|since| newest(part, false).is_none_or(|taken| taken < *since));
        let expected = holds(0).zip(holds(1)).map(|(one, other)| one.min(other));
        prop_assert_eq!(result.proven.map(|time| time.as_second()), expected);
        let differs = (0..2).any(|part| newest(part, false).is_some_and(|taken| newest(part, true) <= Some(taken)));
        prop_assert_eq!(!result.different.is_empty(), differs);
    }
}
