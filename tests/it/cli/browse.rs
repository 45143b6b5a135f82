//! What the commands that look into a repository say, against what is known to be there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::key::Credential;
use cairn::format::record::{Snapshot, Summary};
use cairn::progress::Silent;
use cairn::repo::writer::Writer;
use cairn::repo::{OpenOptions, Repository};
use serde_json::Value;

use super::{Place, assert_fails, snapshot_tree, summary, text};
use crate::support::machine::is_root;
use crate::support::{noise, stream_record};

pub(super) fn objects(place: &Place, kind: &str, args: &[&str]) -> Vec<Value> {
    let lines = text(&place.ok(&[&["--json"], args].concat()).stdout);
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["type"] == kind).collect()
}

pub(super) fn words(objects: &[Value], field: &str) -> Vec<String> {
    objects.iter().map(|object| object[field].as_str().unwrap().to_owned()).collect()
}

/// Publishes a stream as if it had been backed up at this time.
pub(super) fn publish_at(place: &Place, name: &str, time: &str, bytes: &[u8]) {
    let backend = Arc::new(Local::open(&place.path().join("repo")).unwrap());
    let options = OpenOptions { cache: Some(place.path().join("cache")), host: "test".to_owned() };
    let repository = Repository::open(backend, &Credential::KeyFile([5; 32].into()), &options, &Silent).unwrap();
    let mut writer = Writer::begin(&repository, &Silent).unwrap();
    let content = writer.content(None, &mut &*bytes).unwrap();
    writer.flush().unwrap();
    let snapshot = Snapshot {
        time: time.parse().unwrap(),
        summary: Summary { bytes: content.bytes, ..Summary::default() },
        ..stream_record(name, content)
    };
    writer.publish(&snapshot).unwrap();
}

#[test]
fn find_looks_by_glob_in_every_snapshot_or_in_those_of_a_name() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    let root = tree.display();
    place.ok(&["backup", "--name", "one", tree.to_str().unwrap()]);
    fs::write(tree.join("keep/new.txt"), "new").unwrap();
    place.ok(&["backup", "--name", "one", tree.to_str().unwrap()]);
    place.ok(&["backup", "--name", "two", tree.to_str().unwrap()]);
    place.store("stream.txt", b"a stream has no paths");
    let found = |args: &[&str]| words(&objects(&place, "match", &[&["find"], args].concat()), "path");
    let txt = |names: &[&str]| names.iter().map(|name| format!("{root}/{name}")).collect::<Vec<_>>();
    let (old, new) = (["a.txt", "b.txt", "keep/c.txt"], ["a.txt", "b.txt", "keep/c.txt", "keep/new.txt"]);
    assert_eq!(found(&["*.txt"]), [txt(&old), txt(&new), txt(&new)].concat());
    assert_eq!(found(&["*.txt", "--name", "two"]), txt(&new));
    assert_eq!(found(&["deep/*.log", "--name", "two"]), txt(&["keep/deep/d.log"]));
    assert_eq!(found(&[&format!("{root}/?.txt"), "--name", "two"]), txt(&["a.txt", "b.txt"]));
    assert_eq!(found(&["[ab].txt", "--name", "two"]), txt(&["a.txt", "b.txt"]));
    assert_eq!(found(&["keep", "--name", "two"]), txt(&["keep"]), "what is below a directory does not match as well");
    assert_eq!(found(&["/a.txt"]), [""; 0], "with a leading slash it is the whole path");
    assert_eq!(found(&["*.txt", "--name", "none"]), [""; 0]);
    let ids = words(&objects(&place, "match", &["find", "new.txt"]), "snapshot");
    let all = objects(&place, "snapshot", &["snapshots"]);
    assert_eq!(ids, words(&all[1..3], "id"));
    let output = place.ok(&["find", "new.txt"]);
    assert!(text(&output.stderr).contains("2 matches"));
    assert!(text(&output.stdout).contains(&ids[0][..8]) && text(&output.stdout).contains(" two "));
}

