//! What a set claims is proved, or not claimed: that nobody was at work while it was captured, and that all is up again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::light::{CONTENT, JOURNAL, Light, PROFILE, Running, shown};
use super::{record, summary};
use crate::servers::PATIENCE;

const WEB: &str = "eclecticiq-platform-backend-web.service";

/// A directory of the profile.
const FILES: &str = "/opt/eclecticiq-rsyslog-forwarder";

/// Runs a backup in which something is done while it still captures files, and asks no server: again where it was faster
/// than whoever does it.
fn meanwhile(light: &Light, options: &[&str], act: impl Fn(&Light)) -> Value {
    light.lab.ok(&["install", "-d", FILES]);
    let captured = r#"{"entry":"done","step":"capture-redis""#;
    loop {
        // New each time: what is known is not read again.
        light.lab.ok(&["dd", "if=/dev/urandom", &format!("of={FILES}/new"), "bs=1M", "count=30", "status=none"]);
        let mut run = light.start("backup", options);
        let journal = |light: &Light| std::fs::read_to_string(light.lab.path(JOURNAL)).unwrap_or_default();
        assert!(run.waits_until(|light| journal(light).contains(captured)));
        let mut in_time = false;
        run.frozen(|light| {
            in_time = !journal(light).contains("still-at-rest");
            if in_time {
                act(light);
            }
        });
        let set = record(&run.ended());
        if in_time {
            return set;
        }
    }
}

/// A set that is no point in time, and says who was at work.
fn online_because_of(set: &Value, who: &[&str]) {
    assert_eq!((&set["status"], &set["consistency"]), (&"complete".into(), &"online".into()), "{set:#}");
    let warnings = set["warnings"].as_array().unwrap();
    let not_one = |text: &&Value| text.as_str().unwrap().starts_with("not one point in time: somebody was at work");
    let warning = warnings.iter().find(not_one).unwrap_or_else(|| panic!("{set:#}"));
    for part in who {
        assert!(warning.as_str().unwrap().contains(part), "{part}: {warning}");
    }
}

