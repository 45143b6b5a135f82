//! A run's journal: cut off anywhere, everything that was stopped is started again, once.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::journal::{Due, Found, Header, Undo};
use cairn::orchestrate::platform::profile::Profile;
use cairn::orchestrate::platform::profile::built_in;
use cairn::orchestrate::platform::resume::{Resumed, Wanted, resume};
use cairn::orchestrate::platform::run::{Run, Step};
use cairn::orchestrate::platform::state::StateDir;
use cairn::progress::{Monitor, Silent};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use crate::support::machine::Tmpfs;

/// Units that run.
struct Units(BTreeSet<String>);

impl Units {
    fn all() -> Self {
        Units((0..5).map(unit).collect())
    }

    fn stop(&mut self, name: &str) -> Result<String, OrchestrateError> {
        assert!(self.0.remove(name), "{name} was stopped twice");
        Ok("stopped".to_owned())
    }

    fn undo(&mut self, all: &[Undo]) -> Vec<Result<String, OrchestrateError>> {
        all.iter().map(|undo| self.undo_one(undo)).collect()
    }

    fn undo_one(&mut self, undo: &Undo) -> Result<String, OrchestrateError> {
        match undo {
            Undo::StartUnits { units, .. } => self.0.extend(units.iter().cloned()),
            other => panic!("nobody began {other:?}"),
        }
        Ok("started".to_owned())
    }
}

fn seen(text: String) -> (String, ()) {
    (text, ())
}

fn unit(number: usize) -> String {
    format!("unit-{number}.service")
}

fn step(number: usize) -> Step {
    let undo = Some(Undo::StartUnits { units: vec![unit(number)], down: Vec::new() });
    Step { id: format!("stop-{number}"), title: format!("Stop {}", unit(number)), undo }
}

fn header() -> Header {
    let time = "2026-03-01T02:00:00Z".parse().unwrap();
    Header { version: 1, operation: "backup".to_owned(), time, profile: "name = \"p\"\n".to_owned() }
}

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("state")).unwrap();
    (directory, state)
}

fn steps_of(due: &[Due]) -> Vec<&str> {
    due.iter().map(|due| due.step.as_str()).collect()
}

#[test]
fn resume_started_what_was_stopped_on_purpose() {
    let (_directory, state) = state();
    let mut units = Units::all();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    for number in 0..2 {
        run.step(&step(number), || units.stop(&unit(number)).map(seen)).unwrap();
    }
    assert!(!Found::read(&state).unwrap().unwrap().at_rest, "a stop that was cut off is undone");
    run.stay_at_rest().unwrap();
    run.finish().unwrap();
    let profile = built_in("eclecticiq-centos").unwrap().unwrap();
    for _ in 0..2 {
        let resumed = resume(&state, &profile, Wanted::CutOff, &Silent).unwrap();
        assert!(matches!(resumed, Resumed::AtRest), "{resumed:?}");
        assert_eq!(Found::read(&state).unwrap().unwrap().due.len(), 2);
    }
    // Somebody began to start it, and was cut off.
    let run = Run::resume(&state, &Found::read(&state).unwrap().unwrap(), &Silent).unwrap();
    run.undo_step(&step(1).id, &mut |all| units.undo(all));
    drop(run);
    let found = Found::read(&state).unwrap().unwrap();
    assert!(!found.at_rest && steps_of(&found.due) == [step(0).id], "{found:?}");
}

/// Whether units stay up is looked at once for all that are started one after another; what lies between keeps its place.
#[test]
fn units_that_follow_each_other_are_started_together_and_in_reverse() {
    let (_directory, state) = state();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    let merge = Undo::MergeQueues { queues: vec![("queue".to_owned(), "aside".to_owned())] };
    let between = Step { id: "purge".to_owned(), title: "Purge".to_owned(), undo: Some(merge.clone()) };
    for step in [step(0), between, step(1), step(2)] {
        run.step(&step, || Ok(seen("done".to_owned()))).unwrap();
    }
    let mut batches = Vec::new();
    let failures = run.undo_all(&mut |all| {
        batches.push(all.to_vec());
        // Of the second nothing is told: it must not count as undone.
        all.iter().take(2).map(|_| Ok("undone".to_owned())).skip(usize::from(batches.len() == 2)).collect()
    });
    let start = |number: usize| step(number).undo.unwrap();
    assert_eq!(batches, [vec![start(2), start(1)], vec![merge], vec![start(0)]]);
    assert!(failures.len() == 1 && failures[0].to_string().contains("Purge"), "{failures:?}");
    assert_eq!(steps_of(&run.due()), ["purge"]);
}

