//! The independent reader on repositories that the program wrote: deltas upon deltas, a tree with every kind of entry,
//! and both once more after a gc has rewritten packs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn::backend::local::Local;
use cairn::format::key::Credential;
use cairn::progress::Silent;
use cairn::repo::{OpenOptions, Repository};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{deepest, reader};
use crate::support::machine::skip;
use crate::support::noise;

/// A repository with its password, beside what is stored in it.
struct Store {
    dir: TempDir,
}

impl Store {
    fn new() -> Self {
        let store = Store { dir: tempfile::tempdir().unwrap() };
        fs::write(store.path("password"), "correct horse\n").unwrap();
        store.cairn(&["init"], b"");
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program, which must succeed.
    fn cairn<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.arg("-r").arg(self.path("repo")).arg("--password-file").arg(self.path("password"));
        command.env_remove("CAIRN_REPO").env_remove("CAIRN_PASSWORD");
        command.arg("--cache-dir").arg(self.path("cache")).arg("-q").args(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "cairn {words:?} ended with {}: {error}", output.status);
    }

    fn backup_stream(&self, name: &str, bytes: &[u8]) {
        self.cairn(&["backup", "--name", name, "--stdin"], bytes);
    }

    fn backup_tree(&self, name: &str, root: &Path) {
        self.cairn(&["backup".as_ref(), "--name".as_ref(), name.as_ref(), root.as_os_str()], b"");
    }

    /// Keeps the newest snapshot of each name, and reclaims what the others alone needed.
    fn forget_and_collect(&self) {
        self.cairn(&["forget", "--keep-last", "1"], b"");
        self.cairn(&["gc", "--grace", "0s"], b"");
        self.cairn(&["gc", "--grace", "0s"], b"");
    }

    fn reader<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Option<Output> {
        reader(&self.path("repo"), &self.path("password"), arguments)
    }

    /// Standard output of the reader, which must succeed.
    fn read<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Option<Vec<u8>> {
        let output = self.reader(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "the reader's {words:?} ended with {}: {error}", output.status);
        Some(output.stdout)
    }

    /// Ids of the snapshots of a name, oldest first, as the reader sees them.
    fn snapshots(&self, name: &str) -> Option<Vec<String>> {
        let list = String::from_utf8(self.read(&["list"])?).unwrap();
        let lines = list.lines().filter(|line| line.ends_with(&format!(" {name}")));
        Some(lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect())
    }

    fn packs(&self) -> Vec<PathBuf> {
        let folders = ["repo/data", "repo/meta"].into_iter().flat_map(|kind| fs::read_dir(self.path(kind)).unwrap());
        let mut packs: Vec<PathBuf> = folders
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|pack| pack.unwrap().path())
            .collect();
        packs.sort();
        packs
    }
}

/// A dump of a table. In each version the same few rows are others, so deltas pile up on each other; and it ends with
/// a part that only this version has.
fn dump(version: u32) -> Vec<u8> {
    let mut dump = Vec::new();
    for row in 0..30_000 {
        let changes = if row % 97 == 0 { version } else { 0 };
        let value = blake3::hash(format!("{row} {changes}").as_bytes()).to_hex();
        dump.extend_from_slice(format!("{row}\t{}\tuser{}@example.org\n", &value[..24], row % 1000).as_bytes());
    }
    dump.extend(noise(&format!("tail {version}"), 1 << 20));
    dump
}

#[test]
fn streams_with_deltas_upon_deltas_are_read_before_and_after_gc() {
    let store = Store::new();
    for version in 0..6 {
        store.backup_stream("dump", &dump(version));
    }
    let Some(found) = store.read(&["verify", "--all"]) else { return };
    assert!(deepest(&found) >= 3, "{}", String::from_utf8_lossy(&found));
    let snapshots = store.snapshots("dump").unwrap();
    assert_eq!(snapshots.len(), 6);
    for (version, id) in (0..).zip(&snapshots) {
        assert!(store.read(&["cat", id]).unwrap() == dump(version), "version {version} differs");
    }

    let before = store.packs();
    store.forget_and_collect();
    let after = store.packs();
    assert!(before.iter().any(|pack| !after.contains(pack)), "gc removed no pack");
    assert!(after.iter().any(|pack| !before.contains(pack)), "gc rewrote no pack");
    assert_eq!(store.snapshots("dump").unwrap(), snapshots[5..]);
    let found = store.read(&["verify", "--all"]).unwrap();
    assert!(deepest(&found) >= 1, "gc left no delta: {}", String::from_utf8_lossy(&found));
    assert!(store.read(&["cat", "dump"]).unwrap() == dump(5), "gc changed the content");
}

#[test]
fn a_tree_with_every_kind_of_entry_is_restored_before_and_after_gc() {
    let store = Store::new();
    let root = store.path("tree");
    make_tree(&root);
    store.backup_tree("tree", &root);
    fs::write(root.join("big"), noise("other", 3 << 20)).unwrap();
    fs::write(root.join("many/added"), "new").unwrap();
    let expected = describe(&root);
    store.backup_tree("tree", &root);
    for round in ["before", "after"] {
        let target = store.path(round);
        if store.read(&["restore".as_ref(), "tree".as_ref(), target.as_os_str()]).is_none() {
            return;
        }
        let found = describe(&target.join(root.strip_prefix("/").unwrap()));
        for (path, expected) in &expected {
            assert_eq!(found.get(path), Some(expected), "{} {round} gc", String::from_utf8_lossy(path));
        }
        assert_eq!(found.len(), expected.len());
        let one = root.join("many/7");
        let content = store.read(&["cat".as_ref(), "tree".as_ref(), one.as_os_str()]).unwrap();
        assert_eq!(content, fs::read(one).unwrap());
        store.forget_and_collect();
    }
}

