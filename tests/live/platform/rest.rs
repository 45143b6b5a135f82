//! What is in the way of a platform at rest: queues that do not drain, processes that do not end, PID files.

use std::io::Cursor;
use std::process::Child;
use std::time::{Duration, Instant};

use cairn::source::redis::encoding::{Decoder, Item};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::light::{Light, PAGE, shown};
use super::{component, record, summary};
use crate::servers::PATIENCE;

/// The elements of a snapshot with queues, by key.
fn elements(light: &Light, snapshot: &str) -> Vec<(String, Vec<String>)> {
    let stream = {
        let argv: Vec<&str> =
            super::Platform::argv(&["cat", snapshot]).into_iter().filter(|one| *one != "--json").collect();
        light.lab.run(&argv).stdout
    };
    let (mut decoder, mut found) = (Decoder::new(Cursor::new(stream)), Vec::new());
    loop {
        match decoder.next_item().unwrap() {
            Item::Key { name, .. } => found.push((name, Vec::new())),
            Item::Element(parts) => found.last_mut().unwrap().1.push(String::from_utf8(parts.concat()).unwrap()),
            Item::KeyEnd(_) => {}
            Item::End => break,
        }
    }
    found.retain(|(_, elements)| !elements.is_empty());
    found
}

fn part<'a>(set: &'a Value, role: &str) -> &'a str {
    let parts = component(set, "redis")["parts"].as_array().unwrap();
    let part = parts.iter().find(|part| part["role"] == role).unwrap_or_else(|| panic!("no {role}: {parts:#?}"));
    part["snapshot"].as_str().unwrap()
}

