//! `cairn platform backup` of files alone, by a user without privileges.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Place, summary, text};

/// A file of this size is not searched for keys.
const TOO_LARGE: usize = (4 << 20) + 1;

/// A profile of four files: one that is well, one that may not be read, one that is not there, and one that is too large to
/// be searched for the paths of keys.
fn profile(place: &Place) -> PathBuf {
    let etc = place.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("open.conf"), "open").unwrap();
    fs::write(etc.join("closed.conf"), "closed").unwrap();
    fs::write(etc.join("large.conf"), vec![b'#'; TOO_LARGE]).unwrap();
    let file = |name: &str| format!("{}/{name}.conf", etc.display());
    let text = format!(
        "extends = 'none'\nname = 'mine'\ncomponents = ['config']\n[state]\ndirectory = '{}/state'\n\
         [config.groups.mine]\npaths = ['{}', '{}', '{}', '{}']\n[keys.search]\nredis = ['{}']\n",
        place.path().display(),
        file("open"),
        file("closed"),
        file("nowhere"),
        file("large"),
        file("large"),
    );
    let profile = place.path().join("profile.toml");
    fs::write(&profile, text).unwrap();
    profile
}

#[test]
fn files_that_cannot_be_had_make_the_component_partial_and_are_named() {
    let mut place = Place::empty();
    let profile = profile(&place);
    place.become_nobody();
    place.ok(&["init"]);
    let (etc, page) = (place.path().join("etc"), place.path().join("report.html"));
    fs::set_permissions(etc.join("closed.conf"), Permissions::from_mode(0o000)).unwrap();
    let arguments = ["--json", "platform", "backup", "--online", "--only", "config", "--profile"];
    let arguments = [&arguments, [profile.to_str().unwrap(), "--report", page.to_str().unwrap()].as_slice()].concat();
    let output = place.run(&arguments);
    assert_eq!(output.status.code(), Some(3), "{}{}", text(&output.stdout), text(&output.stderr));
    let set = summary(&output)["record"].clone();
    assert_eq!((&set["status"], &set["consistency"]), (&"partial".into(), &"online".into()), "{set:#}");
    let config = &set["components"][0];
    assert_eq!((&config["name"], &config["status"]), (&"config".into(), &"partial".into()), "{set:#}");
    let warnings = config["warnings"].to_string();
    let path = |name: &str| etc.join(name).to_str().unwrap().to_owned();
    for part in [path("closed.conf"), path("large.conf"), format!("more than {} bytes", TOO_LARGE - 1)] {
        assert!(warnings.contains(&part), "{part}: {warnings}");
    }
    assert!(warnings.contains("1 files or directories could not be read"), "{warnings}");
    assert_eq!(config["facts"]["absent"], json!([path("nowhere.conf")]), "{config:#}");
    let page = fs::read_to_string(&page).unwrap();
    for name in ["closed.conf", "large.conf", "nowhere.conf"] {
        assert!(page.contains(&path(name)), "{name}: {page}");
    }

    // What could be had is there, the large file whole.
    let snapshot = config["parts"][0]["snapshot"].as_str().unwrap();
    let listed = text(&place.ok(&["--json", "ls", snapshot]).stdout);
    let entries: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = |name: &str| {
        let is_it = |entry: &&Value| entry["path"].as_str().is_some_and(|path| path.ends_with(name));
        let entry = entries.iter().find(is_it).unwrap();
        (entry["kind"].as_str().unwrap().to_owned(), entry["size"].as_u64().unwrap())
    };
    let stored = ["etc/open.conf", "etc/large.conf", "etc/closed.conf"].map(entry);
    let expected = [("file", 4), ("file", TOO_LARGE as u64), ("unread", 0)];
    assert_eq!(stored, expected.map(|(kind, size)| (kind.to_owned(), size)), "{listed}");

    // With all of it in order the next run is complete.
    fs::set_permissions(etc.join("closed.conf"), Permissions::from_mode(0o600)).unwrap();
    fs::write(etc.join("large.conf"), "small").unwrap();
    let output = place.run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(summary(&output)["record"]["status"], "complete");
}

#[test]
fn a_dry_run_shows_the_plan_and_does_nothing() {
    let mut place = Place::empty();
    let profile = profile(&place);
    place.become_nobody();
    let page = place.path().join("report.html");
    fs::write(&page, "the page of an earlier run").unwrap();
    let names = || {
        let all = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        std::collections::BTreeSet::from_iter(all)
    };
    let before = names();
    // There is no repository, and none is needed.
    let mut arguments = vec!["platform", "backup", "--dry-run", "--profile", profile.to_str().unwrap()];
    arguments.extend(["--report", page.to_str().unwrap()]);
    let planned = text(&place.ok(&arguments).stdout);
    let shown = text(&place.ok(&["platform", "plan", "--profile", profile.to_str().unwrap()]).stdout);
    assert_eq!(planned, shown);
    for part in ["etc/open.conf", "absent", "configuration and keys"] {
        assert!(planned.contains(part), "{part}: {planned}");
    }
    assert_eq!(names(), before);
    assert_eq!(fs::read_to_string(&page).unwrap(), "the page of an earlier run");
    // What a run would refuse is refused.
    place.fails(&[&arguments[..], &["--allow", "nothing"]].concat(), 2, &["no such check"]);
    place.fails(&[&arguments[..], &["--only", "neo4j"]].concat(), 2, &["the profile does not have it"]);
}

#[test]
fn a_run_that_cannot_begin_leaves_a_page_that_says_so() {
    let mut place = Place::empty();
    let profile = profile(&place);
    let page = place.path().join("report.html");
    fs::write(&page, "").unwrap();
    place.become_nobody();
    let run = |profile: &str| {
        fs::write(&page, "the page of an earlier run").unwrap();
        let output = place.run(&["platform", "backup", "--profile", profile, "--report", page.to_str().unwrap()]);
        (output.status.code(), fs::read_to_string(&page).unwrap())
    };
    let (code, told) = run(profile.to_str().unwrap());
    assert_eq!(code, Some(10));
    for part in ["<title>No backup set of mine</title>", "the run could not begin", "<dd>10</dd>", "cairn init"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    fs::write(place.path().join("bad.toml"), "extends = 'none'\nfoo = 1\n").unwrap();
    let (code, told) = run(place.path().join("bad.toml").to_str().unwrap());
    assert_eq!(code, Some(2));
    assert!(told.contains("bad.toml:2:1") && told.contains("No backup set of"), "{told}");
}
