//! A directory put in the place of another and back, wherever that is cut off.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cairn::source::files::swap::Swap;

fn fill(directory: &Path, content: &str) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("file"), content).unwrap();
}

fn content(directory: &Path) -> Option<String> {
    std::fs::read_to_string(directory.join("file")).ok()
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_there_stays_beside_it_and_comes_back() {
    for existed in [true, false] {
        let above = tempfile::tempdir().unwrap();
        let place = above.path().join("data");
        if existed {
            fill(&place, "old");
        }
        let swap = Swap::plan(&place, "1").unwrap();
        fill(&swap.staged, "new");
        let swap = swap.made().unwrap();
        assert!(!swap.is_in().unwrap());
        assert_eq!(swap.put_in().unwrap(), existed);
        assert!(swap.is_in().unwrap());
        assert_eq!((content(&place).as_deref(), content(&swap.aside).is_some()), (Some("new"), existed));
        for _ in 0..2 {
            swap.take_back().unwrap();
            assert_eq!(content(&place).as_deref(), existed.then_some("old"));
            assert_eq!(names(above.path()), if existed { vec!["data"] } else { vec![] });
        }
    }
}

#[test]
fn a_swap_that_was_cut_off_at_any_point_is_undone() {
    // The renames of putting in, and of taking back, one after another.
    let cut: [&[(&str, &str)]; 5] = [
        &[],
        &[("data", "data.before-1")],
        &[("data", "data.before-1"), (".data.cairn-new-1", "data")],
        &[("data", "data.before-1"), (".data.cairn-new-1", "data"), ("data", ".data.cairn-new-1")],
        &[
            ("data", "data.before-1"),
            (".data.cairn-new-1", "data"),
            ("data", ".data.cairn-new-1"),
            ("data.before-1", "data"),
        ],
    ];
    for renames in cut {
        let above = tempfile::tempdir().unwrap();
        fill(&above.path().join("data"), "old");
        let swap = Swap::plan(&above.path().join("data"), "1").unwrap();
        fill(&swap.staged, "new");
        let swap = swap.made().unwrap();
        for (from, to) in renames {
            std::fs::rename(above.path().join(from), above.path().join(to)).unwrap();
        }
        swap.take_back().unwrap();
        assert_eq!(content(&above.path().join("data")).as_deref(), Some("old"), "{renames:?}");
        assert_eq!(names(above.path()), ["data"], "{renames:?}");
    }
}

#[test]
fn what_somebody_else_put_there_is_not_removed() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("data");
    fill(&place, "old");
    let swap = Swap::plan(&place, "1").unwrap();
    fill(&swap.staged, "new");
    let swap = swap.made().unwrap();
    swap.put_in().unwrap();
    std::fs::rename(&place, above.path().join("elsewhere")).unwrap();
    fill(&place, "theirs");
    let refused = swap.take_back().unwrap_err().to_string();
    assert!(refused.contains("something else is there") && refused.contains("data.before-1"), "{refused}");
    assert_eq!(content(&place).as_deref(), Some("theirs"));
    assert_eq!(content(&swap.aside).as_deref(), Some("old"));
}

#[test]
fn nothing_is_put_over_what_was_moved_aside_before() {
    let above = tempfile::tempdir().unwrap();
    let place = above.path().join("data");
    fill(&place, "old");
    let swap = Swap::plan(&place, "1").unwrap();
    fill(&swap.staged, "new");
    fill(&swap.aside, "older");
    let swap = swap.made().unwrap();
    assert!(swap.put_in().is_err());
    assert_eq!((content(&place).as_deref(), content(&swap.aside).as_deref()), (Some("old"), Some("older")));
    let link = above.path().join("link");
    std::os::unix::fs::symlink(&place, &link).unwrap();
    assert!(Swap::plan(&link, "1").unwrap().obstacle().unwrap().unwrap().contains("symbolic link"));
    let mounted = Swap::plan(Path::new("/proc"), "1").unwrap();
    assert_eq!(mounted.aside, Path::new("/proc/.before-1"), "the content of a mount point is moved aside, not itself");
    assert!(Swap::plan(Path::new("/"), "1").is_err());
}

/// Whether a directory has this mode.
fn has_mode(directory: &Path, mode: u32) -> bool {
    std::fs::metadata(directory).unwrap().mode() & 0o7777 == mode
}

