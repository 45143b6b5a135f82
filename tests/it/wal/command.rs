//! `cairn wal push` and `fetch` as PostgreSQL calls them: in the data directory, with names and paths of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cairn::format::wal::SegmentName;
use tempfile::TempDir;

use super::{CLUSTER, SIZE, control_file, numbered, segment};

/// A repository, and a directory that looks like a cluster's.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(place.data().join("global")).unwrap();
        std::fs::create_dir_all(place.data().join("pg_wal/archive_status")).unwrap();
        std::fs::write(place.data().join("global/pg_control"), control_file()).unwrap();
        std::fs::write(place.path().join("key"), [5; 32]).unwrap();
        std::fs::set_permissions(place.path().join("key"), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(place.run(&["init"]).status.success());
        place
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command
            .env_clear()
            .env("CAIRN_REPO", self.path().join("repo"))
            .env("CAIRN_CACHE_DIR", self.path().join("cache"));
        command.arg("--key-file").arg(self.path().join("key")).args(args).current_dir(self.data());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs, and expects this exit code and these words.
    fn ends(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{args:?}: no {word:?} in {error}");
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        let path = format!("pg_wal/{name}");
        std::fs::write(self.data().join(&path), content).unwrap();
        path
    }

    /// A segment that waits to be archived; its path as PostgreSQL gives it.
    fn waiting(&self, name: SegmentName) -> String {
        std::fs::write(self.data().join(format!("pg_wal/archive_status/{name}.ready")), []).unwrap();
        self.write(&name.to_string(), &segment(CLUSTER, name, SIZE, u64::from(name.low)))
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.data().join(path)).unwrap()
    }

    fn archived(&self) -> usize {
        std::fs::read_dir(self.path().join("repo/wal")).unwrap().count()
    }
}

