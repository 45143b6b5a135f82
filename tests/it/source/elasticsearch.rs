//! Elasticsearch without a server: its configuration file, names of snapshots, what is pruned, comparing.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cairn::source::SourceError;
use cairn::source::elasticsearch::facts::{Tally, compare, compare_documents, not_recorded};
use cairn::source::elasticsearch::location::{LocationState, location_state, problems};
use cairn::source::elasticsearch::settings_file::{allow, configure_path_repo, path_repo, undo};
use cairn::source::elasticsearch::snapshot::{Snapshot, is_ours, surplus};
use cairn::source::elasticsearch::{Client, ElasticsearchSettings};

const PLACE: &str = "/db-backup/elasticsearch";

fn edited(text: &str, expected: &str) {
    let result = configure_path_repo(text, PLACE).unwrap();
    assert_eq!(result, expected);
    assert_eq!(configure_path_repo(&result, PLACE).unwrap(), result, "a second edit changed something");
    assert!(path_repo(&result).unwrap().contains(&PLACE.to_owned()));
}

#[test]
fn a_missing_path_repo_is_added_at_the_end() {
    edited("cluster.name: x\n# end\n", "cluster.name: x\n# end\npath.repo: [\"/db-backup/elasticsearch\"]\n");
    edited("cluster.name: x", "cluster.name: x\npath.repo: [\"/db-backup/elasticsearch\"]\n");
    edited("", "path.repo: [\"/db-backup/elasticsearch\"]\n");
    edited("---\r\na: b\r\n", "---\r\na: b\r\npath.repo: [\"/db-backup/elasticsearch\"]\r\n");
    edited("  a: b\n", "  a: b\n  path.repo: [\"/db-backup/elasticsearch\"]\n");
    edited(
        "path:\n  data: /x # [\n  logs: /y\n",
        "path:\n  data: /x # [\n  logs: /y\npath.repo: [\"/db-backup/elasticsearch\"]\n",
    );
}

#[test]
fn path_repo_goes_behind_the_line_that_is_commented_out() {
    edited(
        "a: b\n# path.repo: /x\n\nhttp.port: 9200\n",
        "a: b\n# path.repo: /x\npath.repo: [\"/db-backup/elasticsearch\"]\n\nhttp.port: 9200\n",
    );
    // Not where it would cut a mapping in two.
    edited(
        "path:\n  data: /x\n#path.repo: /x\n  logs: /y\n",
        "path:\n  data: /x\n#path.repo: /x\n  logs: /y\npath.repo: [\"/db-backup/elasticsearch\"]\n",
    );
}

#[test]
fn a_path_repo_that_is_there_gets_one_more_directory() {
    for (before, after) in [
        ("path.repo: /a # old\nb: c\n", "path.repo: [\"/a\", \"/db-backup/elasticsearch\"] # old\nb: c\n"),
        ("path.repo: '/a'\n", "path.repo: [\"/a\", \"/db-backup/elasticsearch\"]\n"),
        ("path.repo: /a, /b\n", "path.repo: [\"/a\", \"/b\", \"/db-backup/elasticsearch\"]\n"),
        ("path.repo: [\"/a\", /b]  # two\n", "path.repo: [\"/a\", /b, \"/db-backup/elasticsearch\"]  # two\n"),
        ("path.repo: []\n", "path.repo: [\"/db-backup/elasticsearch\"]\n"),
        ("path.repo:   # none\n", "path.repo: [\"/db-backup/elasticsearch\"]   # none\n"),
        ("\"path.repo\": [/a]\n", "\"path.repo\": [/a, \"/db-backup/elasticsearch\"]\n"),
        (
            "path.repo: [ # all\n  \"/a\", # one\n  '/b', # two\n]\nz: y\n",
            "path.repo: [ # all\n  \"/a\", # one\n  '/b', \"/db-backup/elasticsearch\", # two\n]\nz: y\n",
        ),
        (
            "path.repo:\n  # first\n  - /a\n  - \"/b\" # b\n\nz: y\n",
            "path.repo:\n  # first\n  - /a\n  - \"/b\" # b\n  - \"/db-backup/elasticsearch\"\n\nz: y\n",
        ),
        ("path.repo:\n- /a\nz: y\n", "path.repo:\n- /a\n- \"/db-backup/elasticsearch\"\nz: y\n"),
        ("path.repo:\n- /a", "path.repo:\n- /a\n- \"/db-backup/elasticsearch\"\n"),
        (
            "path:\n    data: /d\n    repo: /a\n    logs: /l\n",
            "path:\n    data: /d\n    repo: [\"/a\", \"/db-backup/elasticsearch\"]\n    logs: /l\n",
        ),
        (
            "path:\n  repo:\n    - /a\n  logs: /l\n",
            "path:\n  repo:\n    - /a\n    - \"/db-backup/elasticsearch\"\n  logs: /l\n",
        ),
    ] {
        edited(before, after);
    }
}

