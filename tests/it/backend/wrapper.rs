//! The backends that tests use to provoke and to count do what they say.

use std::sync::Arc;

use cairn::backend::{Backend, BackendError, ByteRange, list_all};
use cairn::format::{Kind, ObjectId};

use crate::support::conformance::id;
use crate::support::faulty::{Fault, Faulty, Operation, Rule};
use crate::support::memory::{CLOCK_START, Memory};
use crate::support::recording::{Event, Recording, Tally};

const ANY: ByteRange = ByteRange::All { limit: 1 << 20 };
const ONE: ObjectId = ObjectId::from_bytes([1; 32]);
const TWO: ObjectId = ObjectId::from_bytes([2; 32]);

fn faulty() -> (Arc<Memory>, Arc<Faulty>) {
    let memory = Memory::new();
    (Arc::clone(&memory), Faulty::new(memory))
}

fn is_io(result: Result<impl std::fmt::Debug, BackendError>) -> bool {
    matches!(result, Err(BackendError::Io { .. }))
}

#[test]
fn a_rule_fails_the_chosen_calls_only() {
    let (memory, faulty) = faulty();
    faulty.add(Rule::on(Operation::Write, Fault::Error).kind(Kind::DataPack).after(1));
    faulty.write_new(Kind::DataPack, &ONE, b"1").unwrap();
    faulty.write_new(Kind::MetaPack, &ONE, b"1").unwrap();
    assert!(is_io(faulty.write_new(Kind::DataPack, &TWO, b"2")));
    assert_eq!(memory.peek(Kind::DataPack, &TWO), None);
    faulty.write_new(Kind::DataPack, &TWO, b"2").unwrap();
    assert_eq!(faulty.calls(Operation::Write), 4);
}

#[test]
fn a_full_storage_stays_full_until_it_is_healed() {
    let (memory, faulty) = faulty();
    faulty.add(Rule::on(Operation::Write, Fault::Full).always());
    for _ in 0..3 {
        let error = faulty.write_new(Kind::Snapshot, &ONE, b"1").unwrap_err();
        assert!(matches!(error, BackendError::Full { .. }), "{error:?}");
    }
    assert_eq!(memory.ids(), []);
    faulty.heal();
    faulty.write_new(Kind::Snapshot, &ONE, b"1").unwrap();
}

#[test]
fn a_short_write_leaves_debris_that_nobody_sees() {
    let (_, faulty) = faulty();
    faulty.add(Rule::on(Operation::Write, Fault::ShortWrite));
    assert!(is_io(faulty.write_new(Kind::DataPack, &ONE, &[0; 100])));
    assert_eq!(list_all(&*faulty, Kind::DataPack).unwrap(), []);
    assert_eq!(faulty.remove_debris(0, true).unwrap(), (1, 50));
    assert_eq!(faulty.remove_debris(0, false).unwrap(), (1, 50));
    assert_eq!(faulty.remove_debris(0, false).unwrap(), (0, 0));
}

#[test]
fn a_lost_acknowledgement_has_had_its_effect() {
    let (memory, faulty) = faulty();
    faulty.add(Rule::on(Operation::Write, Fault::LostAcknowledgement));
    faulty.add(Rule::on(Operation::Remove, Fault::LostAcknowledgement));
    assert!(is_io(faulty.write_new(Kind::Lease, &ONE, b"1")));
    assert!(memory.peek(Kind::Lease, &ONE).is_some());
    assert!(is_io(faulty.remove(Kind::Lease, &ONE)));
    assert_eq!(memory.peek(Kind::Lease, &ONE), None);
    assert!(faulty.remove(Kind::Lease, &ONE).unwrap_err().is_not_found());
}

#[test]
fn after_a_crash_nothing_works() {
    for (fault, happened) in [(Fault::CrashBefore, false), (Fault::CrashAfter, true)] {
        let (memory, faulty) = faulty();
        faulty.add(Rule::on(Operation::Write, fault).after(1));
        faulty.write_new(Kind::DataPack, &ONE, b"1").unwrap();
        assert!(!faulty.has_crashed());
        assert!(is_io(faulty.write_new(Kind::DataPack, &TWO, b"2")));
        assert!(faulty.has_crashed());
        assert_eq!(memory.peek(Kind::DataPack, &TWO).is_some(), happened);
        assert!(is_io(faulty.read(Kind::DataPack, &ONE, ANY)));
        assert!(is_io(faulty.remove(Kind::DataPack, &ONE)));
        assert!(is_io(faulty.stat(Kind::DataPack, &ONE)));
        assert!(is_io(faulty.sync()));
        assert!(is_io(list_all(&*faulty, Kind::DataPack)));
        assert!(is_io(faulty.remove_debris(0, false)));
        assert!(memory.peek(Kind::DataPack, &ONE).is_some());
    }
}

