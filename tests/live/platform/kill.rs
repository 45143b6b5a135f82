//! Runs that are killed, asked to stop, or lose the machine's power, at every entry of the journal.

use rustix::process::Signal;

use super::light::{Light, shown};

/// What is in two queues before each run, the consumed end last and first.
const QUEUES: [(&str, [&str; 3]); 2] =
    [("providers", ["third", "second", "first"]), ("queue:ingestion:inbound", ["first", "second", "third"])];
const PURGING: [&str; 3] = ["--purge-queues", "--drain-timeout", "0"];

fn fill(light: &Light) {
    for (queue, elements) in QUEUES {
        light.fill(queue, &elements);
    }
}

/// The queues are as they were; or empty, if that is what a run was allowed to leave.
fn queues_are_as_before(light: &Light, or_purged: bool, when: &str) {
    for (queue, elements) in QUEUES {
        let found = light.queue(queue);
        assert!(found == elements || or_purged && found.is_empty(), "{when}: {queue}: {found:?}");
    }
}

#[test]
fn a_run_killed_at_any_entry_of_its_journal_is_undone_by_resume() {
    let Some(light) = Light::boot() else { return };
    let (before, mut entries, mut sets) = (light.active(), 1, 0);
    loop {
        fill(&light);
        let mut run = light.start("backup", &PURGING);
        if !run.reaches(entries) {
            let output = run.ended();
            assert!(output.status.success(), "{}", shown(&output));
            break;
        }
        run.killed();
        let cut_at = light.entries();
        let when = format!("killed at entry {cut_at}");
        light.ends("resume", &[], 0);
        assert_eq!(light.active(), before, "{when}");
        light.is_clean();
        let now = light.sets();
        queues_are_as_before(&light, now > sets, &when);
        sets = now;
        let processes = light.processes();
        assert_eq!(light.ends("resume", &[], 0)["undone"], 0, "{when}");
        assert_eq!(light.processes(), processes, "{when}");
        entries = cut_at.max(entries) + 1;
    }
    assert!(entries > 25, "only {entries} entries were seen");
    assert_eq!(light.active(), before);
    light.is_clean();
    queues_are_as_before(&light, true, "not killed");
}

#[test]
fn a_run_that_is_asked_to_stop_at_any_entry_undoes_everything() {
    let Some(light) = Light::boot() else { return };
    let (before, mut entries, mut signals) = (light.active(), 1, [Signal::INT, Signal::TERM].into_iter().cycle());
    loop {
        fill(&light);
        let mut run = light.start("backup", &PURGING);
        if !run.reaches(entries) {
            break;
        }
        let (cut_at, signal) = (light.entries(), signals.next().unwrap());
        run.signal(signal);
        run.signal(signal);
        let output = run.ended();
        let when = format!("{signal:?} at entry {cut_at}: {}", shown(&output));
        let published = light.sets();
        assert_eq!(output.status.code(), Some(if published > 0 { 0 } else { 130 }), "{when}");
        assert_eq!(light.active(), before, "{when}");
        light.is_clean();
        queues_are_as_before(&light, published > 0, &when);
        // Not each: what is killed at each is undone in the same way.
        entries = cut_at.max(entries) + 3;
        if published > 0 {
            break;
        }
    }
    assert!(entries > 25, "only {entries} entries were seen");
}

#[test]
fn an_undoing_that_is_killed_and_a_machine_that_loses_its_power() {
    let Some(mut light) = Light::boot() else { return };
    light.add_unit(
        "helper.service",
        "[Unit]\nPartOf=eclecticiq-platform-backend-services.service\n[Service]\nExecStart=/bin/sleep infinity\n",
    );
    // Nothing but the journal knows of these two when the machine has booted again.
    let by_hand = ["helper", "eclecticiq-platform-backend-worker@discovery"];
    light.lab.ok(&[&["systemctl", "start"], by_hand.as_slice()].concat());
    let before = light.active();

    fill(&light);
    let mut run = light.start("backup", &PURGING);
    assert!(run.begins("capture-redis"));
    run.killed();
    let (mut entries, mut kills) = (light.entries() + 1, 0);
    loop {
        let mut resume = light.start("resume", &[]);
        if !resume.reaches(entries) {
            let output = resume.ended();
            assert!(output.status.success(), "{}", shown(&output));
            break;
        }
        resume.killed();
        (entries, kills) = (light.entries().max(entries) + 1, kills + 1);
    }
    assert!(kills > 2, "the undoing was killed {kills} times");
    assert_eq!(light.active(), before);
    light.is_clean();
    queues_are_as_before(&light, false, "resume was killed");

    // What Redis has on its disk is once of the time before the queues were set aside, and once of the time after.
    for (step, set_aside) in [("stop-others:eclecticiq-platform-backend-web", false), ("last-look", true)] {
        fill(&light);
        light.redis(&["SAVE"]);
        let mut run = light.start("backup", &PURGING);
        assert!(run.begins(step));
        // At once with the power's loss, but for what Redis has to have on its disk.
        run.killed();
        if set_aside {
            light.redis(&["SAVE"]);
        }
        light.0.lab.lose_power();
        light.0.lab.boot_again();
        assert!(by_hand.iter().all(|unit| !light.lab.is_active(unit)), "{step}");
        light.ends("resume", &[], 0);
        assert_eq!(light.active(), before, "{step}");
        light.is_clean();
        queues_are_as_before(&light, false, step);
    }
    assert_eq!(light.sets(), 0);
}
