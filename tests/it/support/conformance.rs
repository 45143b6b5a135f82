//! What every backend must do. Each backend's tests call [`check_backend`].

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use cairn::backend::{Backend, BackendError, ByteRange, list_all};
use cairn::format::{Kind, ObjectId};

const ANY: ByteRange = ByteRange::All { limit: 1 << 30 };

/// Runs the whole suite; `make` gives a new empty backend each time.
pub fn check_backend(make: impl Fn() -> Arc<dyn Backend>) {
    reads_back_what_was_written(&*make());
    reads_ranges(&*make());
    refuses_ranges_that_are_not_there(&*make());
    tells_what_is_not_found(&*make());
    keeps_kinds_apart(&*make());
    lists_all_and_only_what_is_there(&*make());
    never_overwrites(&*make());
    writes_piece_by_piece(&*make());
    removes(&*make());
    tells_times_in_order(&*make());
    keeps_an_empty_and_a_large_object(&*make());
    lets_one_of_many_writers_win(&make());
    lists_while_others_write(&make());
    reports_no_debris_of_good_writes(&*make());
}

/// An id that is easy to tell from others, with a given first byte.
pub fn id(first: u8, last: u8) -> ObjectId {
    let mut bytes = [0xa5; ObjectId::LEN];
    bytes[0] = first;
    bytes[ObjectId::LEN - 1] = last;
    ObjectId::from_bytes(bytes)
}

/// The ids that the suite uses for a kind: the configuration has one place only.
fn ids_of(kind: Kind) -> Vec<ObjectId> {
    if kind == Kind::Config { vec![ObjectId::ZERO] } else { vec![id(0, 1), id(0, 2), id(0xff, 1)] }
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn reads_back_what_was_written(backend: &dyn Backend) {
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        for (index, id) in ids_of(kind).iter().enumerate() {
            let bytes = content((number * 10 + index) as u64, 1000 + index);
            backend.write_new(kind, id, &bytes).unwrap();
            assert_eq!(backend.read(kind, id, ANY).unwrap(), bytes, "{kind} {id}");
            assert_eq!(backend.stat(kind, id).unwrap().len, bytes.len() as u64);
        }
    }
    backend.sync().unwrap();
    backend.sync().unwrap();
    assert_eq!(backend.read(Kind::Set, &id(0, 2), ANY).unwrap().len(), 1001);
}

fn reads_ranges(backend: &dyn Backend) {
    let (bytes, id) = (content(1, 100_000), id(7, 7));
    backend.write_new(Kind::DataPack, &id, &bytes).unwrap();
    for (offset, len) in [(0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321), (0, 0), (100_000, 0), (50, 0)] {
        let read = backend.read(Kind::DataPack, &id, ByteRange::At { offset, len }).unwrap();
        assert_eq!(read, bytes[offset as usize..(offset + len) as usize], "{len} from {offset}");
    }
    let whole = backend.read(Kind::DataPack, &id, ByteRange::All { limit: 100_000 }).unwrap();
    assert_eq!(whole, bytes, "an object as long as the limit is accepted");
}

fn refuses_ranges_that_are_not_there(backend: &dyn Backend) {
    let id = id(8, 8);
    backend.write_new(Kind::MetaPack, &id, &content(2, 1000)).unwrap();
    for (offset, len) in [(0, 1001), (999, 2), (1000, 1), (1001, 0), (u64::MAX, 1), (1, u64::MAX), (0, 1 << 60)] {
        match backend.read(Kind::MetaPack, &id, ByteRange::At { offset, len }) {
            Err(BackendError::Range { kind: Kind::MetaPack, id: found, len: 1000, .. }) => assert_eq!(found, id),
            other => panic!("{len} from {offset}: {other:?}"),
        }
    }
    match backend.read(Kind::MetaPack, &id, ByteRange::All { limit: 999 }) {
        Err(BackendError::Range { len: 1000, .. }) => {}
        other => panic!("beyond the limit: {other:?}"),
    }
}

fn tells_what_is_not_found(backend: &dyn Backend) {
    for kind in Kind::ALL {
        for id in ids_of(kind) {
            let errors = [
                backend.read(kind, &id, ANY).map(drop),
                backend.read(kind, &id, ByteRange::At { offset: 0, len: 0 }).map(drop),
                backend.stat(kind, &id).map(drop),
                backend.remove(kind, &id),
            ];
            for error in errors {
                match error {
                    Err(BackendError::NotFound { kind: k, id: i, location }) => {
                        assert_eq!((k, i, location), (kind, id, backend.location()));
                    }
                    other => panic!("{kind} {id}: {other:?}"),
                }
            }
        }
        assert_eq!(list_all(backend, kind).unwrap(), []);
    }
}

