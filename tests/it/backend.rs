//! One suite that every backend passes, and what only a directory can do wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn::backend::local::Local;
use cairn::backend::{Backend, BackendError, ByteRange, list_all};
use cairn::format::{Kind, ObjectId};

use crate::support::faulty::{Fault, Faulty};
use crate::support::memory::Memory;

fn id(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 32])
}

const ALL: ByteRange = ByteRange::All { limit: 1 << 30 };

fn conformance(backend: Arc<dyn Backend>) {
    for kind in [Kind::DataPack, Kind::MetaPack, Kind::Snapshot, Kind::Key, Kind::Lease, Kind::Proof] {
        assert!(list_all(backend.as_ref(), kind).unwrap().is_empty());
        assert!(backend.read(kind, &id(1), ALL).unwrap_err().is_not_found());
        assert!(backend.stat(kind, &id(1)).unwrap_err().is_not_found());
        assert!(backend.remove(kind, &id(1)).unwrap_err().is_not_found());
        backend.write_new(kind, &id(1), b"one object").unwrap();
        backend.write_new(kind, &id(2), b"").unwrap();
        assert_eq!(backend.read(kind, &id(1), ALL).unwrap(), b"one object");
        assert_eq!(backend.read(kind, &id(2), ALL).unwrap(), b"");
        let at = |offset, len| backend.read(kind, &id(1), ByteRange::At { offset, len });
        assert_eq!(at(4, 6).unwrap(), b"object");
        assert_eq!(at(10, 0).unwrap(), b"");
        for (offset, len) in [(4, 7), (11, 0), (u64::MAX, 1), (0, u64::MAX)] {
            assert!(matches!(at(offset, len), Err(BackendError::Range { len: 10, .. })), "{offset} {len}");
        }
        let short = backend.read(kind, &id(1), ByteRange::All { limit: 9 });
        assert!(matches!(short, Err(BackendError::Range { .. })));
        for other in [b"one object".as_slice(), b"another"] {
            let again = backend.write_new(kind, &id(1), other);
            assert!(matches!(again, Err(BackendError::AlreadyExists { .. })), "{again:?}");
        }
        assert_eq!(backend.read(kind, &id(1), ALL).unwrap(), b"one object");
        assert_eq!(backend.stat(kind, &id(1)).unwrap().len, 10);
        assert!(backend.stat(kind, &id(1)).unwrap().modified <= backend.stat(kind, &id(2)).unwrap().modified);
        assert_eq!(list_all(backend.as_ref(), kind).unwrap(), [(id(1), 10), (id(2), 0)]);
        backend.remove(kind, &id(1)).unwrap();
        assert_eq!(list_all(backend.as_ref(), kind).unwrap(), [(id(2), 0)]);
        backend.sync().unwrap();
    }
    one_writer_wins(&backend);
}

fn one_writer_wins(backend: &Arc<dyn Backend>) {
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8u8 {
            let won = &won;
            scope.spawn(move || match backend.write_new(Kind::Tombstone, &id(9), &[number; 1000]) {
                Ok(()) => drop(won.fetch_add(1, Ordering::SeqCst)),
                Err(BackendError::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error}"),
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
    let bytes = backend.read(Kind::Tombstone, &id(9), ALL).unwrap();
    assert!(bytes.len() == 1000 && bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two writers");
}

#[test]
fn memory_conforms() {
    conformance(Arc::new(Memory::default()));
}

#[test]
fn faulty_without_faults_conforms() {
    conformance(Arc::new(Faulty::new(Arc::new(Memory::default()), Fault::None)));
}

#[test]
fn local_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance(Arc::new(Local::create(&directory.path().join("new/repository")).unwrap()));
}

#[test]
fn local_refuses_a_directory_that_is_not_empty() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious"), "data").unwrap();
    let error = Local::create(directory.path()).err().unwrap().to_string();
    assert!(error.contains("precious") && error.contains("not empty"), "{error}");
    assert!(matches!(Local::open(directory.path()).err().unwrap(), BackendError::NoRepository { .. }));
}

#[test]
fn local_ignores_foreign_files_and_links() {
    let directory = tempfile::tempdir().unwrap();
    let local = Local::create(directory.path()).unwrap();
    local.write_new(Kind::Snapshot, &id(1), b"x").unwrap();
    let snapshots = directory.path().join("snapshots");
    std::fs::write(snapshots.join("README"), "x").unwrap();
    std::fs::write(snapshots.join(id(0xab).to_string().to_uppercase()), "x").unwrap();
    std::fs::create_dir_all(directory.path().join("data/zz")).unwrap();
    std::fs::create_dir_all(directory.path().join("data/01")).unwrap();
    std::fs::write(directory.path().join("data/01").join(id(2).to_string()), "in the wrong folder").unwrap();
    assert_eq!(list_all(&local, Kind::Snapshot).unwrap().len(), 1);
    assert!(list_all(&local, Kind::DataPack).unwrap().is_empty());
    std::os::unix::fs::symlink("/etc/passwd", snapshots.join(id(3).to_string())).unwrap();
    assert!(local.read(Kind::Snapshot, &id(3), ALL).is_err(), "a link was followed");
}

#[test]
fn local_removes_debris_of_killed_writes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let local = Local::create(directory.path()).unwrap();
    local.write_new(Kind::Snapshot, &id(1), b"x").unwrap();
    std::fs::write(directory.path().join("tmp/wkilled"), vec![0; 100]).unwrap();
    assert_eq!(local.remove_debris(3600, false).unwrap(), (0, 0), "it may still be written to");
    assert_eq!(local.remove_debris(0, true).unwrap(), (1, 100));
    assert_eq!(local.remove_debris(0, false).unwrap(), (1, 100));
    assert_eq!(local.remove_debris(0, false).unwrap(), (0, 0));
    assert_eq!(list_all(&local, Kind::Snapshot).unwrap().len(), 1);
}

/// Mounts a small file system; prints a skip where that is not allowed.
fn small_mount(path: &Path) -> bool {
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(path)
        .stderr(std::process::Stdio::null())
        .status();
    let mounted = mounted.is_ok_and(|status| status.success());
    if !mounted {
        println!("SKIPPED: a file system cannot be mounted here");
    }
    mounted
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    if !small_mount(directory.path()) {
        return;
    }
    let local = Local::create(&directory.path().join("repository")).unwrap();
    local.write_new(Kind::DataPack, &id(1), &vec![1; 300_000]).unwrap();
    let error = local.write_new(Kind::DataPack, &id(2), &vec![2; 3_000_000]).unwrap_err();
    assert!(matches!(error, BackendError::Full { .. }), "{error}");
    assert_eq!(list_all(&local, Kind::DataPack).unwrap(), [(id(1), 300_000)]);
    assert_eq!(local.remove_debris(0, true).unwrap(), (0, 0), "the failed write left something");
    local.write_new(Kind::DataPack, &id(3), &vec![3; 300_000]).unwrap();
    std::process::Command::new("umount").arg(directory.path()).status().unwrap();
}
