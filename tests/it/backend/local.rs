//! The local backend on a real file system.

use std::sync::{Arc, Mutex};

use cairn::backend::local::Local;

use crate::support::conformance::check_backend;

#[test]
fn local_conforms() {
    let directories = Mutex::new(Vec::new());
    check_backend(|| {
        let directory = tempfile::tempdir().unwrap();
        let local = Local::create(&directory.path().join("repository")).unwrap();
        directories.lock().unwrap().push(directory);
        Arc::new(local)
    });
}
