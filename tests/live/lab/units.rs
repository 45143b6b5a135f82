//! The units of `packaging/systemd`, as `docs/systemd.md` installs them, under a real systemd.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cairn::cli::live::Live;
use cairn::cli::render::Output;
use cairn::cli::systemd::Notify;
use cairn::progress::{Monitor, Notice, Phase, StepEvent, StepState, StepWork, StopFlag};
use serde_json::Value;

use super::Lab;
use crate::servers::PATIENCE;

/// Installs the units in a lab, by the block of the document.
pub fn install(lab: &Lab) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = lab.path("/root/cairn/packaging/systemd");
    std::fs::create_dir_all(&place).unwrap();
    for entry in std::fs::read_dir(root.join("packaging/systemd")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.join(entry.file_name())).unwrap();
    }
    let document = std::fs::read_to_string(root.join("docs/systemd.md")).unwrap();
    let block = document.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    lab.ok(&["sh", "-euc", &format!("cd /root/cairn\n{block}")]);
}

fn wait_until(what: &str, lab: &Lab, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}\n{}", lab.ok(&["journalctl", "--no-pager", "-n", "100"]));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_units_install_as_documented_and_the_timer_comes_at_three() {
    let Some(lab) = Lab::boot(&[]) else { return };
    install(&lab);
    let units = ["cairn-backup.service", "cairn-backup.timer", "cairn-resume.service", "cairn-drill.timer"];
    for unit in units.into_iter().chain(["cairn-drill.service"]) {
        let path = format!("/etc/systemd/system/{unit}");
        let output = lab.run(&["systemd-analyze", "verify", "--man=no", &path]);
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && told.is_empty(), "{unit}: {}", String::from_utf8_lossy(&told));
    }
    assert!(lab.is_active("cairn-backup.timer") && lab.is_active("cairn-drill.timer"));
    let next = lab.ok(&["systemctl", "show", "cairn-drill.timer", "-P", "NextElapseUSecRealtime"]);
    assert!(next.starts_with("Sun ") && ("06:00:00".."06:15:01").contains(&next.split(' ').nth(2).unwrap()), "{next}");
    for unit in &units[1..] {
        assert_eq!(lab.ok(&["systemctl", "is-enabled", unit]), "enabled");
    }
    let next = lab.ok(&["systemctl", "show", "cairn-backup.timer", "-P", "NextElapseUSecRealtime"]);
    let clock = next.split(' ').nth(2).unwrap();
    assert!(("03:00:00".."03:15:01").contains(&clock), "{next}");
    let seconds = lab.ok(&["date", "-d", &next, "+%s"]).parse::<i64>().unwrap();
    let now = lab.ok(&["date", "+%s"]).parse::<i64>().unwrap();
    assert!((0..=24 * 3600 + 900).contains(&(seconds - now)), "{next}");
    // Nothing was cut off, so there is nothing to do.
    assert_eq!(lab.ok(&["systemctl", "show", "cairn-resume", "-P", "Result", "-P", "ConditionResult"]), "success\nno");
    let secret = lab.ok(&["stat", "-c", "%a", "/etc/cairn", "/etc/cairn/repository-password", "/etc/cairn/backup.env"]);
    assert_eq!(secret, "700\n600\n600");
}