/// How many levels of lists the newest snapshot of a name has, as the program knows it.
fn levels(store: &Store, name: &str) -> u8 {
    let backend = Arc::new(Local::open(&store.path("repo")).unwrap());
    let credential = Credential::Password(Zeroizing::new(b"correct horse".to_vec()));
    let options = OpenOptions { cache: Some(store.path("cache")), host: "test".to_owned() };
    let repository = Repository::open(backend, &credential, &options, &Silent).unwrap();
    let snapshots = repository.snapshots().unwrap();
    snapshots.iter().rfind(|info| info.snapshot.name == name).unwrap().snapshot.content.levels
}

#[test]
fn lists_of_lists_are_read_before_and_after_gc() {
    let store = Store::new();
    let (mut stream, root) = (noise("long", 40 << 20), store.path("tree"));
    fs::create_dir(&root).unwrap();
    // A tree's list is over blocks of its entries: names that do not compress make many of them.
    for number in 0..3000 {
        let name = blake3::hash(format!("{number}").as_bytes()).to_hex();
        fs::write(root.join(format!("{name}{name}{name}")), "").unwrap();
    }
    for version in 0..2 {
        stream[(5 << 20) + version] ^= 1;
        store.backup_stream("long", &stream);
        fs::write(root.join(format!("{version}")), "").unwrap();
        store.backup_tree("tree", &root);
    }
    assert!(levels(&store, "long") >= 2, "{} levels", levels(&store, "long"));
    let expected = describe(&root);
    for round in ["before", "after"] {
        let Some(found) = store.read(&["cat", "long"]) else { return };
        assert!(found == stream, "{round} gc");
        let target = store.path(round);
        store.read(&["restore".as_ref(), "tree".as_ref(), target.as_os_str()]).unwrap();
        assert_eq!(describe(&target.join(root.strip_prefix("/").unwrap())).len(), expected.len(), "{round} gc");
        store.forget_and_collect();
        assert!(levels(&store, "long") >= 2);
    }
}

#[test]
fn the_reader_names_what_is_damaged() {
    let store = Store::new();
    store.backup_stream("dump", &noise("stream", 1 << 20));
    let pack = store.packs().into_iter().find(|pack| pack.to_string_lossy().contains("/data/")).unwrap();
    fs::set_permissions(&pack, Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(&pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let Some(output) = store.reader(&["verify", "dump"]) else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&*pack.file_name().unwrap().to_string_lossy()), "{error}");
}

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir_all(root.join("a/b/c/d")).unwrap();
    fs::create_dir(root.join("a.b")).unwrap();
    for number in 0..500 {
        fs::write(root.join(format!("many/{number}")), noise(&number.to_string(), number * 7)).unwrap();
    }
    fs::write(root.join("big"), noise("big", 3 << 20)).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"head", 0).unwrap();
    sparse.write_all_at(&noise("island", 100_000), 5 << 20).unwrap();
    sparse.set_len(16 << 20).unwrap();
    File::create(root.join("hole")).unwrap().set_len(1 << 20).unwrap();
    symlink(OsStr::from_bytes(b"../\xff nowhere"), root.join("a/link")).unwrap();
    fs::hard_link(root.join("big"), root.join("a/hard")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not UTF-8 \xff\xfe %")), "x").unwrap();
    fs::write(root.join("n".repeat(255)), "x").unwrap();
    fs::write(root.join("suid"), "x").unwrap();
    fs::set_permissions(root.join("suid"), Permissions::from_mode(0o4751)).unwrap();
    if let Err(error) = rustix::fs::setxattr(root.join("suid"), "user.note", b"hello\0", XattrFlags::empty()) {
        skip(&format!("this file system refuses extended attributes: {error}"));
    }
    let old = SystemTime::UNIX_EPOCH - Duration::new(86_400, 5);
    File::options().write(true).open(root.join("suid")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(root.join("a/b"), Permissions::from_mode(0o1700)).unwrap();
    File::open(root.join("a/b")).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::new(5, 999_999_999)).unwrap();
}

/// Every entry below a directory with all that a restore must bring back.
fn describe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            // Half of the blocks is enough to tell holes from zeros on every file system.
            let has_holes = meta.blocks() * 512 < meta.len() / 2;
            format!("{} {has_holes} {} links {}", meta.len(), blake3::hash(&fs::read(&path).unwrap()), meta.nlink())
        } else {
            format!("fifo: {}", kind.is_fifo())
        };
        let mut note = [0; 64];
        let note = rustix::fs::lgetxattr(&path, "user.note", &mut note[..]).map(|len| note[..len].to_vec());
        let (mode, owner, mtime) = (meta.mode(), (meta.uid(), meta.gid()), (meta.mtime(), meta.mtime_nsec()));
        let text = format!("{mode:o} {owner:?} {mtime:?} {note:?} {content}");
        found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), text);
    }
    found
}