#[test]
fn what_is_pushed_is_fetched_and_what_waits_is_pushed_with_it() {
    let place = Place::new();
    let paths: Vec<String> = (1..=5).map(|number| place.waiting(numbered(1, number))).collect();
    place.ends(&["wal", "push", &paths[1]], 0, &[]);
    assert_eq!(place.archived(), 4, "those behind it, and not the one before");
    for path in &paths {
        place.ends(&["wal", "push", path], 0, &[]);
    }
    assert_eq!(place.archived(), 5);
    for path in &paths {
        let name = path.strip_prefix("pg_wal/").unwrap();
        place.ends(&["wal", "fetch", "--no-ahead", name, "pg_wal/RECOVERYXLOG"], 0, &[]);
        assert!(place.read("pg_wal/RECOVERYXLOG") == place.read(path), "{name}");
        std::fs::remove_file(place.data().join("pg_wal/RECOVERYXLOG")).unwrap();
    }
    let left: Vec<_> =
        std::fs::read_dir(place.data().join("pg_wal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 6, "something was left behind: {left:?}");
}

/// What lies in the spool, whoever puts it there.
fn spool(place: &Place) -> Vec<PathBuf> {
    let directory = place.path().join("cache/wal").join(CLUSTER.to_string());
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.file_name().unwrap().len() == 24);
    found.sort();
    found
}

#[test]
fn what_was_fetched_ahead_is_used_only_if_it_is_right_and_goes_at_the_end() {
    let place = Place::new();
    let names: Vec<String> = (1..=4).map(|number| numbered(1, number).to_string()).collect();
    for number in 1..=4 {
        place.ends(&["wal", "push", &place.waiting(numbered(1, number))], 0, &[]);
    }
    place.ends(&["wal", "fetch", "--no-ahead", &names[0], "pg_wal/got"], 0, &[]);
    let system_id = CLUSTER.to_string();
    // What a killed process has left half written.
    let left = place.path().join("cache/wal").join(&system_id).join(".cairn-wal-x");
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::set_permissions(left.parent().unwrap(), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(&left, "half").unwrap();
    place.ends(&["wal", "ahead", &names[0], "--system-id", &system_id], 0, &[]);
    let ahead = spool(&place);
    assert_eq!(ahead.len(), 3, "{ahead:?}");
    assert!(!left.exists());
    let private = std::fs::metadata(ahead[0].parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(private & 0o777, 0o700);

    // One is right, one is damaged, one is a link to something else.
    std::fs::write(&ahead[1], segment(CLUSTER, numbered(1, 3), SIZE, 77)).unwrap();
    std::fs::remove_file(&ahead[2]).unwrap();
    std::os::unix::fs::symlink(place.data().join("pg_wal").join(&names[0]), &ahead[2]).unwrap();
    for name in &names[1..] {
        place.ends(&["wal", "fetch", name, "pg_wal/got"], 0, &[]);
        assert!(place.read("pg_wal/got") == place.read(&format!("pg_wal/{name}")), "{name}");
        assert!(!place.data().join("pg_wal/got").is_symlink());
    }
    // The repository decides, whatever lies in the spool.
    place.ends(&["wal", "fetch", &numbered(1, 5).to_string(), "pg_wal/none"], 1, &[]);
    // A directory that others may write in is not used.
    let directory = ahead[0].parent().unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).unwrap();
    place.ends(&["wal", "fetch", &names[1], "pg_wal/got"], 0, &[]);
    assert!(place.read("pg_wal/got") == place.read(&format!("pg_wal/{}", names[1])));
}

#[test]
fn a_fetch_has_what_comes_next_fetched() {
    let place = Place::new();
    for number in 1..=3 {
        place.ends(&["wal", "push", &place.waiting(numbered(1, number))], 0, &[]);
    }
    place.ends(&["wal", "fetch", &numbered(1, 1).to_string(), "pg_wal/got"], 0, &[]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while spool(&place).len() < 2 {
        assert!(std::time::Instant::now() < deadline, "nothing was fetched ahead: {:?}", spool(&place));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    place.ends(&["wal", "fetch", "--no-ahead", &numbered(1, 4).to_string(), "pg_wal/none"], 1, &[]);
    place.ends(&["wal", "fetch", &numbered(1, 4).to_string(), "pg_wal/none"], 1, &[]);
    assert_eq!(spool(&place), Vec::<PathBuf>::new(), "the archive ends");
}

#[test]
fn a_push_without_a_place_of_its_own_in_an_older_repository_makes_it() {
    let place = Place::new();
    std::fs::remove_dir(place.path().join("repo/wal")).unwrap();
    place.ends(&["wal", "fetch", "00000002.history", "pg_wal/x"], 1, &[]);
    let path = place.waiting(numbered(1, 1));
    place.ends(&["wal", "push", &path], 0, &[]);
    assert_eq!(place.archived(), 1);
    place.ends(&["check", "--read-data"], 0, &["1 log files"]);
}

#[test]
fn what_is_not_of_this_cluster_or_not_whole_is_not_archived() {
    let place = Place::new();
    let name = numbered(1, 1);
    let good = segment(CLUSTER, name, SIZE, 1);
    let refused = |what: &str, content: &[u8], name: &str, word: &str| {
        let path = place.write(name, content);
        place.ends(&["wal", "push", &path], 1, &[word, name]);
        assert_eq!(place.archived(), 0, "{what}");
    };
    refused("another cluster's", &segment(CLUSTER + 1, name, SIZE, 1), &name.to_string(), "is of cluster");
    refused("a torn one", &good[..SIZE as usize / 2], &name.to_string(), "no whole file");
    refused(
        "a short one of another size",
        &segment(CLUSTER, name, 2 * SIZE, 1)[..SIZE as usize],
        &name.to_string(),
        "not whole",
    );
    refused("zeros", &vec![0; SIZE as usize], &name.to_string(), "does not begin like");
    refused("another segment's", &good, &numbered(1, 2).to_string(), "of another segment");
    refused("a later timeline's", &segment(CLUSTER, numbered(2, 1), SIZE, 1), &name.to_string(), "of another segment");
    let mut pages = good.clone();
    pages[36..40].copy_from_slice(&16384u32.to_le_bytes());
    refused("one with other pages", &pages, &name.to_string(), "pages have 16384 bytes");
    refused("an empty history", &[], "00000002.history", "no whole file");
    refused("no file of the log", &good, "backup_label", "no file of such a name");
    // The first segment of a new timeline is a copy that still names the older one.
    let copied = place.write(&numbered(2, 1).to_string(), &good);
    place.ends(&["wal", "push", &copied], 0, &[]);
    let link = place.data().join("pg_wal").join(numbered(1, 7).to_string());
    std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
    place.ends(&["wal", "push", &format!("pg_wal/{}", numbered(1, 7))], 1, &["cannot open"]);
    std::fs::write(place.data().join("global/pg_control"), [0; 100]).unwrap();
    place.ends(&["wal", "push", &copied], 1, &["no control file"]);
}

/// As docs/restore.md says: what was written of the last segment of a timeline that was left.
#[test]
fn a_partial_segment_can_be_archived_as_a_whole_one() {
    let place = Place::new();
    let (name, other) = (numbered(1, 3).to_string(), tempfile::tempdir().unwrap());
    let partial = place.write(&format!("{name}.partial"), &segment(CLUSTER, numbered(1, 3), SIZE, 3));
    place.ends(&["wal", "push", &partial], 0, &[]);
    place.ends(&["wal", "fetch", "--no-ahead", &name, "pg_wal/got"], 1, &["is not archived"]);
    let whole = other.path().join(&name).display().to_string();
    let data = place.data().display().to_string();
    place.ends(&["wal", "fetch", &format!("{name}.partial"), &whole, "--pgdata", &data], 0, &[]);
    place.ends(&["wal", "push", &whole, "--pgdata", &data], 0, &[]);
    place.ends(&["wal", "fetch", "--no-ahead", &name, "pg_wal/got"], 0, &[]);
    assert!(place.read("pg_wal/got") == place.read(&partial));
}

#[test]
fn other_content_under_an_archived_name_is_refused() {
    let place = Place::new();
    let path = place.waiting(numbered(1, 1));
    place.ends(&["wal", "push", &path], 0, &[]);
    place.write(&numbered(1, 1).to_string(), &segment(CLUSTER, numbered(1, 1), SIZE, 99));
    place.ends(&["wal", "push", &path], 1, &["other content", &numbered(1, 1).to_string()]);
}

#[test]
fn only_a_file_that_is_not_there_ends_a_recovery() {
    let place = Place::new();
    for number in [1, 2, 5] {
        let path = place.waiting(numbered(1, number));
        std::fs::remove_file(place.data().join(format!("pg_wal/archive_status/{}.ready", numbered(1, number))))
            .unwrap();
        place.ends(&["wal", "push", &path], 0, &[]);
    }
    let fetch = |name: &str, code: i32, words: &[&str]| {
        place.ends(&["wal", "fetch", "--no-ahead", name, "pg_wal/got"], code, words);
        assert!(code == 0 || !place.data().join("pg_wal/got").exists(), "{name}");
    };
    fetch(&numbered(1, 6).to_string(), 1, &["is not archived"]);
    fetch("00000002.history", 1, &["is not archived"]);
    // On a newer timeline the server looks first, and finds it on the older one.
    fetch(&numbered(2, 2).to_string(), 1, &["is not archived"]);
    fetch(&numbered(1, 3).to_string(), 200, &["the log has a gap", &numbered(1, 5).to_string()]);
    fetch("RECOVERYXLOG", 200, &["restore_command"]);
    place.ends(&["wal", "fetch"], 200, &["required"]);
    place.ends(&["wal", "fetch", &numbered(1, 1).to_string(), "no/such/directory/file"], 200, &["cannot make a file"]);
    place.ends(&["wal", "fetch", &numbered(1, 1).to_string(), "x", "--pgdata", "nowhere"], 200, &["pg_control"]);
    let repo = place.path().join("repo");
    for entry in std::fs::read_dir(repo.join("wal")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = std::fs::read(&entry).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&entry, bytes).unwrap();
    }
    fetch(&numbered(1, 1).to_string(), 200, &["cannot be used"]);
    std::fs::rename(&repo, place.path().join("away")).unwrap();
    fetch(&numbered(1, 5).to_string(), 200, &["no repository"]);
    std::fs::rename(place.path().join("away"), &repo).unwrap();
    std::fs::write(place.path().join("key"), [6; 32]).unwrap();
    fetch(&numbered(1, 5).to_string(), 200, &["wrong password or key file"]);
}

#[test]
fn the_state_is_told_and_a_gap_fails() {
    let place = Place::new();
    place.ends(&["wal", "status"], 0, &["nothing is archived"]);
    for number in [1, 2] {
        place.ends(&["wal", "push", &place.waiting(numbered(1, number))], 0, &[]);
    }
    place.ends(&["wal", "status"], 0, &["no gaps"]);
    let stats = place.run(&["--json", "stats"]);
    assert!(String::from_utf8_lossy(&stats.stdout).contains("\"log_files\":2"));
    place.ends(&["wal", "push", &place.waiting(numbered(1, 4))], 0, &[]);
    place.ends(&["wal", "status"], 1, &["GAPS"]);
    let output = place.run(&["--json", "wal", "status"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let missing = numbered(1, 3).to_string();
    assert!(text.contains(&format!("\"first\":\"{missing}\"")) && text.contains(&CLUSTER.to_string()), "{text}");
}