fn keeps_kinds_apart(backend: &dyn Backend) {
    let id = id(9, 9);
    backend.write_new(Kind::DataPack, &id, b"data").unwrap();
    for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::DataPack | Kind::Config)) {
        assert!(backend.read(kind, &id, ANY).unwrap_err().is_not_found(), "{kind}");
        backend.write_new(kind, &id, kind.word().as_bytes()).unwrap();
    }
    backend.remove(Kind::Lease, &id).unwrap();
    assert_eq!(backend.read(Kind::DataPack, &id, ANY).unwrap(), b"data");
    assert_eq!(backend.read(Kind::Proof, &id, ANY).unwrap(), b"proof");
}

fn lists_all_and_only_what_is_there(backend: &dyn Backend) {
    for kind in Kind::ALL {
        let mut expected = Vec::new();
        for (index, id) in ids_of(kind).into_iter().enumerate() {
            backend.write_new(kind, &id, &content(3, 10 + index)).unwrap();
            expected.push((id, 10 + index as u64));
        }
        expected.sort_unstable();
        assert_eq!(list_all(backend, kind).unwrap(), expected, "{kind}");
    }
    let mut expected = Vec::new();
    for number in 0..=255 {
        let id = id(number, 77);
        backend.write_new(Kind::DataPack, &id, &[number]).unwrap();
        expected.push((id, 1));
    }
    let mut found = list_all(backend, Kind::DataPack).unwrap();
    found.retain(|(id, _)| id.as_bytes()[ObjectId::LEN - 1] == 77);
    assert_eq!(found, expected);
}

fn never_overwrites(backend: &dyn Backend) {
    for kind in Kind::ALL {
        let id = ids_of(kind)[0];
        backend.write_new(kind, &id, b"first").unwrap();
        let before = backend.stat(kind, &id).unwrap();
        for again in [&b"first"[..], b"second, longer", b""] {
            match backend.write_new(kind, &id, again) {
                Err(BackendError::AlreadyExists { kind: k, id: i, .. }) => assert_eq!((k, i), (kind, id)),
                other => panic!("{kind}: {other:?}"),
            }
            assert_eq!(backend.read(kind, &id, ANY).unwrap(), b"first", "{kind}");
            assert_eq!(backend.stat(kind, &id).unwrap(), before, "{kind}");
            assert_eq!(list_all(backend, kind).unwrap(), [(id, 5)], "{kind}");
        }
    }
    assert_eq!(backend.remove_debris(0, false).unwrap(), (0, 0), "a refused write leaves nothing behind");
}

fn writes_piece_by_piece(backend: &dyn Backend) {
    for kind in Kind::ALL {
        let id = ids_of(kind)[0];
        let (bytes, empty) = (content(5, 3 << 20), backend.begin_new(kind, &id, 0).unwrap());
        let mut object = backend.begin_new(kind, &id, 700).unwrap();
        for piece in bytes[700..].chunks(1_000_001) {
            object.write(piece).unwrap();
        }
        assert!(backend.stat(kind, &id).unwrap_err().is_not_found(), "{kind}: it was there before its end");
        assert_eq!(list_all(backend, kind).unwrap(), []);
        object.finish(&bytes[..700]).unwrap();
        backend.sync().unwrap();
        assert!(backend.read(kind, &id, ANY).unwrap() == bytes, "{kind}");

        match empty.finish(b"") {
            Err(BackendError::AlreadyExists { kind: k, id: i, .. }) => assert_eq!((k, i), (kind, id)),
            other => panic!("{kind}: {other:?}"),
        }
        assert!(backend.read(kind, &id, ANY).unwrap() == bytes, "{kind}");
        backend.remove(kind, &id).unwrap();
        let mut object = backend.begin_new(kind, &id, 10).unwrap();
        object.write(b"content").unwrap();
        assert!(object.finish(b"too short").is_err(), "{kind}: a head of another length");
        drop(backend.begin_new(kind, &id, 10).unwrap());
        assert_eq!(list_all(backend, kind).unwrap(), []);
    }
    assert_eq!(backend.remove_debris(0, false).unwrap(), (0, 0), "what is not finished leaves nothing behind");
}

