//! The local backend on a real file system.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, SystemTime};

use cairn::backend::local::Local;
use cairn::backend::{Backend, BackendError, ByteRange, list_all};
use cairn::format::{Kind, ObjectId};
use cairn::progress::Silent;
use cairn::repo::{InitOptions, OpenOptions, RepoError, Repository};
use tempfile::TempDir;

use crate::support::conformance::{check_backend, id};
use crate::support::faulty::Faulty;
use crate::support::machine::Tmpfs;
use crate::support::{CHUNKS, credential};

const ANY: ByteRange = ByteRange::All { limit: 1 << 30 };

/// A new repository directory, and the directory that it is in.
fn repository() -> (TempDir, PathBuf, Local) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let local = Local::create(&path).unwrap();
    (directory, path, local)
}

/// Names in `tmp/`.
fn debris(repository: &Path) -> usize {
    fs::read_dir(repository.join("tmp")).unwrap().count()
}

fn spread(repository: &Path, kind: &str, id: &ObjectId) -> PathBuf {
    let hex = id.to_string();
    repository.join(kind).join(&hex[..2]).join(hex)
}

#[test]
fn local_conforms() {
    let directories = Mutex::new(Vec::new());
    let make = || {
        let (directory, _, local) = repository();
        directories.lock().unwrap().push(directory);
        Arc::new(local)
    };
    check_backend(|| make());
    check_backend(|| Faulty::new(make()));
}

