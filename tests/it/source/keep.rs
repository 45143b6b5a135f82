//! Files kept aside before they are written over, and put back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cairn::source::files::keep::Kept;

fn never() -> bool {
    false
}

/// What is at a path: a link's target or a file's content, its mode and time.
fn look(path: &Path) -> Option<(Vec<u8>, u32, i64)> {
    let found = fs::symlink_metadata(path).ok()?;
    let content = match found.is_symlink() {
        true => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
        false => fs::read(path).unwrap(),
    };
    Some((content, found.mode(), found.mtime_nsec()))
}

struct Scene {
    directory: tempfile::TempDir,
    kept: Kept,
    replaced: Vec<PathBuf>,
    new: Vec<PathBuf>,
}

impl Scene {
    /// A tree with files that will be written over, and names that are not there yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/a.conf"), "old").unwrap();
        fs::set_permissions(root.join("etc/a.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(root.join("etc/deep/-odd name"), "old, too").unwrap();
        symlink("a.conf", root.join("etc/link")).unwrap();
        let kept = Kept::new(&directory.path().join("kept"), &root);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        let replaced = paths(&["etc/a.conf", "etc/deep/-odd name", "etc/link"]);
        Scene { directory, kept, replaced, new: paths(&["etc/new", "etc/deep/new"]) }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn state(&self) -> Vec<Option<(Vec<u8>, u32, i64)>> {
        self.replaced.iter().chain(&self.new).map(|path| look(&self.root().join(path))).collect()
    }

    fn write_over(&self) {
        for path in self.replaced.iter().chain(&self.new) {
            let path = self.root().join(path);
            let _ = fs::remove_file(&path);
            fs::write(path, "restored").unwrap();
        }
    }
}

#[test]
fn what_was_written_over_comes_back_and_what_was_new_goes() {
    let scene = Scene::new();
    let before = scene.state();
    scene.kept.keep(&scene.replaced, &scene.new, &never).unwrap();
    assert_eq!(scene.state(), before, "keeping changes nothing");
    scene.write_over();
    assert_ne!(scene.state(), before);
    assert!(scene.kept.put_back(&never).unwrap());
    assert_eq!(scene.state(), before);
    assert!(!scene.kept.directory().exists());
    assert!(!scene.kept.put_back(&never).unwrap(), "the second time there is nothing to do");
    assert_eq!(scene.state(), before);
}

#[test]
fn keeping_that_was_cut_off_is_no_reason_to_change_anything() {
    let scene = Scene::new();
    scene.kept.keep(&scene.replaced, &scene.new, &never).unwrap();
    // The list is written last: without it no file was written over.
    fs::remove_file(scene.kept.directory().join("new")).unwrap();
    fs::write(scene.root().join("etc/a.conf"), "somebody's, since").unwrap();
    let before = scene.state();
    assert!(!scene.kept.put_back(&never).unwrap());
    assert_eq!(scene.state(), before);
    assert!(!scene.kept.directory().exists());
}

#[test]
fn putting_back_goes_on_where_it_was_cut_off() {
    let scene = Scene::new();
    let before = scene.state();
    scene.kept.keep(&scene.replaced, &scene.new, &never).unwrap();
    scene.write_over();
    // One is back already, one that was new is gone.
    fs::remove_file(scene.root().join("etc/link")).unwrap();
    symlink("a.conf", scene.root().join("etc/link")).unwrap();
    fs::remove_file(scene.root().join("etc/new")).unwrap();
    assert!(scene.kept.put_back(&never).unwrap());
    let without_times = |state: Vec<Option<(Vec<u8>, u32, i64)>>| -> Vec<_> {
        state.into_iter().map(|one| one.map(|(content, mode, _)| (content, mode))).collect()
    };
    assert_eq!(without_times(scene.state()), without_times(before));
}

#[test]
fn a_file_that_cannot_be_kept_is_an_error() {
    let scene = Scene::new();
    let missing = vec![PathBuf::from("etc/not there")];
    let refused = scene.kept.keep(&missing, &[], &never).unwrap_err().to_string();
    assert!(refused.contains("not there"), "{refused}");
    assert!(!scene.kept.directory().join("new").exists(), "nothing may be written over after that");
}
