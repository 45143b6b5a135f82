//! A repository without room.

use super::{BARE, Ended};
use crate::platform::Platform;

const REPOSITORY: &str = "/srv/small/repository";

const ALLOW: [&str; 2] = ["--allow", "celery"];

fn argv<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let program = ["cairn", "--json", "--repo", REPOSITORY, "--password-file", "/root/password"];
    [&program, arguments].concat()
}

fn cairn(platform: &Platform, arguments: &[&str]) -> Ended {
    Ended::new(&platform.lab.run(&argv(arguments)))
}

pub fn a_full_repository_leaves_the_platform_up(platform: &Platform) {
    platform.lab.ok(&["sh", "-ec", "mkdir -p /srv/small && mount -t tmpfs -o size=2m tmpfs /srv/small"]);
    cairn(platform, &["init"]).must(0);
    let profile = platform.profile("small", "[systemd]\nsettle-seconds = 0\n");
    let before = platform.active();
    let mut run = platform.run(&argv(&["platform", "backup", "--profile", &profile, ALLOW[0], ALLOW[1]]));
    run.begins("stop-first:eclecticiq-platform-backend-services");
    // It was there when the run began.
    platform.lab.run(&["dd", "if=/dev/zero", "of=/srv/small/other", "bs=4k"]);
    let ended = run.ended().must(1);
    assert_eq!(platform.active(), before);
    assert!(ended.text.contains("No space left on device"), "{}", ended.text);
    assert!(ended.summary["set"].is_null(), "{}", ended.text);
    platform.is_clean();
    std::fs::remove_file(platform.lab.path("/srv/small/other")).unwrap();
    assert_eq!(cairn(platform, &["platform", "sets"]).must(0).summary["sets"], 0);

    // Room for the smallest only.
    let profile = platform.profile("small", BARE);
    let only = ["--only", "config,postgres,redis"];
    let backup = [["platform", "backup", "--profile", &profile].as_slice(), &only, &ALLOW].concat();
    let ended = cairn(platform, &backup).must(3);
    ended.complete(&["config", "redis"]);
    ended.failed("postgres", &["No space left on device"]);
    platform.is_clean();

    platform.lab.ok(&["mount", "-o", "remount,size=500m", "/srv/small"]);
    let ended = cairn(platform, &backup).must(0);
    ended.complete(&["config", "postgres", "redis"]);
    cairn(platform, &["check", "--read-data"]).must(0);
    platform.lab.ok(&["umount", "/srv/small"]);
}
