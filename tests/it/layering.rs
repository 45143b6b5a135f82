//! The rules of ARCHITECTURE.md that a program can hold: layers, and what may stand where.

use std::path::{Path, PathBuf};

/// For each layer, the layers it may name.
const MAY_NAME: [(&str, &[&str]); 10] = [
    ("progress", &[]),
    ("retention", &["format"]),
    ("format", &[]),
    ("chunker", &["format"]),
    ("backend", &["format"]),
    ("repo", &["format", "chunker", "backend", "progress"]),
    ("source", &["format", "progress"]),
    ("orchestrate", &["format", "repo", "source", "progress"]),
    ("cli", &["format", "backend", "repo", "source", "orchestrate", "progress", "retention"]),
    ("main.rs", &[]),
];

/// Words that may stand only in files whose path begins so.
const ONLY_IN: [(&str, &[&str]); 13] = [
    ("println!", &[]),
    ("print!(", &[]),
    ("eprintln!", &[]),
    ("dbg!", &[]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("anyhow", &["cli"]),
    ("tokio", &["source"]),
    (
        "std::fs",
        &[
            "backend",
            "source",
            "cli",
            "repo/cache.rs",
            "orchestrate/restore/stream.rs",
            "orchestrate/platform/after/record.rs",
            "orchestrate/platform/files.rs",
            "orchestrate/platform/state.rs",
        ],
    ),
    ("rustix::fs", &["backend", "source", "cli", "orchestrate/platform/state.rs"]),
    (".unwrap()", &[]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
];

const MAX_LINES: usize = 600;

/// What is wrong with a file of this path below `src`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let layer = path.split('/').next().unwrap().trim_end_matches(".rs");
    let mut found = Vec::new();
    if text.lines().count() > MAX_LINES {
        found.push(format!("{path}: more than {MAX_LINES} lines"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        let mut say = |what: String| found.push(format!("{path}:{}: {what}", number + 1));
        for part in code.split("crate::").skip(1) {
            let named: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed =
                MAY_NAME.iter().find(|(name, _)| *name == layer).map_or(&[] as &[&str], |(_, allowed)| allowed);
            if named != layer && layer != "lib" && !allowed.contains(&named.as_str()) {
                say(format!("{layer} names {named}"));
            }
        }
        for (word, places) in ONLY_IN {
            let wanted = |place: &&str| path.starts_with(*place);
            if code.contains(word) && !places.iter().any(wanted) {
                say(format!("{word} does not belong here"));
            }
        }
        if code.contains("::*;") || code.contains("::*}") {
            say("a glob import".to_owned());
        }
        let item = code.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        if item.starts_with("static ") || code.contains("thread_local!") {
            say("global state".to_owned());
        }
    }
    found
}

fn sources(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|end| end == "rs") {
            all.push(path);
        }
    }
}

#[test]
fn the_sources_keep_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&root, &mut all);
    assert!(all.len() > 40, "only {} sources were found", all.len());
    let mut found = Vec::new();
    for path in all {
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        found.extend(violations(&relative, &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    for (path, line) in [
        ("repo/gc.rs", "use crate::source::files::walk::Walk;"),
        ("source/command.rs", "use crate::repo::Repository;"),
        ("format/pack.rs", "use crate::backend::Backend;"),
        ("backend/local.rs", "    crate::repo::chain(&error)"),
        ("progress.rs", "use crate::format::ObjectId;"),
        ("repo/index.rs", "use crate::format::*;"),
        ("orchestrate/backup.rs", "println!(\"{}\", 1);"),
        ("repo/check.rs", "std::fs::read(path)"),
        ("orchestrate/backup.rs", "use anyhow::Result;"),
        ("format/id.rs", "let x = y.unwrap();"),
        ("repo/frames.rs", "static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);"),
    ] {
        assert!(!violations(path, line).is_empty(), "{path}: {line}");
    }
    assert!(violations("repo/gc.rs", "use crate::format::Kind; // see crate::source").is_empty());
    assert!(!violations("repo/gc.rs", &"\n".repeat(MAX_LINES + 1)).is_empty());
}