#[test]
fn the_hardening_leaves_a_run_what_it_needs() {
    let Some(lab) = Lab::boot(&["redis"]) else { return };
    install(&lab);
    let script = "set -eux
        test \"$(id -u)\" = 0
        test -s \"$CAIRN_PASSWORD_FILE\" && test \"$CAIRN_REPO\" = /srv/backup/cairn
        cmp \"$CAIRN_PASSWORD_FILE\" /etc/cairn/repository-password
        test \"$CACHE_DIRECTORY\" = /var/cache/cairn && touch /var/cache/cairn/x && touch /var/lib/cairn/x
        systemctl stop redis && ! systemctl is-active redis && systemctl start redis
        echo '# edited' >>/etc/eclecticiq-elasticsearch/elasticsearch.yml
        mkdir -p /srv/backup/cairn && touch /media/redis/x && touch /run/left.pid && rm /run/left.pid
        runuser -u redis -- redis-cli ping
        readlink /proc/$(systemctl show redis -P MainPID)/exe /proc/1/root
        runuser -u redis -- sleep 1000 & sleep 1; pkill -x sleep -u redis
        ! touch /usr/x";
    std::fs::write(lab.path("/root/needs"), script).unwrap();
    let dropin = "[Service]\nExecStart=\nExecStopPost=\nExecStart=/bin/bash /root/needs\n";
    std::fs::create_dir_all(lab.path("/etc/systemd/system/cairn-backup.service.d")).unwrap();
    std::fs::write(lab.path("/etc/systemd/system/cairn-backup.service.d/test.conf"), dropin).unwrap();
    lab.ok(&["systemctl", "daemon-reload"]);
    let started = lab.run(&["systemctl", "start", "cairn-backup"]);
    assert!(started.status.success(), "{}", lab.ok(&["journalctl", "--no-pager", "-u", "cairn-backup"]));
    assert!(lab.is_active("redis"));
}

const SERVICES: &str = "eclecticiq-platform-backend-services";

/// A machine with a part of the platform, on which the packaged units back up its configuration.
struct Nightly(Lab);

impl Nightly {
    fn boot() -> Option<Self> {
        let lab = Lab::boot(&[SERVICES, "nginx", "redis"])?;
        install(&lab);
        let profile = "extends = \"eclecticiq-centos\"\nname = \"nightly\"\ncomponents = [\"config\"]\n\
            [systemd]\nsettle-seconds = 0\n[celery]\ncommand = []\n[metrics]\ntextfile = \"/var/lib/cairn/cairn.prom\"\n";
        std::fs::write(lab.path("/etc/cairn/profile.toml"), profile).unwrap();
        lab.ok(&["mkdir", "-p", "/srv/backup"]);
        let secret = "/etc/cairn/repository-password";
        lab.ok(&["cairn", "-r", "/srv/backup/cairn", "--password-file", secret, "init"]);
        let nightly = Nightly(lab);
        nightly.options("--allow queues");
        Some(nightly)
    }

    fn show(&self, property: &str) -> String {
        self.0.ok(&["systemctl", "show", "cairn-backup", "-P", property])
    }

    /// Starts a run that waits for a queue which nobody empties, its first services stopped.
    fn start_and_hang(&self) {
        self.0.ok(&["redis-cli", "rpush", "providers", "a task"]);
        self.0.ok(&["systemctl", "start", "--no-block", "cairn-backup"]);
        wait_until("the run waits", &self.0, || self.show("StatusText").contains("providers"));
        assert!(!self.0.is_active(SERVICES));
    }

    fn options(&self, options: &str) {
        let settings = format!(
            "CAIRN_REPO=/srv/backup/cairn\nCAIRN_PROFILE=/etc/cairn/profile.toml\nCAIRN_BACKUP_OPTIONS={options}\n"
        );
        std::fs::write(self.0.path("/etc/cairn/backup.env"), settings).unwrap();
    }

    /// The page that the unit calls the last report is about a run that made no set, and says these words.
    fn page_says(&self, words: &[&str]) {
        let page = std::fs::read_to_string(self.0.path("/var/lib/cairn/report.html")).unwrap();
        assert!(page.contains("<title>No backup set of ") && !page.contains("<title>Backup set"), "{page}");
        for word in words {
            assert!(page.contains(word), "{word}: {page}");
        }
    }

    fn fails_with_a_page(&self, words: &[&str]) {
        assert!(!self.0.run(&["systemctl", "start", "cairn-backup"]).status.success());
        self.page_says(words);
    }