fn removes(backend: &dyn Backend) {
    for kind in Kind::ALL {
        let all = ids_of(kind);
        for id in &all {
            backend.write_new(kind, id, b"x").unwrap();
        }
        backend.remove(kind, &all[0]).unwrap();
        assert!(backend.read(kind, &all[0], ANY).unwrap_err().is_not_found());
        assert!(backend.remove(kind, &all[0]).unwrap_err().is_not_found());
        assert_eq!(list_all(backend, kind).unwrap().len(), all.len() - 1, "{kind}");
        backend.write_new(kind, &all[0], b"again").unwrap();
        assert_eq!(backend.read(kind, &all[0], ANY).unwrap(), b"again");
    }
    backend.sync().unwrap();
}

fn tells_times_in_order(backend: &dyn Backend) {
    let mut before = None;
    for number in 0..5 {
        let id = id(number, 5);
        backend.write_new(Kind::Lease, &id, b"x").unwrap();
        let stat = backend.stat(Kind::Lease, &id).unwrap();
        assert_eq!(backend.stat(Kind::Lease, &id).unwrap(), stat, "the time of an object does not change");
        assert!(before.is_none_or(|before| before <= stat.modified), "times never run backwards");
        before = Some(stat.modified);
    }
}

fn keeps_an_empty_and_a_large_object(backend: &dyn Backend) {
    let (empty, large) = (id(1, 1), id(2, 2));
    backend.write_new(Kind::DataPack, &empty, b"").unwrap();
    assert_eq!(backend.read(Kind::DataPack, &empty, ByteRange::All { limit: 0 }).unwrap(), b"");
    let bytes = content(4, 64 << 20);
    backend.write_new(Kind::DataPack, &large, &bytes).unwrap();
    assert!(backend.read(Kind::DataPack, &large, ANY).unwrap() == bytes, "64 MiB differ");
    let range = ByteRange::At { offset: (64 << 20) - 3, len: 3 };
    assert_eq!(backend.read(Kind::DataPack, &large, range).unwrap(), bytes[(64 << 20) - 3..]);
    assert_eq!(list_all(backend, Kind::DataPack).unwrap(), [(empty, 0), (large, 64 << 20)]);
}

fn lets_one_of_many_writers_win(backend: &Arc<dyn Backend>) {
    for round in 0..20 {
        let (threads, id) = (8u64, id(round, 3));
        let start = Barrier::new(threads as usize);
        let write = |number| {
            start.wait();
            match backend.write_new(Kind::DataPack, &id, &content(number, 5000)) {
                Ok(()) => Some(number),
                Err(BackendError::AlreadyExists { .. }) => None,
                Err(other) => panic!("{other:?}"),
            }
        };
        let winners: Vec<u64> = thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || write(number))).collect();
            running.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1, "exactly one writer succeeds");
        assert!(backend.read(Kind::DataPack, &id, ANY).unwrap() == content(winners[0], 5000));
    }
}

fn lists_while_others_write(backend: &Arc<dyn Backend>) {
    let (kept, len) = (id(200, 200), 3000);
    backend.write_new(Kind::MetaPack, &kept, &content(0, len)).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..100 {
                let id = id(number, 4);
                backend.write_new(Kind::MetaPack, &id, &content(u64::from(number), len)).unwrap();
                if number % 2 == 0 {
                    backend.remove(Kind::MetaPack, &id).unwrap();
                }
                backend.sync().unwrap();
            }
        });
        while !writer.is_finished() {
            let mut seen = BTreeMap::new();
            let note = &mut |id, found| assert_eq!(seen.insert(id, found), None, "an id is listed once");
            backend.list(Kind::MetaPack, note).unwrap();
            assert!(seen.contains_key(&kept), "what was there all the time is always listed");
            assert!(seen.values().all(|found| *found == len as u64), "an object is whole or not there");
        }
    });
    assert_eq!(list_all(&**backend, Kind::MetaPack).unwrap().len(), 51);
}

fn reports_no_debris_of_good_writes(backend: &dyn Backend) {
    backend.write_new(Kind::Snapshot, &id(1, 1), b"x").unwrap();
    assert_eq!(backend.remove_debris(0, true).unwrap(), (0, 0));
    assert_eq!(backend.remove_debris(0, false).unwrap(), (0, 0));
    assert_eq!(backend.read(Kind::Snapshot, &id(1, 1), ANY).unwrap(), b"x");
}