#[test]
fn diff_tells_every_change_that_a_restore_would_bring_back() {
    let place = Place::new();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::create_dir(tree.join("becomes-file")).unwrap();
    let names = ["same", "content", "mode", "owner", "time", "gone", "becomes-link", "dir/below"];
    for name in names {
        fs::write(tree.join(name), "0123456789").unwrap();
    }
    symlink("old", tree.join("link")).unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    // The same length and time, so that only the content tells.
    let modified = fs::metadata(tree.join("content")).unwrap().modified().unwrap();
    fs::write(tree.join("content"), "9876543210").unwrap();
    File::options().write(true).open(tree.join("content")).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(tree.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(tree.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    let file = File::options().write(true).open(tree.join("time")).unwrap();
    file.set_modified(modified + std::time::Duration::from_nanos(1)).unwrap();
    if is_root() {
        chown(tree.join("owner"), Some(1234), None).unwrap();
    } else {
        fs::set_permissions(tree.join("owner"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::remove_file(tree.join("gone")).unwrap();
    fs::remove_file(tree.join("becomes-link")).unwrap();
    symlink("same", tree.join("becomes-link")).unwrap();
    fs::remove_dir(tree.join("becomes-file")).unwrap();
    fs::write(tree.join("becomes-file"), "").unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    symlink("new", tree.join("link")).unwrap();
    fs::create_dir(tree.join("added")).unwrap();
    fs::write(tree.join("added/file"), "").unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let ids = words(&objects(&place, "snapshot", &["snapshots"]), "id");
    let changes = |old: &str, new: &str| -> BTreeMap<String, String> {
        let all = objects(&place, "difference", &["diff", old, new]);
        let name = |path: &str| path.strip_prefix(tree.to_str().unwrap()).unwrap_or(path).to_owned();
        words(&all, "path").iter().map(|path| name(path)).zip(words(&all, "change")).collect()
    };
    let changed = ["becomes-file", "becomes-link", "content", "dir", "link", "mode", "owner", "time"];
    let mut expected: BTreeMap<String, String> =
        changed.iter().map(|name| (format!("/{name}"), "changed".to_owned())).collect();
    expected.insert("/gone".to_owned(), "removed".to_owned());
    expected.extend(["/added", "/added/file"].map(|path| (path.to_owned(), "added".to_owned())));
    assert_eq!(changes(&ids[0], &ids[1]), expected);
    assert_eq!(changes(&ids[0], &ids[0]), BTreeMap::new());
    let turned = |change: &str| {
        if change == "added" {
            "removed"
        } else if change == "removed" {
            "added"
        } else {
            "changed"
        }
    };
    let back = expected.iter().map(|(path, change)| (path.clone(), turned(change).to_owned())).collect();
    assert_eq!(changes(&ids[1], &ids[0]), back);
    let output = place.ok(&["diff", &ids[0], &ids[1]]);
    assert!(text(&output.stderr).contains("2 added, 1 removed, 8 changed"), "{}", text(&output.stderr));
    let (out, root) = (text(&output.stdout), tree.display());
    for line in [format!("+ {root}/added\n"), format!("- {root}/gone\n"), format!("M {root}/content\n")] {
        assert!(out.contains(&line), "{line:?} is not in {out}");
    }
}

#[test]
fn ls_shows_a_path_and_what_is_below_it_and_nothing_beside() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    fs::write(tree.join("keep.txt"), "beside").unwrap();
    fs::write(tree.join("keep-too"), "beside").unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let listed =
        |path: &str| words(&objects(&place, "entry", &["ls", "t", &format!("{}{path}", tree.display())]), "path");
    let below = |names: &[&str]| names.iter().map(|name| format!("{}/{name}", tree.display())).collect::<Vec<_>>();
    assert_eq!(listed("/keep"), below(&["keep", "keep/c.txt", "keep/deep", "keep/deep/d.log"]));
    assert_eq!(listed("/keep/"), listed("/keep"));
    assert_eq!(listed("/keep/deep/d.log"), below(&["keep/deep/d.log"]));
    assert_eq!(listed("").len(), 11);
    place.fails(&["ls", "t", &format!("{}/kee", tree.display())], 1, &["kee", "cairn ls"]);
    let file = &objects(&place, "entry", &["ls", "t", &format!("{}/a.txt", tree.display())])[0];
    assert_eq!((&file["kind"], &file["size"]), (&"file".into(), &"this is a.txt".len().into()));
}

#[test]
fn cat_gives_a_sparse_file_with_its_holes_as_zeros() {
    let place = Place::new();
    let path = place.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.write_all_at(&noise("island", 100_000), 3 << 20).unwrap();
    file.set_len(8 << 20).unwrap();
    let stored = summary(&place.ok(&["--json", "backup", "--name", "t", path.to_str().unwrap()]));
    assert!(stored["read_bytes"].as_u64().unwrap() < 1 << 20 || fs::read(&path).unwrap().len() == 8 << 20);
    let printed = place.ok(&["cat", "t", path.to_str().unwrap()]).stdout;
    assert!(printed == fs::read(&path).unwrap(), "{} bytes", printed.len());
    let whole = format!("t:{}", path.display());
    assert!(place.ok(&["restore", &whole, "--stdout"]).stdout == printed);
}

/// Bytes of the files below a directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let len = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => bytes_below(&entry.path()),
        meta => meta.len(),
    };
    entries.map(len).sum()
}

#[test]
fn stats_are_the_sums_of_what_is_there() {
    let place = Place::new();
    place.store("a", &noise("a", 300_000));
    place.store("a", &noise("a", 300_000));
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    place.ok(&["verify", "a"]);
    let stats = summary(&place.ok(&["--json", "stats"]));
    let tree_bytes: usize =
        ["a.txt", "b.txt", "keep/c.txt", "keep/deep/d.log", "cache/e.tmp"].map(|n| n.len() + 8).iter().sum();
    let packs = ["data", "meta"].map(|folder| bytes_below(&place.path().join("repo").join(folder)));
    assert_eq!((&stats["snapshots"], &stats["saved_bytes"]), (&3.into(), &(600_000 + tree_bytes).into()), "{stats}");
    assert_eq!(stats["stored_bytes"], packs[0] + packs[1]);
    assert_eq!((&stats["index"]["data_bytes"], &stats["index"]["meta_bytes"]), (&packs[0].into(), &packs[1].into()));
    assert!(packs[0] > 300_000 && packs[0] < 400_000, "the second 300,000 bytes are the first");
    let index = summary(&place.ok(&["--json", "index", "stats"]));
    assert_eq!(index["chunks"], stats["index"]["chunks"]);
    let shown = text(&place.ok(&["stats"]).stdout);
    assert!(shown.contains("3 (1 verified)"), "{shown}");
}

#[test]
fn snapshots_are_filtered_by_name_tag_and_time_and_show_what_is_proved() {
    let place = Place::new();
    let backup = |name: &str, tags: &[&str]| {
        let mut args = vec!["--json", "backup", "--name", name, "/etc/passwd"];
        tags.iter().for_each(|tag| args.extend(["--tag", tag]));
        summary(&place.ok(&args))["snapshot"].as_str().unwrap().to_owned()
    };
    let a = backup("a", &["kind=daily", "owner=ops"]);
    let b = backup("b", &["kind=daily"]);
    let c = backup("a", &["kind=weekly"]);
    let listed = |args: &[&str]| words(&objects(&place, "snapshot", &[&["snapshots"], args].concat()), "id");
    assert_eq!(listed(&[]), [&a, &b, &c].map(String::clone));
    assert_eq!(listed(&["--name", "a"]), [a.clone(), c.clone()]);
    assert_eq!(listed(&["--tag", "kind=daily"]), [a.clone(), b.clone()]);
    assert_eq!(listed(&["--tag", "kind=daily", "--tag", "owner=ops"]), [a.as_str()]);
    assert_eq!(listed(&["--tag", "kind=dail"]), [""; 0]);
    assert_eq!(listed(&["--name", "A"]), [""; 0]);
    assert_eq!(listed(&["--at", "2099-01-01"]), [b.clone(), c.clone()], "the newest of each name");
    assert_eq!(listed(&["--at", "2001-01-01"]), [""; 0]);
    let first = &objects(&place, "snapshot", &["snapshots"])[0];
    assert_eq!(listed(&["--at", first["time"].as_str().unwrap()]), [a.as_str()], "at exactly that time");
    assert_eq!(first["verified"], Value::Null);
    place.ok(&["verify", &a[..12]]);
    let verified: Vec<bool> =
        objects(&place, "snapshot", &["snapshots"]).iter().map(|line| line["verified"].is_string()).collect();
    assert_eq!(verified, [true, false, false]);
    let shown = text(&place.ok(&["snapshots"]).stdout);
    let column = shown.lines().next().unwrap().find("VERIFIED").unwrap();
    let day = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).strftime("%m-%d").to_string();
    let cells: Vec<&str> = shown.lines().skip(1).map(|line| line[column..column + 8].trim_end()).collect();
    // Midnight may have passed since the proof was written.
    assert!(cells[0] == day || cells[0].len() == 5, "{shown}");
    assert_eq!(cells[1..], ["-", "-"]);
    assert!(shown.contains("kind=daily owner=ops"));
}

#[test]
fn a_snapshot_was_not_selected_by_the_second_in_which_it_is_listed() {
    let place = Place::new();
    for (time, bytes) in [
        ("2026-05-30T10:00:00Z", "first"),
        ("2026-05-30T10:00:00.5Z", "second"),
        ("2026-05-30T22:30:00.000000001Z", "third"),
    ] {
        publish_at(&place, "db", time, bytes.as_bytes());
    }
    let in_zone =
        |zone: &str, text: &str| place.command().env("TZ", zone).args(["cat", &format!("db@{text}")]).output();
    for (zone, time, expected) in [
        ("UTC", "2026-05-30T10:00:00.4Z", "first"),
        ("UTC", "2026-05-30T10:00:00.5Z", "second"),
        ("UTC", "2026-05-30T10:00:00Z", "second"),
        ("UTC", "2026-05-30T22:30:00.0Z", "second"),
        ("UTC", "2026-05-30T22:30:00Z", "third"),
        ("UTC", "2026-05-30 22:29:59", "second"),
        ("UTC", "2026-05-30 22:30", "third"),
        ("UTC", "2026-05-30", "third"),
        // Half past midnight of the next day, two hours east.
        ("XST-2", "2026-05-30", "second"),
        ("XST-2", "2026-05-31", "third"),
        ("XST-2", "2026-05-31 00:30:00", "third"),
        ("XST-2", "2026-05-31 00:29:59", "second"),
        ("XST-2", "2026-05-30 12:00:00", "second"),
        ("XST-2", "2026-05-30T10:00:00Z", "second"),
        // Five hours west.
        ("EST5", "2026-05-30 17:30:00", "third"),
        ("EST5", "2026-05-30 05:00", "second"),
    ] {
        let output = in_zone(zone, time).unwrap();
        assert_eq!(text(&output.stdout), expected, "{time} in {zone}: {}", text(&output.stderr));
    }
    assert_fails(in_zone("UTC", "2026-05-30T09:59:59Z").unwrap(), 1, &["at or before", "oldest"]);
    assert_fails(in_zone("XST-2", "2026-05-30 11:59:59").unwrap(), 1, &["at or before"]);
    let listed = place.command().env("TZ", "XST-2").arg("snapshots").output().unwrap();
    assert!(text(&listed.stdout).contains("2026-05-31 00:30:00"), "{}", text(&listed.stdout));
}

/// It was taken for the earlier of the two, without a word.
#[test]
fn a_local_time_that_is_there_twice_or_never_is_refused_with_what_may_be_meant() {
    let place = Place::new();
    publish_at(&place, "db", "2025-10-26T00:10:00Z", b"summer");
    publish_at(&place, "db", "2025-10-26T01:10:00Z", b"winter");
    let profile = place.path().join("profile.toml");
    std::fs::write(&profile, "extends = 'none'\nname = 'p'\ncomponents = ['config']\n").unwrap();
    let profile = profile.to_str().unwrap();
    let target = place.path().join("out");
    let target = target.to_str().unwrap();
    let run = |args: &[&str]| place.command().env("TZ", "Europe/Berlin").args(args).output().unwrap();
    let platform = |at: &str, command: &str| {
        run(&["platform", command, "--profile", profile, "--at", at, "--allow", "unverified"])
    };
    let twice = "2025-10-26T02:30";
    let both = ["was there twice", "say 2025-10-26T02:30:00+02:00 or 2025-10-26T02:30:00+01:00"];
    let named = format!("db@{twice}");
    assert_fails(run(&["restore", &named, "--target", target]), 2, &both);
    assert_fails(run(&["cat", &named]), 2, &both);
    assert_fails(run(&["snapshots", "--at", twice]), 2, &both);
    assert_fails(platform(twice, "restore"), 2, &both);
    assert_fails(platform(twice, "drill"), 2, &both);
    assert!(!std::path::Path::new(target).exists());
    // What it names is taken.
    for (offset, expected) in [("+02:00", "summer"), ("+01:00", "winter")] {
        let output = run(&["cat", &format!("db@2025-10-26T02:30:00{offset}")]);
        assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    }
    for (time, expected) in [("2025-10-26T03:00", "winter"), ("2025-10-26", "winter")] {
        assert_eq!(text(&run(&["cat", &format!("db@{time}")]).stdout), expected, "{time}");
    }
    let never = ["was never there", "say 2025-03-30T01:30:00+01:00 or 2025-03-30T03:30:00+02:00"];
    assert_fails(platform("2025-03-30 02:30", "restore"), 2, &never);
    assert_fails(run(&["restore", "db@2025-03-30T02:30", "--target", target]), 2, &never);
}