    /// Everything is as before the run, and no journal says otherwise. Of a run that was killed this becomes so once
    /// the unit has ended.
    fn assert_up(&self) {
        wait_until("it is undone", &self.0, || !self.0.path("/var/lib/cairn/journal").exists());
        for unit in [SERVICES, "nginx", "redis", "eclecticiq-platform-backend-web"] {
            assert!(self.0.is_active(unit), "{unit}\n{}", self.0.ok(&["journalctl", "--no-pager", "-n", "60"]));
        }
        assert!(!self.0.path("/var/lib/cairn/journal").exists());
    }
}

#[test]
fn a_nightly_run_is_told_in_the_journal_in_metrics_and_in_a_report() {
    let Some(nightly) = Nightly::boot() else { return };
    let lab = &nightly.0;
    let started = lab.run(&["systemctl", "start", "cairn-backup"]);
    assert!(started.status.success(), "{}", lab.ok(&["journalctl", "--no-pager", "-u", "cairn-backup"]));
    nightly.assert_up();
    assert!(nightly.show("StatusText").contains(" of nightly: complete, "), "{}", nightly.show("StatusText"));
    let entry = lab.ok(&["journalctl", "-u", "cairn-backup", "-o", "json", "CAIRN_PROFILE=nightly"]);
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!((&entry["CAIRN_STATUS"], &entry["PRIORITY"]), (&"complete".into(), &"5".into()));
    let id = entry["CAIRN_SET"].as_str().unwrap();
    let page = std::fs::read_to_string(lab.path("/var/lib/cairn/report.html")).unwrap();
    assert!(page.contains(id), "{id} is not in the report");
    let all = lab.ok(&["journalctl", "-u", "cairn-backup", "-o", "cat"]);
    assert!(all.contains("COMPONENT") && all.contains(id), "the report is in the journal, too: {all}");
    let failures = lab.ok(&["journalctl", "-u", "cairn-backup", "-p", "err", "-o", "cat", "-q"]);
    assert_eq!(failures, "");
    let figures = std::fs::read_to_string(lab.path("/var/lib/cairn/cairn.prom")).unwrap();
    assert!(figures.contains("cairn_platform_last_run_exit_code{profile=\"nightly\"} 0"), "{figures}");
    assert!(figures.contains("cairn_platform_last_success_timestamp_seconds{"), "{figures}");

    // The other unit proves it.
    let drilled = lab.run(&["systemctl", "start", "cairn-drill"]);
    assert!(drilled.status.success(), "{}", lab.ok(&["journalctl", "--no-pager", "-u", "cairn-drill"]));
    let secret = ["-r", "/srv/backup/cairn", "--password-file", "/etc/cairn/repository-password"];
    let sets = lab.ok(&[&["cairn", "--json"], &secret[..], &["platform", "sets"]].concat());
    let sets: Value = serde_json::from_str(sets.lines().next().unwrap()).unwrap();
    assert!(sets["id"] == id && sets["proof"]["proven"].is_string(), "{sets:#}");
    assert_eq!(lab.ok(&["find", "/var/lib", "-maxdepth", "1", "-name", "cairn-drill-*"]), "");
    nightly.assert_up();

    // A night without a set leaves no page that says otherwise: one that is refused, and one that cannot begin.
    lab.ok(&["redis-cli", "rpush", "providers", "a task"]);
    nightly.options("");
    nightly.fails_with_a_page(&["the run could not begin", "providers: 1", "Exit status</dt>\n<dd>1<"]);
    nightly.options("--allow no-such-check");
    nightly.fails_with_a_page(&["the run could not begin", "no such check", "Exit status</dt>\n<dd>2<"]);
    nightly.options("--allow queues --drain-timeout 1");
    nightly.fails_with_a_page(&[
        "<h1>No backup set of nightly</h1>",
        "the run failed",
        "did not become empty (providers: 1",
        "undo: stop eclecticiq",
    ]);
    nightly.assert_up();
}

