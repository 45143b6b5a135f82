//! The Python files of `format-spec/` by themselves.

use std::fs;
use std::path::Path;

use cairn::backend::local::Local;
use cairn::format::key::{Credential, PasswordCost};
use cairn::repo::{InitOptions, Repository};
use zeroize::Zeroizing;

use super::{reader, script, spec};

/// Otherwise the vectors would be checked against themselves only.
#[test]
fn the_committed_vectors_are_those_that_the_script_makes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut make) = script("vectors/make.py") else { return };
    let output = make.arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.filter(|name| name.to_string_lossy().ends_with(".json")).collect();
        names.sort();
        names
    };
    assert_eq!(names(dir.path()), names(&spec("vectors")));
    for name in names(dir.path()) {
        let (made, committed) = (fs::read(dir.path().join(&name)), fs::read(spec("vectors").join(&name)));
        assert!(made.unwrap() == committed.unwrap(), "{} has changed: run vectors/make.py", name.display());
    }
}

#[test]
fn the_reader_opens_with_the_right_password_only() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, password) = (dir.path().join("repo"), dir.path().join("password"));
    let credential = Credential::Password(Zeroizing::new(b"correct horse".to_vec()));
    let cost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
    let options = InitOptions { cost, ..InitOptions::default() };
    Repository::init(&Local::create(&repository).unwrap(), &credential, &options).unwrap();
    for (text, code, error) in [
        ("correct horse\n", 0, ""),
        ("correct horse", 0, ""),
        ("correct horse \n", 1, "reader: wrong password or key file\n"),
    ] {
        fs::write(&password, text).unwrap();
        let Some(output) = reader(&repository, &password, &["list"]) else { return };
        assert_eq!(String::from_utf8_lossy(&output.stderr), error);
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty());
    }
}
