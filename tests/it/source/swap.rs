//! A directory put in the place of another and back, wherever that is cut off.

use std::path::Path;

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
    assert!(Swap::plan(Path::new("/proc"), "1").unwrap().obstacle().unwrap().unwrap().contains("mount point"));
    assert!(Swap::plan(Path::new("/"), "1").is_err());
}