#[test]
fn whatever_ends_a_nightly_run_the_platform_is_up_again() {
    let Some(mut nightly) = Nightly::boot() else { return };
    nightly.start_and_hang();
    nightly.0.ok(&["systemctl", "stop", "cairn-backup"]);
    assert_eq!((nightly.show("ActiveState"), nightly.show("ExecMainStatus")), ("failed".to_owned(), "130".to_owned()));
    nightly.assert_up();
    nightly.page_says(&["interrupted", "was asked to stop", "Exit status</dt>\n<dd>130<"]);

    nightly.start_and_hang();
    nightly.0.ok(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "cairn-backup"]);
    wait_until("the killed run has ended", &nightly.0, || nightly.show("ActiveState") == "failed");
    assert_eq!(nightly.show("Result"), "signal");
    nightly.assert_up();
    nightly.page_says(&["was killed before it could tell its end", "cairn platform resume"]);

    nightly.start_and_hang();
    nightly.0.lose_power();
    assert!(!nightly.0.path("/").exists());
    nightly.0.boot_again();
    let resumed = nightly.0.ok(&["systemctl", "show", "cairn-resume", "-P", "Result", "-P", "ConditionResult"]);
    assert_eq!(resumed, "success\nyes");
    nightly.assert_up();
}

const SECRET: &str = "correct-horse-battery-staple";

/// The run, what is started when it was killed, and what is started after a boot: each reads the password of Redis from its
/// own credentials, and none tells it.
#[test]
fn a_password_that_is_a_credential_is_had_by_each_unit_and_told_by_none() {
    let Some(nightly) = Nightly::boot() else { return };
    let lab = &nightly.0;
    let write = |path: &str, text: &str| {
        std::fs::create_dir_all(lab.path(path).parent().unwrap()).unwrap();
        std::fs::write(lab.path(path), text).unwrap();
    };
    write("/etc/cairn/redis-password", &format!("{SECRET}\n"));
    lab.ok(&["chmod", "600", "/etc/cairn/redis-password"]);
    write(
        "/etc/cairn/profile.toml",
        "extends = \"eclecticiq-centos\"\nname = \"nightly\"\ncomponents = [\"config\", \"redis\"]\n\
         [celery]\ncommand = []\n[redis]\npassword-credential = \"redis\"\n[services]\nothers = [\"slow\"]\n",
    );
    // What takes its time to stop leaves time to kill a run.
    let slow = "ExecStart=/bin/sh -c \"trap '' TERM; while :; do sleep 0.1; done\"\nTimeoutStopSec=4\n";
    write("/etc/systemd/system/slow.service", &format!("[Service]\n{slow}"));
    nightly.options("--purge-queues --drain-timeout 0");
    lab.ok(&["redis-cli", "CONFIG", "SET", "requirepass", SECRET]);
    // They do not know it, so nobody empties a queue. Who is connected already may go on.
    lab.ok(&["systemctl", "restart", SERVICES]);
    let redis = |arguments: &[&str]| {
        let output = [&["redis-cli", "-a", SECRET, "--no-auth-warning"], arguments].concat();
        lab.ok(&output)
    };
    let drop_ins = |lines: &str| {
        for unit in ["cairn-backup", "cairn-resume"] {
            write(&format!("/etc/systemd/system/{unit}.service.d/redis.conf"), &format!("[Service]\n{lines}\n"));
        }
        lab.ok(&["systemctl", "daemon-reload"]);
    };

    // Without the credential it is named, and nothing is stopped.
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.ok(&["systemctl", "start", "slow"]);
    nightly.fails_with_a_page(&["the run could not begin", "/run/credentials/cairn-backup.service/redis"]);

    drop_ins("LoadCredential=redis:/etc/cairn/redis-password");
    let fill = || redis(&["RPUSH", "queue:ingestion:inbound", "one", "two"]);
    let queue = || redis(&["LRANGE", "queue:ingestion:inbound", "0", "-1"]);
    fill();
    let started = lab.run(&["systemctl", "start", "cairn-backup"]);
    assert!(started.status.success(), "{}", lab.ok(&["journalctl", "--no-pager", "-u", "cairn-backup"]));
    assert_eq!(queue(), "", "the set holds what was purged");

    let kill = || {
        fill();
        lab.ok(&["systemctl", "start", "--no-block", "cairn-backup"]);
        let journal = || std::fs::read_to_string(lab.path("/var/lib/cairn/journal")).unwrap_or_default();
        wait_until("the run stops what is slow", lab, || journal().contains("stop-others:slow"));
        lab.ok(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "cairn-backup"]);
        wait_until("the killed run has ended", lab, || nightly.show("ActiveState") == "failed");
        assert_eq!(nightly.show("Result"), "signal");
    };
    kill();
    wait_until("it is undone", lab, || !lab.path("/var/lib/cairn/journal").exists());
    let log = || lab.ok(&["journalctl", "--no-pager", "-u", "cairn-*", "-n", "60", "-o", "cat"]);
    assert_eq!(queue(), "one\ntwo", "ExecStopPost has put it back: {}", log());
    nightly.assert_up();

    redis(&["DEL", "queue:ingestion:inbound"]);
    write("/etc/systemd/system/cairn-backup.service.d/none.conf", "[Service]\nExecStopPost=\n");
    lab.ok(&["systemctl", "daemon-reload"]);
    kill();
    assert_eq!(queue(), "");
    lab.ok(&["systemctl", "start", "cairn-resume"]);
    assert_eq!(queue(), "one\ntwo", "cairn-resume.service has put it back");
    nightly.assert_up();

    let told = [
        lab.ok(&["journalctl", "--no-pager", "-o", "verbose", "--all"]),
        lab.ok(&["sh", "-c", "cat /var/lib/cairn/*"]),
        lab.ok(&[
            "sh",
            "-c",
            "cairn -r /srv/backup/cairn --password-file /etc/cairn/repository-password --json platform sets",
        ]),
    ];
    assert!(told.iter().all(|text| text.len() > 100));
    assert!(!told.iter().any(|text| text.contains(SECRET)), "the password is told");
}

