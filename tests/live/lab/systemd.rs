//! Units of a real systemd, in a lab of their own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::systemd::change::Change;
use cairn::source::systemd::{Activity, Load, Systemd, SystemdSettings};

use super::Lab;
use crate::servers::PATIENCE;

const UNITS: [(&str, &str); 8] = [
    ("good.service", "ExecStart=/bin/sleep infinity"),
    ("bad.service", "ExecStart=/bin/sh -c 'echo no luck today >&2; exit 7'"),
    ("slow.service", "ExecStartPre=/bin/sleep infinity\nExecStart=/bin/true\nTimeoutStartSec=infinity"),
    ("loop.service", "ExecStart=/bin/false\nRestart=always\nRestartSec=100ms\n[Unit]\nStartLimitIntervalSec=0"),
    ("stubborn.service", "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nTimeoutStopSec=1"),
    ("once.service", "Type=oneshot\nExecStart=/bin/true"),
    ("worker@.service", "ExecStart=/bin/sleep infinity"),
    ("broken.service", "Type=nonsense"),
];

fn never() -> bool {
    false
}

/// A lab with the units above, and the driver for it.
fn boot() -> Option<(Lab, Systemd)> {
    let lab = Lab::boot(&[])?;
    for (name, service) in UNITS {
        std::fs::write(lab.path("/etc/systemd/system").join(name), format!("[Service]\n{service}\n")).unwrap();
    }
    lab.ok(&["systemctl", "mask", "locked.service"]);
    lab.ok(&["systemctl", "daemon-reload"]);
    let program = |name: &str| lab.wrapper(name).to_str().unwrap().to_owned();
    let settings =
        SystemdSettings { systemctl: program("systemctl"), journalctl: program("journalctl"), ..Default::default() };
    let systemd = Systemd::new(&settings);
    Some((lab, systemd))
}

#[test]
fn units_start_and_stop_and_say_what_they_are() {
    let Some((_lab, systemd)) = boot() else { return };
    let state = |unit: &str| systemd.state(unit, &never).unwrap();
    assert_eq!(state("good").activity, Activity::Inactive);
    let started = systemd.start("good", PATIENCE, &never).unwrap();
    assert!(matches!(&started, Change::Done(state) if state.main_pid.is_some()), "{started:?}");
    assert!(matches!(systemd.start("good.service", PATIENCE, &never).unwrap(), Change::Already(_)));
    assert!(matches!(systemd.stop("good", PATIENCE, &never).unwrap(), Change::Done(_)));
    assert!(matches!(systemd.stop("good", PATIENCE, &never).unwrap(), Change::Already(_)));
    assert!(state("good").is_stopped());
    assert!(matches!(systemd.start("once", PATIENCE, &never).unwrap(), Change::Done(_)), "its work is done");

    assert_eq!(state("no-such-unit").load, Load::Missing);
    assert_eq!(state("locked").load, Load::Masked);
    for (unit, why) in [("no-such-unit", "no such unit"), ("locked", "masked"), ("broken", "cannot use its file")] {
        let error = systemd.start(unit, PATIENCE, &never).unwrap_err().to_string();
        assert!(error.contains(why), "{unit}: {error}");
    }
    let error = systemd.stop("no-such-unit", PATIENCE, &never).unwrap_err().to_string();
    assert!(error.contains("no such unit"), "{error}");
    systemd.state("--version", &never).unwrap_err();
}

#[test]
fn a_unit_that_was_started_often_is_started_again() {
    let Some((_lab, systemd)) = boot() else { return };
    for turn in 0..12 {
        for unit in ["good", "once"] {
            systemd.start(unit, PATIENCE, &never).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
            systemd.stop(unit, PATIENCE, &never).unwrap();
        }
    }
}

#[test]
fn a_unit_that_does_not_come_up_says_why() {
    let Some((_lab, systemd)) = boot() else { return };
    // Its process exists for a moment, which makes it active.
    let error = systemd.start("bad", PATIENCE, &never).unwrap_err().to_string();
    assert!(error.contains("exit status 7") && error.contains("no luck today"), "{error}");
    // The second time it is in the state "failed" to begin with.
    systemd.start("bad", PATIENCE, &never).unwrap_err();

    let limit = Duration::from_secs(2);
    for (unit, why) in [("slow", "activating"), ("loop", "did not stay up")] {
        let error = systemd.start(unit, limit, &never).unwrap_err();
        assert!(matches!(error, SourceError::Timeout { .. }), "{unit}: {error}");
        assert!(error.to_string().contains(why), "{unit}: {error}");
        let stopped = systemd.stop(unit, PATIENCE, &never).unwrap();
        assert!(stopped.state().is_stopped(), "{unit}: {stopped:?}");
    }
    let begun = Instant::now();
    let stopped = systemd.start("slow", PATIENCE, &|| begun.elapsed() > limit);
    assert!(matches!(stopped, Err(SourceError::Interrupted)), "{stopped:?}");
}

#[test]
fn a_unit_that_ignores_its_end_is_waited_for() {
    let Some((_lab, systemd)) = boot() else { return };
    systemd.start("stubborn", PATIENCE, &never).unwrap();
    let error = systemd.stop("stubborn", Duration::from_millis(200), &never).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }), "{error}");
    let stopped = systemd.stop("stubborn", PATIENCE, &never).unwrap();
    assert_eq!((stopped.state().activity, stopped.state().result.as_str()), (Activity::Failed, "timeout"));
}

#[test]
fn patterns_stand_for_instances() {
    let Some((lab, systemd)) = boot() else { return };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let expand = |pattern: &str| systemd.expand(pattern, &never).unwrap();
    assert_eq!(expand("worker@.service"), names(&[]));
    lab.ok(&["systemctl", "start", "worker@a", "worker@b.service"]);
    assert_eq!(expand("worker@.service"), names(&["worker@a.service", "worker@b.service"]));
    assert_eq!(expand("worker*.service"), names(&["worker@a.service", "worker@b.service"]));
    assert_eq!(expand("worker@a"), names(&["worker@a.service"]));
    assert_eq!(expand("no-such-*"), names(&[]));
    assert_eq!(expand("no-such-unit"), names(&[]));
    let platform = expand("eclecticiq-platform-backend-*.service");
    assert!(platform.contains("eclecticiq-platform-backend-web.service"), "installed, not loaded: {platform:?}");
    systemd.expand("a b", &never).unwrap_err();
}
