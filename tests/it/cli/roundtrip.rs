//! Every kind of file through the program and back, as other programs see it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Place, assert_fails, summary, text};
use crate::source::{essence, load};
use crate::support::machine::{has_program_or_skip, is_root_or_skip, skip};
use crate::support::trees::{build, deep_tree, listing, remove_socket, reopen};

/// The access lists of a tree, as `getfacl` shows them.
fn access_lists(root: &Path) -> String {
    let output = Command::new("getfacl").args(["-R", "-n", "."]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Removes what is too deep for paths, which the standard library would need as many open files for.
fn remove_deep(path: &Path) {
    assert!(Command::new("rm").arg("-rf").arg(path).status().unwrap().success());
}

#[test]
fn every_kind_of_file_goes_through_the_program_and_back() {
    let place = Place::new();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    build(&from);
    let stored = summary(&place.ok(&["--json", "backup", "--name", "t", from.to_str().unwrap()]));
    assert_eq!(stored["unread"], 0, "{stored}");
    assert!(
        text(&place.ok(&["ls", "t"]).stdout).lines().any(|line| line.starts_with('s') && line.ends_with("/socket"))
    );
    let whole = format!("t:{}", from.display());
    let restored = place.ok(&["restore", &whole, "--target", to.to_str().unwrap(), "--verify"]);
    let said = text(&restored.stderr);
    assert!(said.contains("dir/socket: it is a socket") && said.contains("1 skipped"), "{said}");
    assert!(fs::symlink_metadata(from.join("dir/socket")).unwrap().file_type().is_socket());
    remove_socket(&from);
    assert_eq!(listing(&to), listing(&from));
    assert_eq!(essence(&load(&to)), essence(&load(&from)));
    let of = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
    assert_eq!(of("dir/sparse").blocks(), fs::metadata(from.join("dir/sparse")).unwrap().blocks(), "holes stay holes");
    assert_eq!(of("dir/plain").ino(), of("another name").ino());
    assert_eq!(of("dir/dangling").ino(), of("dir/dangling too").ino());
    assert_eq!(of("set-id").mode() & 0o7777, 0o6755);
    assert_eq!(of("closed").mode() & 0o7777, 0o1500);
    assert_eq!((of("dir/plain").mtime(), of("dir/plain").mtime_nsec()), (1_000_000_000, 987_654_321));
    if has_program_or_skip("getfacl") {
        let lists = access_lists(&to);
        assert_eq!(lists, access_lists(&from));
        assert!(lists.contains("user:1234:r--") && lists.contains("default:user:1234:r--"), "{lists}");
    }
    // Nothing has to be done a second time, and the tree is still the same after a backup of what was restored.
    let again = summary(&place.ok(&["--json", "restore", &whole, "--target", to.to_str().unwrap()]));
    assert_eq!((&again["files"], &again["others"], &again["kept"]), (&0.into(), &0.into(), &0.into()), "{again}");
    assert_eq!(listing(&to), listing(&from));
    reopen(&to);
    reopen(&from);
}

#[test]
fn a_path_longer_than_any_system_call_takes_goes_through_the_program_and_back() {
    let place = Place::new();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    deep_tree(&from, 2500);
    place.ok(&["backup", "--name", "t", from.to_str().unwrap()]);
    place.ok(&["restore", &format!("t:{}", from.display()), "--target", to.to_str().unwrap(), "--verify"]);
    assert_eq!(listing(&to), listing(&from));
    let bottom = format!("{}/{}bottom", from.display(), "d/".repeat(2500));
    assert_eq!(place.ok(&["cat", "t", &bottom]).stdout, b"deep");
    assert!(text(&place.ok(&["find", "bottom"]).stderr).contains("1 matches"));
    remove_deep(&from);
    remove_deep(&to);
}

#[test]
fn an_access_list_set_by_setfacl_comes_back() {
    if !has_program_or_skip("setfacl") {
        return;
    }
    let place = Place::new();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("shared/below")).unwrap();
    fs::write(from.join("shared/file"), "x").unwrap();
    let set = |options: &[&str], path: &str| {
        let status = Command::new("setfacl").args(options).arg(from.join(path)).stderr(Stdio::null()).status();
        status.unwrap().success()
    };
    if !set(&["-m", "u:1234:rwx,g:4321:r-x,m::r-x"], "shared") {
        return skip("this file system has no access lists");
    }
    assert!(set(&["-d", "-m", "u:1234:rw-,o::---"], "shared"));
    assert!(set(&["-m", "g:99:-w-"], "shared/file"));
    place.ok(&["backup", "--name", "t", from.to_str().unwrap()]);
    let whole = format!("t:{}", from.display());
    place.ok(&["restore", &whole, "--target", to.to_str().unwrap()]);
    assert_eq!(access_lists(&to), access_lists(&from));
    // `below` has none, and does not get one from its restored parent's default list; nor does what is restored later.
    fs::remove_file(to.join("shared/file")).unwrap();
    fs::remove_dir(to.join("shared/below")).unwrap();
    place.ok(&["restore", &whole, "--target", to.to_str().unwrap()]);
    assert_eq!(access_lists(&to), access_lists(&from));
}

/// Runs the program where `/etc/passwd` and `/etc/group` know one more user and group, with this number.
fn with_user(place: &Place, number: u32, args: &[&str]) -> Output {
    let files = ["passwd", "group"].map(|name| {
        let line = match name {
            "passwd" => format!("cairn-tester:x:{number}:{number}::/:/bin/false\n"),
            _ => format!("cairn-tester:x:{number}:\n"),
        };
        let path = place.path().join(format!("{name}-{number}"));
        fs::write(&path, fs::read_to_string(Path::new("/etc").join(name)).unwrap() + &line).unwrap();
        path
    });
    let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"";
    let inner = place.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).args(&files);
    command.arg(inner.get_program()).args(inner.get_args()).args(args).stdin(Stdio::null());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).output().unwrap()
}