#[test]
fn a_directory_that_is_allowed_already_changes_nothing() {
    for text in [
        "path.repo: [\"/db-backup/elasticsearch\"]",
        "path.repo: /db-backup\n",
        "path.repo: '/db-backup/elasticsearch/'\n",
        "path:\n  repo: [/x, /db-backup/elasticsearch]\n",
        "path.repo:\n- /db-backup/elasticsearch\n",
    ] {
        assert_eq!(configure_path_repo(text, PLACE).unwrap(), text);
    }
    assert_ne!(configure_path_repo("path.repo: /db-back\n", PLACE).unwrap(), "path.repo: /db-back\n");
}

#[test]
fn yaml_that_is_not_understood_for_certain_is_refused() {
    for text in [
        "path.repo: /a\npath.repo: /b\n",
        "path.repo: /a\npath:\n  repo: /b\n",
        "a: b\n---\npath.repo: /a\n",
        "a: b\n...\n",
        "path.repo: &x /a\n",
        "path.repo: *x\n",
        "path.repo: !!seq [/a]\n",
        "path.repo: |\n  /a\n",
        "path.repo: \"/a\\x41\"\n",
        "path.repo: 'it''s'\n",
        "path.repo: [/a\n",
        "path.repo: [[/a]]\n",
        "path.repo: [/a] x\n",
        "path.repo: {a: b}\n",
        "path.repo: /a\n  /b\n",
        "path.repo.0: /a\n",
        "path: {repo: /a}\n",
        "path:\n  repo.0: /a\n",
        "{path.repo: /a}\n",
        "\tpath.repo: /a\n",
        "no mapping\n",
        "path.repo:\n  - /a\n    - /b\n",
        "path.repo:\n  nested: /a\n",
        "<<: *all\nx\n",
    ] {
        assert!(configure_path_repo(text, PLACE).is_err(), "{text:?} was edited");
    }
    assert!(configure_path_repo("a: b\n", "relative").is_err());
    assert!(configure_path_repo("a: b\n", "/with\nbreak").is_err());
    assert!(configure_path_repo("a: b\n", "/with\"quote").is_err());
}

#[test]
fn allowing_a_directory_keeps_the_first_bytes_and_can_be_undone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("elasticsearch.yml");
    let copy = directory.path().join("copy.yml");
    let link = directory.path().join("link.yml");
    std::os::unix::fs::symlink("elasticsearch.yml", &link).unwrap();
    let original = "# mine\ncluster.name: x\n";
    std::fs::write(&file, original).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();

    assert!(allow(&link, PLACE, &copy).unwrap());
    assert!(!allow(&link, PLACE, &copy).unwrap(), "the second time has nothing to do");
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), original);
    assert!(std::fs::read_to_string(&file).unwrap().contains(PLACE));
    for path in [&file, &copy] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    }
    assert!(undo(&link, PLACE, &copy).unwrap());
    assert!(!undo(&link, PLACE, &copy).unwrap(), "the second time has nothing to do");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), original);
    assert!(!copy.exists());
}

