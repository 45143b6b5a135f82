//! Queues that are in the way of a stop, and elements that come back from a set.

use std::time::Instant;

use super::light::{Light, shown};
use super::{record, summary};
use crate::servers::PATIENCE;

#[test]
fn a_stop_that_fails_is_undone() {
    let Some(light) = Light::boot() else { return };
    let before = light.active();
    for (queue, options) in
        [("providers", ["--drain-timeout", "1"]), ("queue:graph:inbound", ["--drain-timeout", "3000"])]
    {
        light.fill(queue, &["one"]);
        let begun = Instant::now();
        let output = light.platform("stop", &options);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(&format!("{queue}: 1")), "{told}");
        let told = summary(&output);
        assert_eq!(told["exit"], 1);
        assert!(told["steps"].to_string().contains("\"undone\""), "{told:#}");
        assert_eq!((light.active(), light.queue(queue)), (before.clone(), vec!["one".to_owned()]));
        // Nothing says that the platform is at rest, and nothing is left to resume.
        light.is_clean();
        assert_eq!(light.ends("resume", &[], 0)["undone"], 0);
        light.fill(queue, &[]);
    }
    light.ends("stop", &[], 0);
    light.ends("start", &[], 0);
    assert_eq!(light.active(), before);
}

#[test]
fn what_was_purged_comes_back_by_requeue_in_its_order_before_what_came_since() {
    let Some(light) = Light::boot() else { return };
    light.fill("providers", &["third", "second", "first"]);
    light.fill("queue:ingestion:inbound", &["first", "second", "third"]);
    let output = light.platform("requeue", &["latest"]);
    assert_eq!(output.status.code(), Some(2), "there is no set yet: {}", shown(&output));
    let purging = light.platform("backup", &["--purge-queues", "--drain-timeout", "0"]);
    record(&purging);
    let id = summary(&purging)["set"].as_str().unwrap().to_owned();
    assert!(light.queue("providers").is_empty() && light.queue("queue:ingestion:inbound").is_empty());

    // Celery's queues are consumed from the right, those of data from the left.
    light.fill("providers", &["late"]);
    light.fill("queue:ingestion:inbound", &["late"]);
    let told = light.ends("requeue", &[&id[..8]], 0);
    assert_eq!(told["elements"], 6, "{told:#}");
    assert_eq!(told["queues"]["providers"], 3, "{told:#}");
    assert_eq!(light.queue("providers"), ["late", "third", "second", "first"]);
    assert_eq!(light.queue("queue:ingestion:inbound"), ["first", "second", "third", "late"]);
    light.is_clean();

    // A set that took nothing out of them has nothing to give back but what it saw.
    light.fill("queue:ingestion:inbound", &[]);
    light.fill("providers", &[]);
    record(&light.platform("backup", &[]));
    let output = light.platform("requeue", &["latest"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no part `purged`"), "{}", shown(&output));
    assert_eq!(light.ends("requeue", &["latest", "--all-queues"], 0)["elements"], 0);
    assert!(light.queue("providers").is_empty());
}

/// As with Ctrl-Z and `fg`. A read with a time limit ended with an error then.
#[test]
fn a_run_that_was_stopped_and_went_on_took_redis_for_a_server_that_failed() {
    let Some(light) = Light::boot() else { return };
    light.fill("providers", &["one"]);
    let mut run = light.start("backup", &["--drain-timeout", "600"]);
    assert!(run.begins("drain-queues"));
    // The next question stays without an answer until Redis goes on.
    let redis = |signal| light.lab.ok(&["systemctl", "kill", "--signal", signal, "redis"]);
    redis("SIGSTOP");
    assert!(run.waits_until(has_a_question));
    run.frozen(|_| {});
    redis("SIGCONT");
    light.fill("providers", &[]);
    record(&run.ended());
}

/// Whether something was sent to Redis that it has not read yet.
fn has_a_question(light: &Light) -> bool {
    let files = ["tcp", "tcp6"].map(|file| format!("/proc/{}/net/{file}", light.lab.leader()));
    let connections = files.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    connections.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let waiting = fields.get(4).and_then(|queues| queues.split_once(':'));
        fields.get(1).is_some_and(|local| local.ends_with(":18EB"))
            && fields[3] == "01"
            && waiting.is_some_and(|(_, unread)| unread.bytes().any(|digit| digit != b'0'))
    })
}