#[test]
fn numeric_owner_restores_numbers_and_without_it_names_win() {
    if !is_root_or_skip("mounting another /etc/passwd") {
        return;
    }
    let place = Place::new();
    let from = place.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("hers"), "x").unwrap();
    fs::write(from.join("unnamed"), "x").unwrap();
    symlink("hers", from.join("link")).unwrap();
    chown(from.join("hers"), Some(4242), Some(4242)).unwrap();
    chown(from.join("unnamed"), Some(777_777), Some(777_777)).unwrap();
    std::os::unix::fs::lchown(from.join("link"), Some(4242), Some(4242)).unwrap();
    fs::set_permissions(from.join("hers"), fs::Permissions::from_mode(0o4750)).unwrap();
    let stored = with_user(&place, 4242, &["backup", "--name", "t", from.to_str().unwrap()]);
    if !stored.status.success() && text(&stored.stderr).contains("unshare") {
        return skip("this user may not make a mount namespace");
    }
    assert!(stored.status.success(), "{}", text(&stored.stderr));
    assert!(text(&place.ok(&["ls", "t"]).stdout).contains("cairn-tester"));
    let whole = format!("t:{}", from.display());
    for (option, number) in [(None, 4343), (Some("--numeric-owner"), 4242)] {
        let to = place.path().join(format!("to-{number}"));
        let mut args = vec!["restore", &whole, "--target", to.to_str().unwrap()];
        args.extend(option);
        let restored = with_user(&place, 4343, &args);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        let of = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!((of("hers").uid(), of("hers").gid(), of("hers").mode() & 0o7777), (number, number, 0o4750));
        assert_eq!((of("link").uid(), of("link").gid()), (number, number));
        assert_eq!((of("unnamed").uid(), of("unnamed").gid()), (777_777, 777_777), "a number without a name stays");
    }
}

#[test]
fn who_is_not_root_gets_what_can_be_had_and_is_told_the_rest() {
    if !is_root_or_skip("a backup of what belongs to others") {
        return;
    }
    let mut place = Place::new();
    let from = place.path().join("from");
    fs::create_dir(&from).unwrap();
    build(&from);
    place.ok(&["backup", "--name", "t", from.to_str().unwrap()]);
    place.become_nobody();
    let (whole, to) = (format!("t:{}", from.display()), place.path().join("to"));
    let output = place.run(&["restore", &whole, "--target", to.to_str().unwrap()]);
    assert_fails(
        output,
        1,
        &["dir/null", "dir/block", "set-id bits", "trusted.cairn", "do not have their owners", "only root"],
    );
    assert_eq!(fs::read(to.join("dir/plain")).unwrap(), b"plain text");
    assert_eq!(fs::metadata(to.join("set-id")).unwrap().mode() & 0o7777, 0o755, "no set-id bit for another owner");
    assert_eq!(fs::metadata(to.join("closed")).unwrap().mode() & 0o7777, 0o1500);
    assert_eq!(fs::read(to.join("closed/in")).unwrap(), b"x");
    assert_eq!(fs::metadata(to.join("dir")).unwrap().mtime(), 999_999_999);
    // Where only owners cannot be given, all content is there: that is no failure, but it is told.
    let part = format!("t:{}/dir/empty", from.display());
    let output = place.run(&["--json", "restore", &part, "--target", place.path().join("one").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("1 entries do not have their owners"), "{}", text(&output.stderr));
    assert_eq!((&summary(&output)["owners_left"], &summary(&output)["files"]), (&1.into(), &1.into()));
}

#[test]
fn names_and_contents_of_a_user_come_back_without_root() {
    let mut place = Place::new();
    place.become_nobody();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let there = from.clone();
    crate::support::machine::as_nobody(move || {
        fs::create_dir_all(there.join("closed")).unwrap();
        fs::write(there.join("closed/a"), "a").unwrap();
        symlink("nowhere", there.join("link")).unwrap();
        fs::set_permissions(there.join("closed/a"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(there.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    });
    place.ok(&["backup", "--name", "t", from.to_str().unwrap()]);
    for _ in 0..2 {
        let output = place.ok(&["restore", &format!("t:{}", from.display()), "--target", to.to_str().unwrap()]);
        assert!(!text(&output.stderr).contains("owner"), "{}", text(&output.stderr));
        assert_eq!(listing(&to), listing(&from));
    }
    for root in [&from, &to] {
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