#[test]
fn a_crash_can_be_at_any_change() {
    for number in 0..3 {
        let (memory, faulty) = faulty();
        faulty.add(Rule::on_change(Fault::CrashAfter).after(number));
        let steps = [
            faulty.write_new(Kind::Lease, &ONE, b"1"),
            faulty.sync(),
            faulty.write_new(Kind::DataPack, &TWO, b"2"),
            faulty.remove(Kind::Lease, &ONE),
        ];
        let done =
            [vec![(Kind::Lease, ONE)], vec![(Kind::DataPack, TWO), (Kind::Lease, ONE)], vec![(Kind::DataPack, TWO)]];
        assert_eq!(memory.ids(), done[number as usize]);
        assert_eq!(steps.iter().filter(|step| step.is_ok()).count(), [0, 2, 3][number as usize]);
        assert_eq!(faulty.changes(), 3);
    }
}

#[test]
fn reads_and_lists_can_lie() {
    let (_, faulty) = faulty();
    faulty.write_new(Kind::Set, &ONE, b"abcd").unwrap();
    faulty.write_new(Kind::Set, &TWO, b"").unwrap();
    faulty.add(Rule::on(Operation::Read, Fault::FlipBit(5)));
    faulty.add(Rule::on(Operation::Read, Fault::Truncate(3)).after(1));
    faulty.add(Rule::on(Operation::List, Fault::Stale));
    assert_eq!(faulty.read(Kind::Set, &ONE, ANY).unwrap(), b"accd");
    assert_eq!(faulty.read(Kind::Set, &ONE, ANY).unwrap(), b"abc");
    assert_eq!(faulty.read(Kind::Set, &ONE, ANY).unwrap(), b"abcd");
    assert_eq!(list_all(&*faulty, Kind::Set).unwrap(), [(ONE, 4)]);
    assert_eq!(list_all(&*faulty, Kind::Set).unwrap(), [(ONE, 4), (TWO, 0)]);
}

#[test]
fn a_state_goes_on_where_it_was_taken() {
    let memory = Memory::new();
    memory.write_new(Kind::DataPack, &ONE, b"1").unwrap();
    memory.sync().unwrap();
    memory.write_new(Kind::DataPack, &TWO, b"22").unwrap();
    let state = memory.snapshot();
    memory.remove(Kind::DataPack, &ONE).unwrap();
    assert_eq!(memory.total_bytes(), 2);

    let killed = Memory::with_state(state.clone());
    assert_eq!(killed.ids(), [(Kind::DataPack, ONE), (Kind::DataPack, TWO)]);
    let unplugged = Memory::with_state(state.after_power_loss());
    assert_eq!(unplugged.ids(), [(Kind::DataPack, ONE)]);
    unplugged.overwrite(Kind::DataPack, &ONE, b"damaged");
    assert_eq!(unplugged.read(Kind::DataPack, &ONE, ANY).unwrap(), b"damaged");
}

#[test]
fn the_clock_of_memory_is_a_counter() {
    let memory = Memory::new();
    memory.write_new(Kind::Lease, &ONE, b"").unwrap();
    memory.advance_clock(3600);
    memory.write_new(Kind::Lease, &TWO, b"").unwrap();
    let seconds = |id| memory.stat(Kind::Lease, id).unwrap().modified.as_second() - CLOCK_START;
    assert_eq!((seconds(&ONE), seconds(&TWO)), (1, 3602));
}

#[test]
fn calls_and_bytes_are_counted_in_order() {
    let recording = Recording::new(Memory::new());
    recording.write_new(Kind::DataPack, &id(1, 1), &[0; 10]).unwrap();
    recording.write_new(Kind::Snapshot, &id(1, 1), &[0; 5]).unwrap();
    recording.write_new(Kind::Snapshot, &id(1, 1), &[0; 5]).unwrap_err();
    recording.sync().unwrap();
    recording.read(Kind::DataPack, &id(1, 1), ByteRange::At { offset: 2, len: 3 }).unwrap();
    recording.stat(Kind::DataPack, &id(1, 1)).unwrap();
    list_all(&*recording, Kind::DataPack).unwrap();
    assert_eq!(recording.tally(Operation::Write, Kind::DataPack), Tally { calls: 1, amount: 10 });
    assert_eq!(recording.total(Operation::Write), Tally { calls: 2, amount: 15 });
    assert_eq!(recording.total(Operation::Read), Tally { calls: 1, amount: 3 });
    let events = recording.take();
    let operations: Vec<Operation> = events.iter().map(|event| event.operation).collect();
    assert_eq!(
        operations,
        [Operation::Write, Operation::Write, Operation::Sync, Operation::Read, Operation::Stat, Operation::List]
    );
    let second = Event { operation: Operation::Write, kind: Some(Kind::Snapshot), id: Some(id(1, 1)), amount: 5 };
    assert_eq!(events[1], second);
    assert_eq!(recording.total(Operation::Write), Tally::default());
}