#[test]
fn a_queue_that_does_not_drain() {
    let Some(light) = Light::boot() else { return };
    let (before, waiting) = (light.active(), ["second", "first"]);

    // Nothing is purged without being asked for.
    light.fill("providers", &waiting);
    light.write(PAGE, "the page of an earlier run");
    let output = light.platform("backup", &["--drain-timeout", "1", "--report", PAGE]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in ["providers: 2", "--drain-timeout", "--purge-queues"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let unchanged = |when: &str| {
        assert_eq!(light.active(), before, "{when}");
        assert_eq!(light.queue("providers"), waiting, "{when}");
        light.is_clean();
    };
    unchanged("not drained");
    assert_eq!(light.sets(), 0);

    // The page says that there is no set, and why.
    let page = light.page();
    for part in ["No backup set of ", "providers: 2", "--purge-queues", "undone", "Exit status</dt>\n<dd>1<"] {
        assert!(page.contains(part), "{part}: {page}");
    }

    // Whoever empties an ingestion queue is stopped by then: that is not waited for, and what else waits changes nothing.
    for queues in [["queue:ingestion:inbound"].as_slice(), &["providers", "queue:graph:inbound"]] {
        queues.iter().for_each(|queue| light.fill(queue, &["one"]));
        let begun = Instant::now();
        let output = light.platform("backup", &["--drain-timeout", "3000"]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        let text = String::from_utf8_lossy(&output.stderr);
        let last = queues.last().unwrap();
        assert!(text.contains(&format!("is stopped ({last}: 1)")) && text.contains("--purge-queues"), "{text}");
        queues.iter().for_each(|queue| light.fill(queue, &[]));
        light.fill("providers", &waiting);
        unchanged("unattended");
    }

    // A set that cannot be published gives the elements back.
    let (sets, away) = (light.lab.path("/srv/backup/sets"), light.lab.path("/srv/backup/away"));
    std::fs::rename(&sets, &away).unwrap();
    std::fs::write(&sets, "no directory").unwrap();
    let purging = ["--purge-queues", "--drain-timeout", "0"];
    let output = light.platform("backup", &[purging.as_slice(), &["--report", PAGE]].concat());
    std::fs::remove_file(&sets).unwrap();
    std::fs::rename(&away, &sets).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("undo: save what is left in queues"),
        "{}",
        shown(&output)
    );
    unchanged("not published");
    let page = light.page();
    assert!(page.contains("No backup set of ") && page.contains("publish"), "{page}");
    assert_eq!(light.sets(), 0);

    // A set that is published holds what was purged; what was pushed since then stays, and is in it, too.
    light.fill("queue:ingestion:inbound", &["inbound"]);
    let mut run = light.start("backup", &purging);
    assert!(run.begins("stop-workers:eclecticiq-platform-backend-worker*.service"));
    run.frozen(|light| {
        light.redis(&["LPUSH", "providers", "late"]);
        light.redis(&["SAVE"]);
    });
    let set = record(&run.ended());
    assert_eq!(set["status"], "complete", "{set:#}");
    let list =
        |name: &str, elements: &[&str]| (name.to_owned(), elements.iter().map(|one| (*one).to_owned()).collect());
    let purged = vec![list("providers", &waiting), list("queue:ingestion:inbound", &["inbound"])];
    assert_eq!(elements(&light, part(&set, "purged")), purged);
    assert_eq!(elements(&light, part(&set, "queues")), [list("providers", &["late"])]);
    let facts = &component(&set, "redis")["facts"];
    assert_eq!(facts["purged"], json!({ "providers": 2, "queue:ingestion:inbound": 1 }));
    assert_eq!(light.queue("providers"), ["late"]);
    assert_eq!(light.queue("queue:ingestion:inbound"), Vec::<String>::new());
    assert_eq!(light.active(), before);
    light.is_clean();

    // Redis forgets that they were dropped. They are in no private corner for ever, and in the way of no later run.
    light.lab.ok(&["systemctl", "kill", "--signal=KILL", "redis"]);
    light.lab.ok(&["systemctl", "reset-failed", "redis"]);
    light.lab.ok(&["systemctl", "start", "redis"]);
    assert_eq!(light.redis(&["KEYS", "cairn:*"]).len(), 2);
    let output = light.platform("backup", &["--drain-timeout", "0"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert_eq!(light.queue("providers"), ["late", "second", "first"]);
    assert_eq!(light.queue("queue:ingestion:inbound"), ["inbound"]);
    light.is_clean();
    let set = record(&light.platform("backup", &purging));
    assert_eq!(component(&set, "redis")["facts"]["purged"], json!({ "providers": 3, "queue:ingestion:inbound": 1 }));
    assert_eq!(light.active(), before);
    light.is_clean();
}

/// Starts a program by hand, as the platform's user.
fn by_hand(light: &Light, program: &str) -> Child {
    let user = ["setpriv", "--reuid=eclecticiq", "--regid=eclecticiq", "--clear-groups", "--", program];
    light.lab.command(&user).spawn().unwrap()
}

fn all_warnings(set: &Value) -> String {
    set["warnings"].to_string()
}

#[test]
fn what_does_not_end_is_killed_and_what_it_left_behind_goes() {
    let Some(light) = Light::boot() else { return };
    let (polite, stubborn) =
        ("/opt/eclecticiq-platform-backend/bin/polite", "/opt/eclecticiq-platform-backend/bin/stubborn");
    let work = "while :; do sleep 1; done\n";
    light.add_program(stubborn, &format!("#!/bin/sh\ntrap '' TERM\n{work}"));
    light.add_program(polite, &format!("#!/bin/sh\necho $$ >/run/eclecticiq-hand/polite.pid\n{work}"));
    light.lab.ok(&["install", "-d", "-o", "eclecticiq", "/run/eclecticiq-hand"]);
    light.write("/run/eclecticiq-hand/stale.pid", "3999999\n");
    light.write("/run/eclecticiq-hand/foreign.pid", "1\n");
    let worker = "eclecticiq-platform-backend-worker@utilities.service";
    light.drop_in(
        worker,
        "[Service]\nExecStart=\nExecStart=/bin/sh -c \"trap '' TERM; while :; do sleep 1; done\"\nTimeoutStopSec=2\n",
    );
    light.lab.ok(&["systemctl", "daemon-reload"]);
    light.lab.ok(&["systemctl", "restart", worker]);
    let before = light.active();

    // Asked to stop while the worker takes its time: it is waited for, twice asked or not, and started again.
    let mut run = light.start("backup", &[]);
    assert!(run.begins("stop-workers:eclecticiq-platform-backend-worker*.service"));
    run.signal(Signal::TERM);
    run.signal(Signal::INT);
    let output = run.ended();
    assert_eq!(output.status.code(), Some(130), "{}", shown(&output));
    assert_eq!((light.active(), light.sets()), (before.clone(), 0));
    light.is_clean();

    let (mut first, mut second) = (by_hand(&light, stubborn), by_hand(&light, polite));
    let started = Instant::now();
    while !light.lab.path("/run/eclecticiq-hand/polite.pid").exists() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let set = record(&light.platform("backup", &[]));
    let (warnings, steps) = (all_warnings(&set), set["steps"].to_string());
    let seen = [
        format!("{stubborn} (rule platform) did not end when it was asked to, and was killed"),
        format!("{polite} (rule platform) ended when it was asked to"),
        "stale.pid removed: no process 3999999".to_owned(),
        "polite.pid removed".to_owned(),
        "foreign.pid stays: its number is that of process 1".to_owned(),
    ];
    for text in &seen {
        assert!(warnings.contains(text) && steps.contains(text), "{text}: {set:#}");
    }
    assert!(
        warnings.contains(&format!("{worker} did not end when it was told to, and systemd killed it")),
        "{warnings}"
    );
    assert!(steps.contains(&format!("{worker}: failed (failed), result timeout")), "{steps}");
    // Both have ended: it is their end that is waited for here.
    first.wait().unwrap();
    second.wait().unwrap();
    let left: Vec<bool> = ["stale", "polite", "foreign"]
        .iter()
        .map(|name| light.lab.path(&format!("/run/eclecticiq-hand/{name}.pid")).exists())
        .collect();
    assert_eq!(left, [false, false, true]);
    assert_eq!(light.active(), before);

    // What a unit runs is no leftover: the unit would not be as it was afterwards.
    light.add_unit("extra.service", &format!("[Service]\nExecStart={polite}\n"));
    light.lab.ok(&["systemctl", "start", "extra"]);
    let processes = light.lab.ok(&["systemctl", "show", "-P", "MainPID", "extra"]);
    let output = light.platform("backup", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("extra.service") && text.contains("services.others"), "{text}");
    assert_eq!(light.lab.ok(&["systemctl", "show", "-P", "MainPID", "extra"]), processes);
    assert!(light.active().is_superset(&before));
    light.is_clean();
}

#[test]
fn units_are_afterwards_as_they_were_before() {
    let Some(light) = Light::boot() else { return };
    // Down before; up without being wanted by anything, one that the profile names and one that it does not; and one
    // that will not start again.
    light.lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-scheduler"]);
    light.add_unit(
        "helper.service",
        "[Unit]\nPartOf=eclecticiq-platform-backend-services.service\n[Service]\nExecStart=/bin/sleep infinity\n",
    );
    let web = "eclecticiq-platform-backend-web.service";
    let fragile = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nExecStartPre=+/usr/bin/test ! -e /run/broken\nRestart=no\n";
    light.drop_in(web, fragile);
    light.lab.ok(&["systemctl", "daemon-reload"]);
    light.lab.ok(&["systemctl", "start", "helper", "eclecticiq-platform-backend-worker@discovery"]);
    let before = light.active();
    let set = record(&light.platform("backup", &[]));
    assert_eq!((light.active(), &set["warnings"]), (before.clone(), &json!([])));

    // The set is published; what is not up again stays in the journal until it is.
    light.write("/run/broken", "");
    let output = light.platform("backup", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let set = summary(&output)["record"].clone();
    assert_eq!((light.sets(), &set["status"]), (2, &"complete".into()));
    assert!(all_warnings(&set).contains("not undone: stop eclecticiq-platform-backend-web"), "{set:#}");
    let mut without = before.clone();
    without.remove(web);
    assert_eq!(light.active(), without);
    assert!(light.has_journal());
    refused(&light, "backup", 1, "cairn platform resume");
    refused(&light, "resume", 1, web);
    assert!(light.has_journal());
    std::fs::remove_file(light.lab.path("/run/broken")).unwrap();
    light.ends("resume", &[], 0);
    assert_eq!(light.active(), before);
    light.is_clean();

    // At rest on purpose, until it is wanted again.
    light.ends("stop", &[], 0);
    let rest = light.active();
    assert!(!rest.iter().any(|unit| unit.contains("eclecticiq") || unit == "helper.service"), "{rest:?}");
    for command in ["backup", "stop"] {
        refused(&light, command, 1, "stopped on purpose: run `cairn platform start`");
    }
    assert_eq!(light.ends("resume", &[], 0)["at_rest"], true);
    assert_eq!(light.active(), rest);
    light.ends("start", &[], 0);
    assert_eq!(light.active(), before);
    light.is_clean();

    // One at a time.
    light.fill("providers", &["a task"]);
    let mut first = light.start("backup", &["--drain-timeout", "100"]);
    assert!(first.begins("drain-queues"));
    refused(&light, "backup", 11, "another run is at work here (process ");
    refused(&light, "resume", 11, "another run is at work here (process ");
    let second = light.start("backup", &["--wait", "100"]);
    light.fill("providers", &[]);
    for run in [first, second] {
        record(&run.ended());
    }
    assert_eq!((light.active(), light.sets()), (before, 4));
    light.is_clean();
}

fn refused(light: &Light, command: &str, status: i32, why: &str) {
    let output = light.platform(command, &[]);
    assert_eq!(output.status.code(), Some(status), "{command}: {}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{command}: {}", shown(&output));
}
