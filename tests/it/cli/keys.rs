//! Keys come and go.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use super::{Place, assert_fails, text};
use crate::support::pty::{Terminal, wait_until};

fn with_password(place: &Place, file: &Path, args: &[&str]) -> Output {
    place.command_without_key().arg("--password-file").arg(file).args(args).output().unwrap()
}

fn keys(place: &Place) -> Vec<String> {
    text(&place.ok(&["key", "list"]).stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_removed_password_opens_nothing_any_more() {
    let place = Place::new();
    place.store("db", b"some rows");
    let (gone, kept) = (place.path().join("gone"), place.path().join("kept"));
    for file in [&gone, &kept] {
        std::fs::write(file, file.to_str().unwrap()).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let label = file.file_name().unwrap().to_str().unwrap();
        place.ok(&["key", "add", "--label", label, "--new-password-file", file.to_str().unwrap()]);
        assert!(with_password(&place, file, &["snapshots"]).status.success());
    }
    let id = keys(&place).iter().find(|line| line.ends_with("gone")).unwrap()[..8].to_owned();
    place.ok(&["key", "remove", &id]);
    assert_fails(with_password(&place, &gone, &["snapshots"]), 12, &["wrong password"]);
    assert_eq!(with_password(&place, &kept, &["cat", "db"]).stdout, b"some rows");
    assert_eq!(place.ok(&["cat", "db"]).stdout, b"some rows");
}

#[test]
fn a_new_key_file_is_made_for_its_owner_alone_and_opens() {
    let place = Place::new();
    place.store("db", b"some rows");
    let file = place.path().join("machine-key");
    place.ok(&["key", "add", "--label", "machine", "--new-key-file", file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(bytes.len(), 32);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let mut command = place.command_without_key();
    let output = command.arg("--key-file").arg(&file).args(["-q", "cat", "db"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), text(&output.stderr)), (b"some rows".as_slice(), String::new()));
    // One that is there is taken as it is.
    let other = Place::new();
    other.ok(&["key", "add", "--new-key-file", file.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    let mut command = other.command_without_key();
    assert!(command.arg("--key-file").arg(&file).arg("snapshots").status().unwrap().success());
    // Another one that is made has other bytes.
    let second = place.path().join("second-key");
    place.ok(&["key", "add", "--new-key-file", second.to_str().unwrap()]);
    assert_ne!(std::fs::read(&second).unwrap(), bytes);
}

#[test]
fn two_new_passwords_that_differ_add_no_key() {
    let place = Place::new();
    for command in ["add", "passwd"] {
        let terminal = Terminal::open();
        let mut program = place.command();
        let mut child = terminal.controlling(program.args(["key", command])).spawn().unwrap();
        for (prompt, typed) in [("New password: ", b"one thing\n".as_slice()), ("Again: ", b"another\n")] {
            terminal.wait_for(prompt);
            wait_until("the echo is off", || !terminal.echoes());
            terminal.type_in(typed);
        }
        assert_eq!(child.wait().unwrap().code(), Some(2), "{}", terminal.shown());
        terminal.wait_for("the two passwords differ");
        assert!(!terminal.shown().contains("thing"), "{}", terminal.shown());
        assert_eq!(keys(&place).len(), 1);
    }
    place.ok(&["check"]);
}