#[test]
fn a_platform_that_was_stopped_on_purpose_stays_so_at_night() {
    let Some(nightly) = Nightly::boot() else { return };
    let lab = &nightly.0;
    let cairn = |verb: &str| lab.ok(&["cairn", "platform", verb, "--profile", "/etc/cairn/profile.toml"]);
    cairn("stop");
    assert!(!lab.is_active(SERVICES));
    assert!(!lab.run(&["systemctl", "start", "cairn-backup"]).status.success());
    lab.ok(&["systemctl", "start", "cairn-resume"]);
    assert!(!lab.is_active(SERVICES));
    let failures = lab.ok(&["journalctl", "-u", "cairn-backup", "-p", "err", "-o", "cat"]);
    assert!(failures.contains("cairn: error: ") && failures.contains("/var/lib/cairn/journal"), "{failures}");
    cairn("start");
    nightly.assert_up();
}

/// Set in the program that is this test's binary in a unit of its own.
const INSIDE: &str = "CAIRN_TEST_VIEW";

/// A program that shows a made-up run, is asked to stop, and takes longer to undo than the unit allows.
#[test]
fn the_run_that_systemd_starts() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let stop = Arc::new(StopFlag::default());
    signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.shared()).unwrap();
    let live = Live::new(Output { json: false, quiet: false }, stop.clone(), Notify::from_environment()).unwrap();
    let step = |step: &str, title: &str, state, detail: &str| live.step(&StepEvent { step, title, state, detail });
    step("stop-first:web", "Stop web", StepState::Running, "");
    step("stop-first:web", "Stop web", StepState::Done, "inactive");
    step("capture-neo4j", "Capture Neo4j", StepState::Running, "");
    step("capture-neo4j", "Capture Neo4j", StepState::Failed, "two\nlines");
    live.notice(Notice { subject: "/etc/x".to_owned(), message: "unread".to_owned() });
    step("capture-postgres", "Capture PostgreSQL", StepState::Running, "");
    live.within("capture-postgres", StepWork::Begin(Phase::Backup, Some(64 << 20)));
    live.within("capture-postgres", StepWork::Advance(16 << 20));
    while !stop.shared().load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    step("capture-postgres", "Capture PostgreSQL", StepState::Failed, "interrupted");
    step("stop-first:web", "undo: Stop web", StepState::Running, "");
    std::thread::sleep(Duration::from_secs(6));
    step("stop-first:web", "undo: Stop web", StepState::Undone, "active");
    live.finish("undone");
    std::process::exit(7);
}

