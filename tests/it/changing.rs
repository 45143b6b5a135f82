//! Files that change and vanish while they are read: a failure, except where a server at work is expected to do that.

use std::path::PathBuf;
use std::sync::Mutex;

use cairn::format::tree::Node;
use cairn::orchestrate::backup::{self, Outcome, TreeOptions};
use cairn::progress::{Monitor, Notice, Silent};
use cairn::source::SourceError;
use tempfile::TempDir;

use crate::support::memory::Memory;
use crate::support::{init, open, options};

/// Somebody at work in the tree: appends to `busy` while it is read, and removes `temporary` before it is.
struct Server {
    root: PathBuf,
    notices: Mutex<Vec<Notice>>,
}

impl Monitor for Server {
    fn item(&self, name: &str) {
        if name.ends_with("/a") {
            let _ = std::fs::remove_file(self.root.join("data/temporary"));
        }
    }

    fn advance(&self, _units: u64) {
        use std::io::Write;
        let mut file = std::fs::File::options().append(true).open(self.root.join("data/busy")).unwrap();
        file.write_all(b"more").unwrap();
    }

    fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
    }
}

fn backed_up(expected: bool) -> (Outcome, Vec<Notice>, Vec<(String, bool)>) {
    let directory = TempDir::new().unwrap();
    let root = std::fs::canonicalize(directory.path()).unwrap();
    std::fs::create_dir(root.join("data")).unwrap();
    // Small files are read ahead: `temporary` is none.
    for (name, size) in [("a", 10), ("busy", 8 << 20), ("temporary", 1 << 20)] {
        std::fs::write(root.join("data").join(name), vec![7; size]).unwrap();
    }
    let backend = Memory::new();
    init(backend.as_ref());
    let repository = open(&(backend as std::sync::Arc<dyn cairn::backend::Backend>));
    let server = Server { root: root.clone(), notices: Mutex::default() };
    // A name that only begins like the directory does not count.
    let changing = vec![root.join("dat"), root.join(if expected { "data" } else { "other" })];
    let tree = TreeOptions { roots: vec![root.join("data")], changing, ..TreeOptions::default() };
    let outcome = backup::tree(&repository, tree, &options("tree"), &server).unwrap();
    let snapshot = &repository.snapshots().unwrap()[0].snapshot;
    let mut reader = repository.tree(&snapshot.content).unwrap();
    let mut files = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if !matches!(entry.node, Node::Directory) {
            files.push((String::from_utf8(entry.name().to_vec()).unwrap(), entry.unstable));
        }
    }
    let notices = server.notices.into_inner().unwrap();
    (outcome, notices, files)
}

fn named(files: &[(&str, bool)]) -> Vec<(String, bool)> {
    files.iter().map(|(name, unstable)| ((*name).to_owned(), *unstable)).collect()
}

#[test]
fn a_file_that_changes_or_vanishes_makes_a_backup_partial() {
    let (outcome, notices, files) = backed_up(false);
    assert_eq!((outcome.summary.unread, notices.len()), (2, 2), "{notices:?}");
    assert_eq!(files, named(&[("a", false), ("busy", true), ("temporary", false)]));
}

#[test]
fn where_files_are_expected_to_change_and_vanish_it_is_no_failure() {
    let (outcome, notices, files) = backed_up(true);
    assert_eq!((outcome.summary.unread, notices), (0, Vec::new()));
    assert_eq!(files, named(&[("a", false), ("busy", true)]));
}

/// A queue that somebody used while it was read was told as one that was not read to its end.
#[test]
fn what_a_source_says_of_its_failure_is_not_covered_by_what_follows_from_it() {
    struct Used;
    impl std::io::Read for Used {
        fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(SourceError::Changed { path: "a queue".to_owned(), what: "somebody used it" }))
        }
    }
    let backend = Memory::new();
    init(backend.as_ref());
    let repository = open(&(backend as std::sync::Arc<dyn cairn::backend::Backend>));
    let cut = |_| -> Result<(), SourceError> {
        Err(SourceError::Answer { server: "a server".to_owned(), what: "it was not read to its end".to_owned() })
    };
    let error = backup::checked(&repository, Used, cut, &options("queue"), &Silent).unwrap_err();
    assert!(error.to_string().contains("somebody used it"), "{error}");
    assert!(repository.snapshots().unwrap().is_empty());
}