/// A place as a mount point is one: it cannot be renamed. It has something in it that stays.
fn mount(above: &Path) -> (PathBuf, Swap) {
    let place = above.join("data");
    fill(&place, "old");
    for name in ["base", "global", "lost+found"] {
        std::fs::create_dir(place.join(name)).unwrap();
    }
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o750)).unwrap();
    let swap = Swap::within(&place, "1").unwrap();
    fill(&swap.staged, "new");
    std::fs::create_dir(swap.staged.join("base")).unwrap();
    std::fs::set_permissions(&swap.staged, PermissionsExt::from_mode(0o700)).unwrap();
    (place, swap.made().unwrap())
}

const OLD: [&str; 4] = ["base", "file", "global", "lost+found"];

#[test]
fn the_content_of_a_mount_point_is_exchanged_and_comes_back() {
    let above = tempfile::tempdir().unwrap();
    let (place, swap) = mount(above.path());
    assert!(!swap.is_in().unwrap());
    assert!(swap.put_in().unwrap() && swap.is_in().unwrap());
    assert_eq!(content(&place).as_deref(), Some("new"));
    assert_eq!(names(&place), [".before-1", "base", "file", "lost+found"]);
    assert!(has_mode(&place, 0o700) && has_mode(&swap.aside, 0o750));
    // A server that worked on it has made more.
    std::fs::write(place.join("later"), "").unwrap();
    for _ in 0..2 {
        swap.take_back().unwrap();
        assert_eq!((content(&place).as_deref(), names(&place)), (Some("old"), OLD.map(str::to_owned).to_vec()));
        assert!(has_mode(&place, 0o750));
    }
    let other = tempfile::tempdir().unwrap();
    let (place, swap) = mount(other.path());
    swap.put_in().unwrap();
    swap.discard_aside().unwrap();
    assert_eq!(names(&place), ["base", "file", "lost+found"]);
}

#[test]
fn an_exchange_of_content_that_was_cut_off_at_any_rename_is_undone() {
    let [staged, part, aside] = [".cairn-new-1", ".before-1.part", ".before-1"];
    let moves = |from: &str, to: &str, names: &[&str]| {
        let path = |above: &str, name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        names.iter().map(|name| (path(from, name), path(to, name))).collect::<Vec<_>>()
    };
    let whole = |from: &str, to: &str| vec![(from.to_owned(), to.to_owned())];
    // Every rename of putting in, and then of taking back.
    let all = [
        moves("", part, &OLD[..3]),
        whole(part, aside),
        moves(staged, "", &["base", "file"]),
        moves("", staged, &["base", "file"]),
        whole(aside, part),
        moves(part, "", &OLD[..3]),
    ]
    .concat();
    for cut in 0..=all.len() {
        let above = tempfile::tempdir().unwrap();
        let (place, swap) = mount(above.path());
        std::fs::create_dir(place.join(part)).unwrap();
        std::fs::set_permissions(place.join(part), PermissionsExt::from_mode(0o750)).unwrap();
        for (from, to) in &all[..cut] {
            std::fs::rename(place.join(from), place.join(to)).unwrap();
        }
        assert!(swap.is_in().unwrap(), "{cut}");
        swap.take_back().unwrap();
        assert_eq!(
            (content(&place).as_deref(), names(&place)),
            (Some("old"), OLD.map(str::to_owned).to_vec()),
            "{cut}"
        );
        assert!(has_mode(&place, 0o750), "{cut}");
    }
}

#[test]
fn content_is_moved_only_where_the_same_file_system_is_mounted_and_only_what_was_put_there() {
    let above = tempfile::tempdir().unwrap();
    let (place, swap) = mount(above.path());
    swap.put_in().unwrap();
    // The disk is not mounted: what is seen is the directory beneath.
    let disk = above.path().join("disk");
    std::fs::rename(&place, &disk).unwrap();
    fill(&place, "beneath");
    for refused in [swap.take_back(), swap.is_in(), swap.put_in(), swap.discard_staged().map(|()| true)] {
        assert!(refused.unwrap_err().to_string().contains("mount it"));
    }
    assert_eq!(content(&place).as_deref(), Some("beneath"));
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&disk, &place).unwrap();
    // Somebody has put something else there.
    for name in ["base", "file"] {
        std::fs::rename(place.join(name), above.path().join(name)).unwrap();
    }
    fill(&place, "theirs");
    let refused = swap.take_back().unwrap_err().to_string();
    assert!(refused.contains("something else is there") && refused.contains(".before-1"), "{refused}");
    assert_eq!((content(&place).as_deref(), content(&swap.aside).as_deref()), (Some("theirs"), Some("old")));
}
