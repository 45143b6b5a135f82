//! The content of a real mount point, exchanged by a process that is killed between two of the many renames, and undone by
//! `cairn platform resume`, which is killed as well.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cairn::orchestrate::platform::backup::header;
use cairn::orchestrate::platform::journal::Undo;
use cairn::orchestrate::platform::profile::{Profile, built_in};
use cairn::orchestrate::platform::run::{Run, Step};
use cairn::orchestrate::platform::state::StateDir;
use cairn::progress::Silent;
use cairn::source::files::swap::Swap;

use crate::support::machine::{Tmpfs, is_root_or_skip, scratch};

/// So many files are exchanged: between the first and the last of these renames there is time to kill who does it.
const FILES: usize = 4000;
/// So often it is tried to be in time.
const TRIES: usize = 40;
/// Tells the process that exchanges where; whether it comes to its end.
const CHILD: &str = "CAIRN_TEST_EXCHANGE";
const TO_THE_END: &str = "CAIRN_TEST_EXCHANGE_TO_THE_END";

/// Says that it was not killed in time.
const DONE: &str = "done";

fn file(number: usize) -> String {
    format!("f{number:05}")
}

/// A disk with something on it, and what is to take its place.
struct Disk {
    directory: PathBuf,
    place: PathBuf,
    swap: Swap,
}

impl Disk {
    fn profile(directory: &Path) -> Profile {
        let mut profile = built_in("eclecticiq-centos").unwrap().unwrap();
        profile.state.directory = directory.join("state");
        profile.systemd.systemctl = directory.join("systemctl").display().to_string();
        profile
    }

