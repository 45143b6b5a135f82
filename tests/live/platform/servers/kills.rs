//! Runs that end in the middle of a capture, by a signal or with the machine's power.

use rustix::process::Signal;

use super::cuts::resume_twice;
use super::{BARE, Ended};
use crate::platform::Platform;

fn resume(platform: &Platform, profile: &str) -> Ended {
    platform.begin("resume", profile, &[]).ended().must(0)
}

pub fn a_run_killed_while_it_captures_is_undone(platform: &Platform) {
    let [dump, files, base] = ["dump", "files", "base"].map(|method| {
        platform.profile(&format!("dying-{method}"), &format!("{BARE}[postgres]\nmethod = \"{method}\"\n"))
    });
    let before = platform.active();
    let steps = [
        (&dump, "elasticsearch", "register-elasticsearch"),
        (&dump, "elasticsearch", "snapshot-elasticsearch"),
        (&dump, "elasticsearch", "prune-elasticsearch"),
        (&dump, "elasticsearch", "seal-elasticsearch"),
        (&dump, "elasticsearch", "capture-elasticsearch"),
        (&dump, "postgres", "capture-postgres"),
        (&base, "postgres", "capture-postgres"),
        (&files, "postgres", "stop-postgres"),
        (&files, "postgres", "capture-postgres"),
        (&dump, "neo4j", "count-neo4j"),
        (&dump, "neo4j", "stop-neo4j"),
        (&dump, "neo4j", "capture-neo4j"),
    ];
    for (profile, component, step) in steps {
        let mut run = platform.begin("backup", profile, &["--only", component]);
        run.begins(step);
        run.signal(Signal::KILL);
        assert_eq!(run.ended().code, None, "it was killed");
        let due = resume_twice(platform, profile);
        assert_eq!(platform.active(), before, "{profile} {step}: {due}");
        platform.is_clean();
    }
    let ended = platform.backup(&base, &["--only", "elasticsearch,postgres,config"]).must(0);
    ended.complete(&["elasticsearch", "postgres"]);
}

/// Elasticsearch is sealed and a queue set aside when the power fails; after the boot, neither Elasticsearch
/// nor Redis answers for a while.
pub fn power_is_lost_and_resume_waits_for_the_servers(platform: &mut Platform) {
    let profile = platform.profile("powerless", BARE);
    let (unit, queue) = ("eclecticiq-platform-backend-ingestion", "queue:ingestion:inbound");
    let before = platform.active();
    platform.lab.ok(&["systemctl", "stop", unit]);
    platform.redis(&["RPUSH", queue, "first", "second"]);
    // When it starts again it takes its time over each key, and says so whenever it has read a little, until Elasticsearch,
    // which is undone first, is up.
    let slow = "key-load-delay 3000000\nloading-process-events-interval-bytes 1024\nrdbcompression no\n";
    platform.write("/etc/eclecticiq-redis/local.conf", slow);
    for number in 0..5 {
        platform.redis(&["SET", &format!("filler {number}"), &"x".repeat(3000)]);
    }
    platform.redis(&["CONFIG", "SET", "rdbcompression", "no"]);
    let mut run = platform.begin("backup", &profile, &["--purge-queues", "--drain-timeout", "0"]);
    run.begins("capture-redis");
    platform.redis(&["SAVE"]);
    run.begins("seal-elasticsearch");
    let mut cut = run.child;
    platform.lab.lose_power();
    cut.wait().unwrap();
    platform.lab.begin_again();
    let ended = resume(platform, &profile);
    for seen in ["2 elements are back in 1 queues", "make the snapshot repository read-only"] {
        assert!(ended.text.contains(seen), "{seen}: {}", ended.text);
    }
    platform.lab.await_units();
    platform.redis(&["DEL", "filler 0", "filler 1", "filler 2", "filler 3", "filler 4"]);
    // A task that a worker had in its hands when the power failed is nobody's for an hour, Celery's own limit, and what was
    // given back waits for its consumer: neither is to be met by the scenarios that follow.
    platform.redis(&["DEL", "unacked", "unacked_index"]);
    platform.await_empty(queue);
    platform.is_clean();
    assert_eq!(platform.active(), before);
}
