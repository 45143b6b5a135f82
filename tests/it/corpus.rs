//! The fuzz targets over their corpus, as ordinary tests: no fuzzer is needed to notice that an input which once
//! mattered matters again.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_corpus_file_passes_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in targets::ALL {
        let directory = corpus.join(name);
        let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 3, "{} has hardly any files", directory.display());
        for file in files {
            let input = fs::read(&file).unwrap();
            let passed = std::panic::catch_unwind(|| body(&input)).is_ok();
            assert!(passed, "target {name} fails on {}", file.display());
        }
    }
}

/// A target that no corpus directory, or a directory that no target belongs to, would never be run.
#[test]
fn corpus_directories_and_targets_are_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |directory: &str| {
        let entries = fs::read_dir(root.join(directory)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let mut expected: Vec<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.sort();
    assert_eq!(names("corpus"), expected);
    assert_eq!(names("fuzz_targets"), expected);
}

/// Short inputs that no corpus has: all of one and two bytes, and prefixes of every corpus file.
#[test]
fn targets_stand_short_and_cut_input() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in targets::ALL {
        body(&[]);
        for first in 0..=255 {
            body(&[first]);
        }
        // A restore makes directories on disk, so it gets fewer inputs.
        let step = if name == "restore_path" { 7 } else { 1 };
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let input = fs::read(entry.unwrap().path()).unwrap();
            for len in (0..input.len().min(600)).step_by(step) {
                body(&input[..len]);
            }
        }
    }
}