    fn new(directory: &Path, place: &Path) -> Self {
        let systemctl =
            "#!/bin/sh\nprintf 'Id=x.service\\nLoadState=loaded\\nActiveState=inactive\\nSubState=dead\\n'\n";
        fs::write(directory.join("systemctl"), systemctl).unwrap();
        fs::set_permissions(directory.join("systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
        let text = format!(
            "extends = \"eclecticiq-centos\"\nname = \"p\"\n[state]\ndirectory = {:?}\n",
            directory.join("state")
        );
        fs::write(directory.join("profile.toml"), text).unwrap();
        fs::create_dir(place.join("lost+found")).unwrap();
        let swap = Swap::plan(place, "1").unwrap();
        assert!(swap.mount.is_some(), "{swap:?}");
        let disk = Disk { directory: directory.to_owned(), place: place.to_owned(), swap };
        disk.fill(place, "old");
        disk
    }

    fn fill(&self, directory: &Path, content: &str) {
        for number in 0..FILES {
            fs::write(directory.join(file(number)), content).unwrap();
        }
    }

    /// Makes the replacement, and begins to exchange.
    fn exchange(&self, to_the_end: bool) -> Child {
        fs::create_dir(&self.swap.staged).unwrap();
        self.fill(&self.swap.staged, "new");
        let swap = self.swap.clone().made().unwrap();
        let _ = fs::remove_file(self.directory.join(DONE));
        fs::write(self.directory.join("swap"), serde_json::to_vec(&swap).unwrap()).unwrap();
        let mut command = reluctant(&std::env::current_exe().unwrap());
        command.args(["--exact", "platform::content::exchanges"]).env(CHILD, &self.directory);
        if to_the_end {
            command.env(TO_THE_END, "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn resume(&self) -> Command {
        let mut command = reluctant(assert_cmd::cargo::cargo_bin!("cairn"));
        command.args(["--json", "platform", "resume", "--profile"]).arg(self.directory.join("profile.toml"));
        command.stdin(Stdio::null());
        command
    }

    fn resumed(&self) -> String {
        let output = self.resume().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn on_the_way(&self) -> PathBuf {
        self.place.join(".before-1.part")
    }

    /// All that is in the mount point is this, every file of it.
    #[track_caller]
    fn holds(&self, content: &str, besides: &[&str]) {
        let mut expected: Vec<String> =
            (0..FILES).map(file).chain(besides.iter().map(|name| (*name).to_owned())).collect();
        let mut found: Vec<String> =
            fs::read_dir(&self.place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        expected.sort();
        found.sort();
        assert!(found == expected, "{} names and not {}", found.len(), expected.len());
        assert!((0..FILES).all(|number| fs::read_to_string(self.place.join(file(number))).unwrap() == content));
    }
}

/// Whether there are files in a directory, and some are not.
fn is_in_the_middle(directory: &Path) -> bool {
    let names = fs::read_dir(directory)
        .map_or(0, |names| names.flatten().filter(|entry| entry.file_type().unwrap().is_file()).count());
    names > 0 && names < FILES
}

/// A program that lets everybody else go first: whoever wants to kill it in the middle comes in time, however busy the
/// machine is.
fn reluctant(program: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program);
    command
}

/// Kills a process once it has come to a point, or past the end of its work.
fn killed_once(mut child: Child, mut has_come: impl FnMut() -> bool) {
    while !has_come() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The process that exchanges, as a restore does: what undoes it is in the journal before. By itself it does nothing.
#[test]
fn exchanges() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let swap: Swap = serde_json::from_slice(&fs::read(directory.join("swap")).unwrap()).unwrap();
    let state = StateDir::open(&directory.join("state")).unwrap();
    let run = Run::begin(&state, header("restore", &Disk::profile(&directory)), &Silent).unwrap();
    let undo = Undo::TakeBack { swaps: vec![swap.clone()], unit: "x".to_owned(), start: false };
    let step = Step { id: "swap-postgres".to_owned(), title: "Exchange".to_owned(), undo: Some(undo) };
    run.step(&step, || Ok((String::new(), swap.put_in()?))).unwrap();
    fs::write(directory.join(DONE), "").unwrap();
    while std::env::var_os(TO_THE_END).is_none() {
        std::thread::sleep(Duration::from_secs(1));
    }
    run.keep_changes().unwrap();
    run.finish().unwrap();
}

#[test]
fn an_exchange_in_a_real_mount_is_undone_wherever_it_was_killed() {
    if !is_root_or_skip("mounting a file system") {
        return;
    }
    let (_kept, directory) = scratch();
    let place = directory.join("disk");
    fs::create_dir(&place).unwrap();
    let Some(_mount) = Tmpfs::mount(&place, "64m") else { return };
    let disk = Disk::new(&directory, &place);
    let (part, aside, staged) = (disk.on_the_way(), disk.swap.aside.clone(), disk.swap.staged.clone());
    // While the old files go aside, and while the new ones come in; each at several files.
    let begun = |number: usize| part.join(file(number));
    let gone = |number: usize| staged.join(file(number));
    let (mut out, mut in_, mut back) = (0, 0, 0);
    for attempt in 0..TRIES {
        let number = 1 + attempt * 997 % (FILES - 100);
        let child = disk.exchange(false);
        let exchanged = || directory.join(DONE).exists();
        match out <= in_ {
            true => killed_once(child, || begun(number).exists() || aside.exists() || exchanged()),
            false => killed_once(child, || aside.exists() && !gone(number).exists() || exchanged()),
        }
        out += usize::from(is_in_the_middle(&part) && is_in_the_middle(&place));
        in_ += usize::from(aside.exists() && is_in_the_middle(&staged) && is_in_the_middle(&place));
        // The undoing, too.
        let resume = disk.resume().stdout(Stdio::null()).spawn().unwrap();
        killed_once(resume, || place.join(file(number)).exists());
        back += usize::from(is_in_the_middle(&part) && is_in_the_middle(&place));
        disk.resumed();
        disk.holds("old", &["lost+found"]);
        assert!(disk.resumed().contains("\"undone\":0"));
        if out > 1 && in_ > 1 && back > 0 {
            break;
        }
    }
    println!("killed in the middle: {out} times on the way out, {in_} on the way in, {back} on the way back");
    assert!(out > 0 && in_ > 0 && back > 0, "nobody was killed in the middle: {out}, {in_}, {back}");

    // One that came to its end stays, with what was there beside it.
    assert!(disk.exchange(true).wait().unwrap().success());
    assert!(disk.resumed().contains("\"undone\":0"));
    disk.holds("new", &["lost+found", ".before-1"]);
    assert!((0..FILES).all(|number| fs::read_to_string(aside.join(file(number))).unwrap() == "old"));
}