#[test]
fn a_run_under_systemd_has_status_fields_priorities_and_the_time_to_undo() {
    let Some(lab) = Lab::boot(&[]) else { return };
    install(&lab);
    std::fs::copy(std::env::current_exe().unwrap(), lab.path("/root/view")).unwrap();
    // The packaged unit with another program, less time to stop, and no repository.
    let dropin = format!(
        "[Service]\nEnvironment={INSIDE}=1\nTimeoutStopSec=2s\nExecStart=\nExecStopPost=\n\
         ExecStart=/root/view --exact lab::units::the_run_that_systemd_starts --nocapture\n"
    );
    std::fs::create_dir_all(lab.path("/etc/systemd/system/cairn-backup.service.d")).unwrap();
    std::fs::write(lab.path("/etc/systemd/system/cairn-backup.service.d/test.conf"), dropin).unwrap();
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.ok(&["systemctl", "start", "--no-block", "cairn-backup"]);
    let status = || lab.ok(&["systemctl", "show", "cairn-backup", "-P", "StatusText"]);
    let working = "Capture PostgreSQL: backing up 16.00 MiB of 64.00 MiB";
    wait_until(working, &lab, || status().contains(working));
    assert_eq!(lab.ok(&["systemctl", "show", "cairn-backup", "-P", "ActiveState"]), "activating");
    lab.ok(&["systemctl", "stop", "cairn-backup"]);
    // It was not killed after two seconds: it asked for the time that it took.
    let ended = lab.ok(&["systemctl", "show", "cairn-backup", "-P", "Result", "-P", "ExecMainStatus"]);
    assert_eq!(ended, "exit-code\n7", "{}", lab.ok(&["journalctl", "--no-pager", "-u", "cairn-backup"]));

    let entries = lab.ok(&["journalctl", "-u", "cairn-backup", "-o", "json", "--no-pager"]);
    let entries: Vec<Value> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |step: &str, state: &str| {
        let found = entries.iter().find(|entry| entry["CAIRN_STEP"] == step && entry["CAIRN_STATE"] == state);
        found.unwrap_or_else(|| panic!("{step} {state} is not in {entries:?}"))
    };
    let failed = of("capture-neo4j", "failed");
    assert_eq!((&failed["PRIORITY"], &failed["CAIRN_DETAIL"]), (&"3".into(), &"two\nlines".into()));
    assert_eq!(
        (&failed["SYSLOG_IDENTIFIER"], &failed["_SYSTEMD_UNIT"]),
        (&"cairn".into(), &"cairn-backup.service".into())
    );
    assert!(failed["MESSAGE"].as_str().unwrap().starts_with("failed  capture-neo4j  Capture Neo4j (0.0 s): two lines"));
    assert_eq!(of("stop-first:web", "done")["PRIORITY"], "6");
    assert_eq!(of("stop-first:web", "undone")["PRIORITY"], "5");
    let notice = entries.iter().find(|entry| entry["CAIRN_SUBJECT"] == "/etc/x").unwrap();
    assert_eq!((&notice["PRIORITY"], &notice["MESSAGE"]), (&"4".into(), &"cairn: /etc/x: unread".into()));
    assert_eq!(
        lab.ok(&["journalctl", "-u", "cairn-backup", "-p", "err", "-o", "cat", "CAIRN_STEP=capture-postgres"])
            .lines()
            .count(),
        1
    );
}