/// The process ends before, between, or after the stop of each unit and its entry.
#[test]
fn a_run_cut_off_after_any_step_is_undone_by_resume_in_reverse() {
    for ended_after in 0..=5 {
        for began_another in [false, true] {
            let (_directory, state) = state();
            let mut units = Units::all();
            let run = Run::begin(&state, header(), &Silent).unwrap();
            for number in 0..ended_after {
                run.step(&step(number), || units.stop(&unit(number)).map(seen)).unwrap();
            }
            let mut begun = ended_after;
            if began_another && ended_after < 5 {
                // The entry is there, and nothing has happened.
                let failed = || Err::<(String, ()), _>(OrchestrateError::Unfit("the machine lost power".to_owned()));
                run.step(&step(ended_after), failed).unwrap_err();
                begun += 1;
            }
            drop(run);
            let found = Found::read(&state).unwrap().unwrap();
            assert_eq!(found.header, Some(header()));
            let expected: Vec<String> = (0..begun).rev().map(|number| step(number).id).collect();
            assert_eq!(steps_of(&found.due), expected);
            if begun > 0 {
                let error = Run::begin(&state, header(), &Silent).err().unwrap();
                assert!(matches!(error, OrchestrateError::Unfinished { .. }), "{error}");
            }
            let again = Run::resume(&state, &found, &Silent).unwrap();
            let mut order = Vec::new();
            let failures = again.undo_all(&mut |all| {
                order.extend(all.to_vec());
                units.undo(all)
            });
            assert!(failures.is_empty(), "{failures:?}");
            assert_eq!(order.first(), begun.checked_sub(1).and_then(|last| step(last).undo).as_ref());
            again.finish().unwrap();
            assert_eq!(units.0, Units::all().0);
            assert!(Found::read(&state).unwrap().is_none(), "there is something to resume after a resume");
            Run::begin(&state, header(), &Silent).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_undone_stays_due_and_stops_nothing_else() {
    let (_directory, state) = state();
    let mut units = Units::all();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    for number in 0..3 {
        run.step(&step(number), || units.stop(&unit(number)).map(seen)).unwrap();
    }
    let stubborn = step(1).undo.unwrap();
    let mut one = |undo: &Undo| match *undo == stubborn {
        true => Err(OrchestrateError::Unfit("it does not start".to_owned())),
        false => units.undo_one(undo),
    };
    let failures = run.undo_all(&mut |all| all.iter().map(&mut one).collect());
    assert_eq!(failures.len(), 1);
    assert_eq!(run.finish().unwrap().last().map(|record| record.state.clone()), Some("undone".to_owned()));
    let found = Found::read(&state).unwrap().unwrap();
    assert_eq!(steps_of(&found.due), ["stop-1"]);
    // Killed in the middle of the resume, and resumed once more.
    drop(Run::resume(&state, &found, &Silent).unwrap());
    let again = Run::resume(&state, &Found::read(&state).unwrap().unwrap(), &Silent).unwrap();
    assert!(again.undo_all(&mut |all| units.undo(all)).is_empty());
    again.finish().unwrap();
    assert_eq!(units.0, Units::all().0);
    assert!(Found::read(&state).unwrap().is_none());
}

#[test]
fn a_run_that_went_well_starts_services_and_keeps_the_rest() {
    let (_directory, state) = state();
    let mut units = Units::all();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    run.step(&step(0), || units.stop(&unit(0)).map(seen)).unwrap();
    let queues = vec![("a".to_owned(), "cairn:a".to_owned())];
    let purge = Step { id: "purge".to_owned(), title: "Purge".to_owned(), undo: Some(Undo::MergeQueues { queues }) };
    run.step(&purge, || Ok((String::new(), ()))).unwrap();
    run.step(&step(1), || units.stop(&unit(1)).map(seen)).unwrap();
    assert!(run.close(&mut |all| units.undo(all)).is_empty());
    assert_eq!(steps_of(&run.due()), ["purge"]);
    // Cut off now, the purge would be undone.
    assert_eq!(steps_of(&Found::read(&state).unwrap().unwrap().due), ["purge"]);
    run.keep_changes().unwrap();
    run.finish().unwrap();
    assert_eq!(units.0, Units::all().0);
    assert!(Found::read(&state).unwrap().is_none());
}

#[test]
fn an_interrupted_run_begins_no_further_step_and_undoes_all() {
    struct Stopped;
    impl Monitor for Stopped {
        fn interrupted(&self) -> bool {
            true
        }
    }
    let (_directory, state) = state();
    let mut units = Units::all();
    {
        let run = Run::begin(&state, header(), &Silent).unwrap();
        run.step(&step(0), || units.stop(&unit(0)).map(seen)).unwrap();
    }
    let found = Found::read(&state).unwrap().unwrap();
    let run = Run::resume(&state, &found, &Stopped).unwrap();
    let error =
        run.step(&step(1), || -> Result<(String, ()), OrchestrateError> { panic!("a step was begun") }).unwrap_err();
    assert!(matches!(error, OrchestrateError::Interrupted), "{error}");
    assert!(run.undo_all(&mut |all| units.undo(all)).is_empty());
    assert_eq!(units.0, Units::all().0);
}

/// Every prefix of a real journal, as a crash leaves it: each whole line counts, a cut one does not.
#[test]
fn a_journal_cut_at_any_byte_names_what_its_whole_lines_began() {
    let (_directory, state) = state();
    let mut units = Units::all();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    for number in 0..3 {
        run.step(&step(number), || units.stop(&unit(number)).map(seen)).unwrap();
    }
    let bytes = std::fs::read(state.journal()).unwrap();
    for len in 0..=bytes.len() {
        let prefix = &bytes[..len];
        let found = Found::parse(prefix);
        assert_eq!(found.damaged, 0, "a cut line was taken for damage at {len}");
        let whole = String::from_utf8_lossy(prefix).rsplit_once('\n').map_or(String::new(), |(whole, _)| whole.into());
        let begun = whole.lines().filter(|line| line.contains("\"begin\"")).count();
        assert_eq!(found.due.len(), begun, "at {len}");
    }
    // Going on after a cut line does not spoil the next one.
    std::fs::write(state.journal(), &bytes[..bytes.len() - 7]).unwrap();
    let found = Found::read(&state).unwrap().unwrap();
    let again = Run::resume(&state, &found, &Silent).unwrap();
    again.step(&step(4), || units.stop(&unit(4)).map(seen)).unwrap();
    drop(again);
    let found = Found::read(&state).unwrap().unwrap();
    assert_eq!((found.damaged, steps_of(&found.due)), (0, vec!["stop-4", "stop-2", "stop-1", "stop-0"]));
}

#[test]
fn a_damaged_line_is_told_and_the_rest_is_undone() {
    let (_directory, state) = state();
    let mut units = Units::all();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    for number in 0..3 {
        run.step(&step(number), || units.stop(&unit(number)).map(seen)).unwrap();
    }
    drop(run);
    let text = std::fs::read_to_string(state.journal()).unwrap().replacen("\"step\":\"stop-1\"", "\"step\":garbage", 1);
    std::fs::write(state.journal(), text).unwrap();
    let found = Found::read(&state).unwrap().unwrap();
    assert_eq!((found.damaged, steps_of(&found.due)), (1, vec!["stop-2", "stop-0"]));
    assert!(Run::begin(&state, header(), &Silent).is_err(), "a run began over a damaged journal");
}

#[test]
fn what_could_not_be_undone_is_not_kept_as_if_the_run_had_gone_well() {
    let (_directory, state) = state();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    let file = Undo::RestoreFile { path: "/etc/f".to_owned(), copy: "/tmp/f".to_owned(), unit: "u".to_owned() };
    let step = |id: &str, undo| Step { id: id.to_owned(), title: id.to_owned(), undo: Some(undo) };
    let queues = || Undo::MergeQueues { queues: Vec::new() };
    run.step(&step("edit", file), || Ok((String::new(), ()))).unwrap();
    run.step(&step("purge", queues()), || Ok((String::new(), ()))).unwrap();
    let failures = run.undo_step("edit", &mut |_| vec![Err(OrchestrateError::Unfit("it does not start".to_owned()))]);
    assert_eq!(failures.len(), 1);
    run.keep_changes().unwrap();
    assert_eq!(steps_of(&run.due()), ["edit"]);
    run.finish().unwrap();
    assert_eq!(steps_of(&Found::read(&state).unwrap().unwrap().due), ["edit"]);
}

/// A line that did not fit on the disk stayed in part, and the next one was glued to it: both were lost to `resume`.
#[test]
fn a_line_that_does_not_fit_on_the_disk_leaves_nothing_that_spoils_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mounted) = Tmpfs::mount(directory.path(), "64k") else { return };
    let state = StateDir::open(&mounted.path().join("state")).unwrap();
    let run = Run::begin(&state, header(), &Silent).unwrap();
    let fill = mounted.path().join("fill");
    let _ = std::fs::write(&fill, vec![1; 1 << 20]);
    let mut fitted = 0;
    let full = loop {
        // Titles of an odd length, so that a part of a line fits.
        let long = Step { title: "t".repeat(777), ..step(100 + fitted) };
        match run.step(&long, || Ok((String::new(), ()))) {
            Ok(()) => fitted += 1,
            Err(error) => break error,
        }
        assert!(fitted < 200, "the disk is never full");
    };
    assert!(matches!(full, OrchestrateError::State { .. }), "{full}");
    std::fs::remove_file(&fill).unwrap();
    run.step(&step(1), || Ok((String::new(), ()))).unwrap();
    drop(run);
    let found = Found::read(&state).unwrap().unwrap();
    assert_eq!(found.damaged, 0);
    assert!(found.due.iter().any(|due| due.step == "stop-1"), "{:?}", steps_of(&found.due));
}

/// The damaged line may have named a service: that everything is up again was said without knowing it.
#[test]
fn a_resume_of_a_damaged_journal_does_not_say_that_all_is_well() {
    let (_directory, state) = state();
    drop(Run::begin(&state, header(), &Silent).unwrap());
    let text = std::fs::read_to_string(state.journal()).unwrap() + "not an entry\n";
    std::fs::write(state.journal(), text).unwrap();
    for _ in 0..2 {
        let resumed = resume(&state, &Profile::default(), Wanted::CutOff, &Silent).unwrap();
        let Resumed::Undone(outcome) = resumed else { panic!("{resumed:?}") };
        let told = cairn::repo::chain(&outcome.stuck[0]);
        assert!(told.contains("1 lines of") && told.contains("move that file away"), "{told}");
    }
    assert!(Run::begin(&state, header(), &Silent).is_err(), "a run began over a damaged journal");
}

proptest! {
    #[test]
    fn no_journal_makes_the_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        Found::parse(&bytes);
    }
}

#[test]
fn a_second_run_is_refused_until_the_holder_ends_however_it_ends() {
    let (_directory, state) = state();
    let never = || false;
    let lock = state.lock(Duration::ZERO, &never).unwrap();
    let error = state.lock(Duration::ZERO, &never).unwrap_err();
    let process = std::process::id().to_string();
    assert!(matches!(&error, OrchestrateError::Busy { holder, .. } if holder.contains(&process)), "{error}");
    assert!(matches!(state.lock(Duration::from_secs(60), &|| true).unwrap_err(), OrchestrateError::Interrupted));
    drop(lock);
    let path = state.journal().with_file_name("lock");
    let mut holder = hold(&path);
    while state.lock(Duration::ZERO, &never).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    state.lock(Duration::from_secs(60), &never).unwrap();
}

/// Another process that holds the lock.
fn hold(path: &Path) -> std::process::Child {
    let mut command = Command::new("flock");
    command.arg("--no-fork").arg(path).args(["sleep", "600"]).stdin(Stdio::null()).spawn().unwrap()
}