#[test]
fn a_set_is_no_point_in_time_if_somebody_works_meanwhile() {
    let Some(light) = Light::boot() else { return };
    let before = light.active();
    let set = meanwhile(&light, &[], |_| {});
    assert_eq!((&set["consistency"], &set["warnings"]), (&"one-point-in-time".into(), &Value::Array(Vec::new())));

    let set = meanwhile(&light, &[], |light| drop(light.lab.ok(&["systemctl", "start", WEB])));
    online_because_of(&set, &[&format!("{WEB}: active (running)")]);
    assert_eq!(light.active(), before);

    // Whoever has come and gone has worked, too; by whatever it was started.
    let come_and_gone = |light: &Light, unit: &str| {
        light.lab.ok(&["systemctl", "start", unit]);
        light.lab.ok(&["systemctl", "stop", unit]);
    };
    let set = meanwhile(&light, &[], |light| come_and_gone(light, WEB));
    online_because_of(&set, &[&format!("{WEB}: it was started meanwhile, and has ended again")]);
    let worker = "eclecticiq-platform-backend-worker@common.service";
    let set = meanwhile(&light, &[], |light| come_and_gone(light, worker));
    online_because_of(&set, &[&format!("{worker}: it was started meanwhile")]);
    assert_eq!(light.active(), before);

    // Somebody who talks to Redis while the preflight looks, and is not stopped.
    let mut blocked = light.lab.command(&["redis-cli", "BLPOP", "nothing", "0"]).spawn().unwrap();
    let started = Instant::now();
    while !light.redis(&["CLIENT", "LIST"]).iter().any(|client| client.contains("cmd=blpop")) {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    light.lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-services", "eclecticiq-platform-backend-workers"]);
    light.settle();
    let output = light.platform("backup", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("redis-clients"), "{}", shown(&output));
    let set = record(&light.platform("backup", &["--allow", "redis-clients", "--allow", "services"]));
    online_because_of(&set, &["blpop"]);
    blocked.kill().unwrap();
    blocked.wait().unwrap();
    light.is_clean();
}

/// Makes a unit of the platform that runs this once it is started for the second time.
fn second_time(light: &Light, unit: &str, first: &str, second: &str) {
    let program = format!("/opt/lab/{unit}");
    let text = format!("#!/bin/sh\nif mkdir /run/{unit}.started 2>/dev/null; then {first}; else {second}; fi\n");
    light.add_program(&program, &text);
    light.add_unit(&format!("{unit}.service"), &format!("[Service]\nExecStart={program}\n"));
    light.lab.ok(&["systemctl", "start", unit]);
}

fn await_port(light: &Light, port: &str) {
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}))");
    let started = Instant::now();
    while !light.lab.run(&["python3", "-c", &connect]).status.success() {
        assert!(started.elapsed() < PATIENCE, "nothing listens on {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_not_up_again_is_told_and_the_set_is_published() {
    let Some(light) = Light::boot() else { return };
    second_time(&light, "moving", "exec /opt/lab/listen 7001", "exec /opt/lab/listen 7002");
    second_time(
        &light,
        "dying",
        "exec sleep infinity",
        "while ! test -e /run/die; do sleep 0.05; done; echo this is the end >&2; exit 3",
    );
    await_port(&light, "7001");
    let content = CONTENT
        .replace("others = [", "others = [\"moving\", \"dying\", ")
        .replace("\"localhost:6379\"]", "\"localhost:6379\", \"localhost:7001\"]")
        .replace("timeout-seconds = 30", "timeout-seconds = 3");
    light.write(PROFILE, &content);
    let before = light.active();

    let mut run: Running<'_> = light.start("backup", &[]);
    assert!(run.begins("prove-up"));
    run.frozen(|light| {
        light.write("/run/die", "");
        let started = Instant::now();
        while light.lab.is_active("dying") {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let output = run.ended();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    for part in ["localhost:7001 accepts no connection", "dying.service: failed", "exit status 3"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("6379 accepts"), "{told}");
    // What was captured is worth having, and the set says how the run ended.
    let set = summary(&output)["record"].clone();
    assert_eq!((light.sets(), &set["status"]), (1, &"complete".into()));
    let steps = set["steps"].as_array().unwrap();
    let proof = steps.iter().find(|step| step["detail"].as_str().unwrap().contains("7001")).unwrap();
    assert_eq!(proof["state"], "failed");
    // It was started, so nothing is left to be started.
    light.is_clean();
    let mut without = before;
    without.remove("dying.service");
    assert_eq!(light.active(), without);

    // With the port back where it was, and time enough, the next run is well.
    light.write(PROFILE, &content.replace("timeout-seconds = 3\n", "timeout-seconds = 300\n"));
    light.lab.ok(&["systemctl", "reset-failed", "dying"]);
    light.lab.ok(&["systemctl", "stop", "moving"]);
    light.write("/opt/lab/moving", "#!/bin/sh\nexec /opt/lab/listen 7001\n");
    light.lab.ok(&["systemctl", "start", "moving"]);
    await_port(&light, "7001");
    let set = record(&light.platform("backup", &[]));
    assert_eq!(set["status"], "complete");
}

#[test]
fn a_unit_that_dies_right_after_its_start_is_not_up_again() {
    let Some(light) = Light::boot() else { return };
    second_time(&light, "dying", "exec sleep infinity", "sleep 0.2; echo this is the end >&2; exit 3");
    let content =
        CONTENT.replace("others = [", "others = [\"dying\", ").replace("settle-seconds = 0", "settle-seconds = 5");
    light.write(PROFILE, &content);
    let before = light.active();
    let output = light.platform("backup", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    for part in ["undo: stop dying failed", "exit status 3", "this is the end"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(summary(&output)["record"]["warnings"].to_string().contains("not undone: stop dying"));
    // The others were started with it, and are proved to be up; this one stays in the journal until it is, too.
    let mut without = before.clone();
    without.remove("dying.service");
    assert_eq!((light.active(), light.sets(), light.has_journal()), (without, 1, true));
    light.write("/opt/lab/dying", "#!/bin/sh\nexec sleep infinity\n");
    light.ends("resume", &[], 0);
    assert_eq!(light.active(), before);
    light.is_clean();
}

#[test]
fn undoing_twice_changes_nothing_the_second_time() {
    let Some(light) = Light::boot() else { return };
    let before = light.active();
    let files = |light: &Light| {
        let places = ["/etc", "/opt", "/media/redis", "/srv/backup", "/run/systemd/units"];
        let found = light.lab.run(&[&["find"], places.as_slice(), &["-type", "f", "-printf", "%p %s %T@\\n"]].concat());
        let mut lines: Vec<String> = String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for step in ["stop-workers:eclecticiq-platform-backend-worker*.service", "capture-redis"] {
        light.fill("providers", &["third", "second", "first"]);
        light.fill("queue:ingestion:inbound", &["first", "second"]);
        let mut run = light.start("backup", &["--purge-queues", "--drain-timeout", "0"]);
        assert!(run.begins(step));
        run.signal(Signal::KILL);
        run.ended();
        let journal = std::fs::read(light.lab.path(JOURNAL)).unwrap();
        light.ends("resume", &[], 0);
        let queues = |light: &Light| (light.queue("providers"), light.queue("queue:ingestion:inbound"));
        let after = (light.active(), light.processes(), queues(&light), files(&light));
        assert_eq!(after.0, before, "{step}");
        assert_eq!(after.2.0, ["third", "second", "first"], "{step}");
        light.is_clean();

        // As if the machine had lost its power before the journal knew of the undoing.
        std::fs::write(light.lab.path(JOURNAL), journal).unwrap();
        let steps = light.ends("resume", &[], 0)["steps"].as_array().unwrap().len();
        assert!(steps > 1, "only {steps} steps were undone again");
        assert_eq!((light.active(), light.processes(), queues(&light), files(&light)), after, "{step}");
        light.is_clean();
    }
}