#[test]
fn an_undo_leaves_a_file_alone_that_the_operator_changed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("elasticsearch.yml");
    let copy = directory.path().join("copy.yml");
    std::fs::write(&file, "a: b\n").unwrap();
    assert!(allow(&file, PLACE, &copy).unwrap());
    let theirs = std::fs::read_to_string(&file).unwrap() + "http.port: 9201\n";
    std::fs::write(&file, &theirs).unwrap();
    let error = undo(&file, PLACE, &copy).unwrap_err();
    assert!(error.to_string().contains("changed meanwhile"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), theirs);
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "a: b\n");
}

#[test]
fn a_copy_of_another_state_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("elasticsearch.yml");
    let copy = directory.path().join("copy.yml");
    std::fs::write(&file, "a: b\n").unwrap();
    std::fs::write(&copy, "a: earlier\n").unwrap();
    assert!(matches!(allow(&file, PLACE, &copy), Err(SourceError::Setting { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a: b\n");
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "a: earlier\n");
    // A copy of this very state is what an interrupted try leaves.
    std::fs::write(&copy, "a: b\n").unwrap();
    assert!(allow(&file, PLACE, &copy).unwrap());
}

fn snapshot(name: &str, state: &str, started: u64) -> Snapshot {
    Snapshot {
        name: name.to_owned(),
        uuid: "u".to_owned(),
        state: state.to_owned(),
        version: "7.17.28".to_owned(),
        indices: Vec::new(),
        started_milliseconds: started,
        shards: 1,
        failures: Vec::new(),
        saved_shards: 1,
    }
}

#[test]
fn only_snapshots_of_our_name_form_are_ours() {
    for name in ["snapshot-202601020304", "snapshot-202601020304-2", "snapshot-202601020304-99"] {
        assert!(is_ours(name), "{name}");
    }
    for name in [
        "snapshot-20260102030",
        "snapshot-2026010203045",
        "snapshot-20260102030a",
        "snapshot-202601020304-",
        "snapshot-202601020304-100",
        "snapshot-202601020304-x",
        "my-snapshot-202601020304",
        "nightly",
    ] {
        assert!(!is_ours(name), "{name}");
    }
}

#[test]
fn pruning_never_takes_the_newest_complete_snapshot_nor_someone_elses() {
    let all = [
        snapshot("nightly", "SUCCESS", 1),
        snapshot("snapshot-202601010000", "SUCCESS", 2),
        snapshot("snapshot-202601020000", "PARTIAL", 3),
        snapshot("snapshot-202601030000", "SUCCESS", 4),
        snapshot("snapshot-202601040000", "SUCCESS", 5),
        snapshot("snapshot-202601050000", "PARTIAL", 6),
        snapshot("snapshot-202601060000", "IN_PROGRESS", 7),
    ];
    assert_eq!(surplus(&all, 2), ["snapshot-202601010000", "snapshot-202601020000"]);
    let but_newest = ["snapshot-202601010000", "snapshot-202601020000", "snapshot-202601030000"];
    assert_eq!(surplus(&all, 1), but_newest);
    assert_eq!(surplus(&all, 0), but_newest, "the newest complete one stays whatever is asked");
    assert!(surplus(&all, 3).is_empty());
    assert!(surplus(&all[2..3], 1).is_empty(), "without a complete one, nothing goes");
}

#[test]
fn a_success_with_a_failed_shard_is_not_complete() {
    let mut one = snapshot("s", "SUCCESS", 1);
    assert!(one.is_complete());
    one.saved_shards = 0;
    assert!(!one.is_complete());
    one.saved_shards = 1;
    one.failures.push("stix[0]: lost".to_owned());
    assert!(!one.is_complete());
}

#[test]
fn comparing_names_each_index_that_differs() {
    let map = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let recorded = map(&[("audit", 1), ("stix_v4", 5), ("gone", 2)]);
    assert!(compare_documents(&recorded, &recorded).is_empty());
    let differences = compare_documents(&recorded, &map(&[("audit", 1), ("stix_v4", 4), ("new", 9)]));
    assert_eq!(
        differences,
        [
            "the index gone is missing; it had 2 documents",
            "the index stix_v4 has 4 documents instead of 5",
            "the index new was not recorded",
        ]
    );
}

#[test]
fn what_is_wrong_with_a_location_is_told_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let state = location_state(&absent, "root").unwrap();
    assert_eq!(state, LocationState::Absent);
    assert!(problems(&absent, &state, "root")[0].contains("install -d -o root"));
    let state = location_state(Path::new("/proc/self/status"), "root").unwrap();
    assert_eq!(state, LocationState::NoDirectory);
    let state = location_state(directory.path(), "root").unwrap();
    assert!(problems(directory.path(), &state, "root").is_empty(), "{state:?}");
    // Only its owner may write to a new temporary directory.
    let state = location_state(directory.path(), "nobody").unwrap();
    assert!(problems(directory.path(), &state, "nobody")[0].contains("may not write"), "{state:?}");
    let state = location_state(directory.path(), "no-such-user").unwrap();
    assert!(problems(directory.path(), &state, "no-such-user")[0].contains("no user"), "{state:?}");
}

#[test]
fn settings_are_refused_that_would_carry_or_lose_a_password() {
    let refused = |settings: ElasticsearchSettings| match Client::new(&settings) {
        Err(SourceError::Setting { setting, why }) => format!("{setting}: {why}"),
        _ => panic!("{settings:?} was accepted"),
    };
    let with_url = |url: &str| ElasticsearchSettings { url: url.to_owned(), ..Default::default() };
    let text = refused(with_url("http://me:secret@localhost:9200"));
    assert!(text.contains("password-file") && !text.contains("secret"), "{text}");
    refused(with_url("localhost:9200"));
    refused(with_url("file:///etc/passwd"));
    refused(ElasticsearchSettings { user: Some("me".to_owned()), ..Default::default() });
    refused(ElasticsearchSettings { password_env: Some("X".to_owned()), ..Default::default() });
}

#[test]
fn settings_have_the_platforms_defaults_and_refuse_unknown_names() {
    let settings: ElasticsearchSettings = toml::from_str("keep-snapshots = 7\nca-file = \"/ca.pem\"\n").unwrap();
    assert_eq!(settings.keep_snapshots, 7);
    assert_eq!(settings.url, "http://localhost:9200");
    assert_eq!(settings.location, Path::new(PLACE));
    assert!(toml::from_str::<ElasticsearchSettings>("pasword-file = \"/x\"\n").is_err());
}

#[test]
fn an_index_that_was_not_counted_is_not_taken_for_absent() {
    let mut snapshot = snapshot("one", "SUCCESS", 1);
    snapshot.indices = vec!["closed".to_owned(), "open".to_owned()];
    let recorded = Tally { documents: BTreeMap::from([("open".to_owned(), 3)]), ..Tally::default() };
    let left = not_recorded(&snapshot, &recorded);
    assert!(left.len() == 1 && left[0].contains("the index closed"), "{left:?}");
    let closed = Tally { closed: BTreeMap::from([("closed".to_owned(), 2)]), ..recorded.clone() };
    assert!(not_recorded(&snapshot, &closed).is_empty());
    snapshot.indices.remove(0);
    assert!(not_recorded(&snapshot, &recorded).is_empty());
}

#[test]
fn a_closed_index_is_compared_by_its_state_and_its_documents() {
    let one = |count| BTreeMap::from([("audit".to_owned(), count)]);
    let closed = |count| Tally { closed: one(count), ..Tally::default() };
    assert!(compare(&closed(2), &closed(2)).is_empty());
    assert!(compare(&closed(2), &closed(2).renamed(|name| format!("x-{name}"))).len() == 2);
    for (found, word) in [
        (closed(3), "has 3 documents instead of 2"),
        (Tally { documents: one(2), ..Tally::default() }, "is not there as a closed one"),
        (Tally::default(), "is not there as a closed one"),
    ] {
        let differences = compare(&closed(2), &found).join("; ");
        assert!(differences.contains(word), "{differences}");
    }
    let open = Tally { documents: one(2), ..Tally::default() };
    assert!(compare(&open, &closed(2)).join("; ").contains("was not recorded so"));
}