#[test]
fn objects_are_files_where_the_format_says() {
    let (_directory, path, local) = repository();
    let id = id(0xab, 0xcd);
    let hex = id.to_string();
    assert!(hex.starts_with("ab"));
    for kind in Kind::ALL {
        let id = if kind == Kind::Config { ObjectId::ZERO } else { id };
        local.write_new(kind, &id, kind.word().as_bytes()).unwrap();
    }
    for (place, word) in [
        ("config".to_owned(), "configuration"),
        (format!("keys/{hex}"), "key"),
        (format!("data/ab/{hex}"), "data pack"),
        (format!("meta/ab/{hex}"), "metadata pack"),
        (format!("snapshots/{hex}"), "snapshot"),
        (format!("sets/{hex}"), "backup set"),
        (format!("tombstones/{hex}"), "tombstone"),
        (format!("leases/{hex}"), "lease"),
        (format!("proofs/{hex}"), "proof"),
        (format!("forgotten/{hex}"), "forget record"),
        (format!("wal/{hex}"), "log file"),
    ] {
        assert_eq!(fs::read_to_string(path.join(&place)).unwrap(), word, "{place}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path.join(&place)), 0o600, "{place}");
        assert_eq!(mode(path.join(&place).parent().unwrap()), 0o700, "{place}");
    }
    assert_eq!(debris(&path), 0);
    let reopened = Local::open(&path).unwrap();
    assert_eq!(reopened.read(Kind::Key, &id, ANY).unwrap(), b"key");
    assert_eq!(reopened.location(), path.display().to_string());
}

#[test]
fn a_new_repository_needs_an_empty_place() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("with/parents");
    let refused = |path: &Path| match Local::create(path).map(drop) {
        Err(BackendError::NotEmpty { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    fs::create_dir_all(place.join("lost+found")).unwrap();
    Local::create(&place).unwrap();
    fs::write(place.join("config"), "{}").unwrap();
    assert_eq!(refused(&place), "a repository (there is a file named config)");

    let papers = directory.path().join("papers");
    fs::create_dir(&papers).unwrap();
    fs::write(papers.join("letter"), "x").unwrap();
    assert_eq!(refused(&papers), "letter");
    assert_eq!(fs::read_dir(&papers).unwrap().count(), 1, "nothing was made beside it");
    assert!(matches!(Local::create(&papers.join("letter")).map(drop), Err(BackendError::Io { .. })));
}

#[test]
fn only_what_an_attempt_leaves_counts_as_empty() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |found: &str, spoil: &dyn Fn(&Path)| {
        let place = directory.path().join(found.replace('/', " "));
        Local::create(&place).unwrap();
        fs::write(place.join("keys").join(id(1, 1).to_string()), "a key").unwrap();
        fs::write(place.join("tmp/.tmpXYZ"), "half").unwrap();
        Local::create(&place).unwrap();
        spoil(&place);
        match Local::create(&place).map(drop) {
            Err(BackendError::NotEmpty { found: told, .. }) => assert_eq!(told, found),
            other => panic!("{found}: {other:?}"),
        }
    };
    refused("data", &|place| fs::create_dir(place.join("data/ab")).unwrap());
    refused("snapshots", &|place| fs::write(place.join("snapshots").join(id(1, 1).to_string()), "").unwrap());
    refused("keys", &|place| fs::write(place.join("keys/house"), "").unwrap());
    refused("tmp", &|place| fs::write(place.join("tmp/letter"), "").unwrap());
    refused("letter", &|place| fs::write(place.join("letter"), "").unwrap());
    refused("meta", &|place| {
        fs::remove_dir(place.join("meta")).unwrap();
        std::os::unix::fs::symlink("/etc", place.join("meta")).unwrap();
    });
    refused("a repository (there is a file named config)", &|place| fs::write(place.join("config"), "").unwrap());
}

#[test]
fn of_many_that_make_a_repository_one_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let path = directory.path().join(format!("repository {round}"));
        let (mut made, start) = (0, Barrier::new(4));
        let make = || {
            start.wait();
            let options = InitOptions { chunk_sizes: CHUNKS, ..InitOptions::default() };
            Repository::init(&Local::create(&path)?, &credential(), &options)
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            for thread in running {
                match thread.join().unwrap() {
                    Ok(_) => made += 1,
                    Err(RepoError::Backend(BackendError::NotEmpty { .. })) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        assert_eq!(made, 1);
        let backend: Arc<dyn Backend> = Arc::new(Local::open(&path).unwrap());
        Repository::open(backend, &credential(), &OpenOptions::default(), &Silent).unwrap();
    }
}

#[test]
fn a_sync_that_failed_is_tried_again() {
    let (directory, path, local) = repository();
    local.write_new(Kind::DataPack, &id(0xab, 1), b"x").unwrap();
    let (inside, outside) = (path.join("data/ab"), directory.path().join("elsewhere"));
    fs::rename(&inside, &outside).unwrap();
    for _ in 0..2 {
        assert!(matches!(local.sync(), Err(BackendError::Io { action: "flush", .. })));
    }
    fs::rename(&outside, &inside).unwrap();
    local.sync().unwrap();
    fs::rename(&inside, &outside).unwrap();
    local.sync().unwrap();
}

#[test]
fn what_has_no_configuration_is_no_repository() {
    let (directory, path, local) = repository();
    let refused = |path: &Path| matches!(Local::open(path).map(drop), Err(BackendError::NoRepository { .. }));
    assert!(refused(&path), "it has no configuration yet");
    assert!(refused(&directory.path().join("nothing")));
    fs::write(directory.path().join("file"), "x").unwrap();
    assert!(refused(&directory.path().join("file")));
    local.write_new(Kind::Config, &ObjectId::ZERO, b"{}").unwrap();
    Local::open(&path).unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let (directory, path, local) = repository();
    let secret = directory.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let (linked, piped, folder) = (id(1, 1), id(1, 2), id(1, 3));
    local.write_new(Kind::DataPack, &id(1, 4), b"good").unwrap();
    symlink(&secret, spread(&path, "data", &linked)).unwrap();
    let pipe = spread(&path, "data", &piped);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(spread(&path, "data", &folder)).unwrap();
    for id in [linked, piped, folder] {
        for error in [
            local.read(Kind::DataPack, &id, ANY).map(drop).unwrap_err(),
            local.read(Kind::DataPack, &id, ByteRange::At { offset: 0, len: 1 }).map(drop).unwrap_err(),
            local.stat(Kind::DataPack, &id).map(drop).unwrap_err(),
        ] {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert_eq!(cause.as_deref(), Some("it is not a regular file"), "{error}");
        }
    }
    assert!(matches!(local.write_new(Kind::DataPack, &linked, b"x"), Err(BackendError::AlreadyExists { .. })));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(list_all(&local, Kind::DataPack).unwrap(), [(id(1, 4), 4)]);
}

#[test]
fn foreign_names_are_not_objects() {
    let (_directory, path, local) = repository();
    let kept = id(0xab, 1);
    local.write_new(Kind::DataPack, &kept, b"x").unwrap();
    local.write_new(Kind::Snapshot, &kept, b"x").unwrap();
    let hex = id(0xab, 2).to_string();
    for name in [
        format!("data/ab/{}", hex.to_uppercase()),
        format!("data/ab/{}", &hex[..63]),
        format!("data/ab/{hex}0"),
        format!("data/ab/{hex}.part"),
        format!("data/ab/{}g", &hex[..63]),
        format!("data/{hex}"),
        "data/notes".to_owned(),
        "data/AB".to_owned(),
        "data/cd".to_owned(),
        format!("snapshots/{}", hex.to_uppercase()),
        format!("snapshots/{hex}~"),
        "snapshots/.nfs0001".to_owned(),
        format!("tmp/{hex}"),
    ] {
        fs::write(path.join(name), "foreign").unwrap();
    }
    fs::create_dir(path.join("data/ef")).unwrap();
    fs::write(path.join("data/ef").join(&hex), "in the wrong directory").unwrap();
    fs::create_dir(path.join("snapshots").join(&hex)).unwrap();
    for kind in Kind::ALL {
        let expected: &[_] = if matches!(kind, Kind::DataPack | Kind::Snapshot) { &[(kept, 1)] } else { &[] };
        assert_eq!(list_all(&local, kind).unwrap(), expected, "{kind}");
    }
}

#[test]
fn a_directory_that_must_be_there_is_missed() {
    let (_directory, path, local) = repository();
    for name in ["sets", "tombstones", "leases", "proofs", "forgotten", "tmp"] {
        fs::remove_dir(path.join(name)).unwrap();
    }
    assert_eq!(list_all(&local, Kind::Lease).unwrap(), []);
    local.write_new(Kind::Lease, &id(1, 1), b"x").unwrap();
    assert_eq!(list_all(&local, Kind::Lease).unwrap(), [(id(1, 1), 1)]);
    for (name, kind) in
        [("data", Kind::DataPack), ("meta", Kind::MetaPack), ("snapshots", Kind::Snapshot), ("keys", Kind::Key)]
    {
        fs::remove_dir(path.join(name)).unwrap();
        let error = list_all(&local, kind).unwrap_err();
        assert!(matches!(error, BackendError::Io { action: "list", .. }), "{kind}: {error:?}");
    }
    assert!(matches!(local.write_new(Kind::DataPack, &id(1, 1), b"x"), Err(BackendError::Io { .. })));
    assert!(!path.join("data").exists(), "a vanished repository does not begin anew");
    assert_eq!(debris(&path), 0);
}

#[test]
fn debris_is_removed_by_the_age_that_storage_tells() {
    let (_directory, path, local) = repository();
    let leave = |name: &str, seconds| {
        let mut file = File::create(path.join("tmp").join(name)).unwrap();
        file.write_all(&[0; 100]).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    leave("old", 7200);
    leave("older", 90_000);
    leave("young", 60);
    fs::create_dir(path.join("tmp/folder")).unwrap();
    assert_eq!(local.remove_debris(3600, true).unwrap(), (2, 200));
    assert_eq!(debris(&path), 4);
    assert_eq!(local.remove_debris(3600, false).unwrap(), (2, 200));
    assert_eq!(local.remove_debris(3600, false).unwrap(), (0, 0));
    assert!(path.join("tmp/young").exists());
    assert_eq!(local.remove_debris(0, false).unwrap(), (1, 100));
    assert_eq!(debris(&path), 1, "the folder is not ours");
}

#[test]
fn debris_is_not_looked_for_behind_a_symlink() {
    let (directory, path, local) = repository();
    let papers = directory.path().join("papers");
    fs::create_dir(&papers).unwrap();
    fs::write(papers.join("letter"), "x").unwrap();
    fs::remove_dir(path.join("tmp")).unwrap();
    symlink(&papers, path.join("tmp")).unwrap();
    assert!(matches!(local.remove_debris(0, false), Err(BackendError::Io { .. })));
    assert!(matches!(local.write_new(Kind::Lease, &id(1, 1), b"x"), Err(BackendError::Io { .. })));
    assert_eq!(fs::read_dir(&papers).unwrap().count(), 1);
}

#[test]
fn a_truncated_object_is_named() {
    let (_directory, path, local) = repository();
    let id = id(1, 1);
    local.write_new(Kind::MetaPack, &id, &[7; 1000]).unwrap();
    File::options().write(true).open(spread(&path, "meta", &id)).unwrap().set_len(10).unwrap();
    let error = local.read(Kind::MetaPack, &id, ByteRange::At { offset: 5, len: 100 }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&id.to_string()) && text.contains("10 bytes long"), "{text}");
    // An enormous hole must not be taken into memory.
    File::options().write(true).open(spread(&path, "meta", &id)).unwrap().set_len(1 << 42).unwrap();
    let error = local.read(Kind::MetaPack, &id, ANY).unwrap_err();
    assert!(matches!(error, BackendError::Range { len: 0x400_0000_0000, .. }), "{error:?}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = Tmpfs::mount(directory.path(), "1m") else { return };
    let local = Local::create(directory.path()).unwrap();
    local.write_new(Kind::DataPack, &id(1, 1), &[1; 400 << 10]).unwrap();
    let error = local.write_new(Kind::DataPack, &id(1, 2), &[2; 800 << 10]).unwrap_err();
    assert!(matches!(error, BackendError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("no space left in"), "{error}");
    assert!(local.read(Kind::DataPack, &id(1, 2), ANY).unwrap_err().is_not_found());
    assert_eq!(list_all(&local, Kind::DataPack).unwrap(), [(id(1, 1), 400 << 10)]);
    assert_eq!(debris(directory.path()), 0);
    local.sync().unwrap();
    local.write_new(Kind::DataPack, &id(1, 3), &[3; 200 << 10]).unwrap();
    local.remove(Kind::DataPack, &id(1, 1)).unwrap();
    local.write_new(Kind::DataPack, &id(1, 2), &[2; 700 << 10]).unwrap();
}

#[test]
fn read_only_storage_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = Tmpfs::mount(directory.path(), "1m") else { return };
    let local = Local::create(directory.path()).unwrap();
    local.write_new(Kind::Config, &ObjectId::ZERO, b"{}").unwrap();
    local.write_new(Kind::Snapshot, &id(1, 1), b"x").unwrap();
    mount.remount("ro");
    let local = Local::open(directory.path()).unwrap();
    assert_eq!(local.read(Kind::Snapshot, &id(1, 1), ANY).unwrap(), b"x");
    assert_eq!(list_all(&local, Kind::Snapshot).unwrap(), [(id(1, 1), 1)]);
    local.stat(Kind::Snapshot, &id(1, 1)).unwrap();
    local.sync().unwrap();
    for error in [
        local.write_new(Kind::Snapshot, &id(1, 2), b"x").unwrap_err(),
        local.remove(Kind::Snapshot, &id(1, 1)).unwrap_err(),
    ] {
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("Read-only file system"), "{error}: {cause}");
    }
    mount.remount("rw");
    local.write_new(Kind::Snapshot, &id(1, 2), b"x").unwrap();
}

const CHILD: &str = "CAIRN_TEST_KILLED_WRITER";

/// The child of the next test: writes until it is killed, and tells each object that is written.
#[test]
fn killed_writer() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let local = Local::open(Path::new(&path)).unwrap();
    for number in 0u32.. {
        let mut bytes = vec![0; 8 << 20];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[4..8].copy_from_slice(&std::process::id().to_le_bytes());
        let id = ObjectId::of(&bytes);
        local.write_new(Kind::DataPack, &id, &bytes).unwrap();
        println!("wrote {id}");
    }
}

#[test]
fn a_killed_writer_leaves_whole_objects_and_debris() {
    let (_directory, path, local) = repository();
    local.write_new(Kind::Config, &ObjectId::ZERO, b"{}").unwrap();
    let mut told = Vec::new();
    let mut rounds = 0;
    while debris(&path) < 3 {
        rounds += 1;
        assert!(rounds < 100, "the child is never killed while it writes");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "backend::local::killed_writer", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let first = lines.find_map(|line| line.strip_prefix("wrote ").map(str::to_owned)).unwrap();
        std::thread::sleep(Duration::from_millis(rounds % 7));
        child.kill().unwrap();
        child.wait().unwrap();
        told.push(first);
        told.extend(lines.filter_map(|line| line.strip_prefix("wrote ").map(str::to_owned)));
    }
    for hex in told.iter().filter(|hex| hex.len() == 64) {
        local.stat(Kind::DataPack, &ObjectId::from_hex(hex).unwrap()).unwrap();
    }
    let listed = list_all(&local, Kind::DataPack).unwrap();
    assert!(listed.len() >= told.len());
    for (id, len) in listed {
        assert_eq!(len, 8 << 20, "{id} is whole");
        assert_eq!(ObjectId::of(&local.read(Kind::DataPack, &id, ANY).unwrap()), id);
    }
    assert_eq!(local.remove_debris(0, false).unwrap().0, 3);
    assert_eq!(debris(&path), 0);
}

/// Names an unfinished file as the process with this id would.
fn name_unfinished(process: u32) -> String {
    let machine = cairn::backend::host::machine();
    format!(".tmp{process}-{}-random", &blake3::hash(machine.as_bytes()).to_hex()[..16])
}

#[test]
fn an_unfinished_file_of_a_live_process_stays_and_one_of_a_dead_goes_at_once() {
    let (_directory, path, local) = repository();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let tmp = path.join("tmp");
    let old = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    for (name, content) in [(name_unfinished(dead), "dead"), (name_unfinished(std::process::id()), "alive")] {
        fs::write(tmp.join(&name), content).unwrap();
        if content == "alive" {
            File::options().write(true).open(tmp.join(&name)).unwrap().set_modified(old).unwrap();
        }
    }
    fs::write(tmp.join(".tmp123-0123456789abcdef-other"), "of another machine").unwrap();
    assert_eq!(local.remove_debris(3600, true).unwrap(), (1, 4));
    assert_eq!(local.remove_debris(3600, false).unwrap(), (1, 4));
    assert!(!tmp.join(name_unfinished(dead)).exists());
    assert_eq!(local.remove_debris(0, false).unwrap(), (1, 18), "of another machine only the age is known");
    assert!(tmp.join(name_unfinished(std::process::id())).exists());
}
