//! Rules about the sources that a program can keep: the order of the layers that `src/lib.rs` tells, and what may
//! not be in some of them, or in any.
//!
//! The scanner looks at words, not at types: it blanks comments, literals and `#[cfg(test)]` modules, and searches in
//! what remains. That the scanner itself finds what it should is tested with planted violations.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, and the others that it may name.
const LAYERS: [(&str, &[&str]); 9] = [
    ("progress", &[]),
    ("format", &[]),
    ("retention", &["format"]),
    ("chunker", &["format"]),
    ("backend", &["format", "progress"]),
    ("repo", &["format", "chunker", "backend", "progress", "retention"]),
    ("source", &["format", "progress"]),
    ("orchestrate", &["format", "chunker", "backend", "repo", "source", "progress", "retention"]),
    ("cli", &["format", "chunker", "backend", "repo", "source", "orchestrate", "progress", "retention"]),
];

/// Words that only some layers may use; `main` is `src/main.rs`, and a path is one file.
const WORDS: [(&str, &[&str]); 9] = [
    ("println!", &["cli", "main"]),
    ("eprintln!", &["cli", "main"]),
    ("print!", &["cli", "main"]),
    ("eprint!", &["cli", "main"]),
    ("dbg!", &[]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("anyhow", &["cli", "main"]),
    ("tokio", &[]),
];

/// Modules of other crates that only some layers may use. The cache of the repository layer is a file because SQLite
/// wants one.
const FOREIGN: [(&str, &str, &[&str]); 2] =
    [("std", "fs", &["backend", "source", "cli", "repo/cache.rs"]), ("rustix", "fs", &["backend", "source", "cli"])];

/// What may end the process.
const PANICS: [&str; 4] = [".unwrap()", "panic!", "todo!", "unimplemented!"];
/// What may end the process, unless a comment says why it cannot happen.
const EXCUSABLE: [&str; 2] = [".expect(", "unreachable!"];
const EXCUSE: &str = "// Infallible:";

/// Types that make a `static` into global state.
const STATE: [&str; 8] = ["mut", "Mutex", "RwLock", "Atomic", "Lazy", "Once", "Cell", "lazy"];

const MAX_LINES: usize = 600;

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(files.len() > 20, "only {} files were found in {}", files.len(), root.display());
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        found.extend(scan(name, &fs::read_to_string(&file).unwrap()));
    }
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The violations in one file, `name` being its path in `src`.
fn scan(name: &str, source: &str) -> Vec<String> {
    let code = without_tests(&blank(source));
    let lines: Vec<&str> = source.lines().collect();
    let layer = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let may = |allowed: &[&str]| allowed.contains(&layer) || allowed.contains(&name);
    let mut found = Vec::new();
    let mut report = |at: usize, what: String| {
        let line = code[..at].matches('\n').count() + 1;
        found.push(format!("src/{name}:{line}: {what}"));
    };

    match LAYERS.iter().find(|(known, _)| *known == layer) {
        Some((_, below)) => {
            for (at, target) in layer_paths(name, &code) {
                if target != layer && !below.contains(&target.as_str()) {
                    report(at, format!("{layer} names {target}"));
                }
            }
        }
        None if matches!(layer, "lib" | "main") => {}
        None => report(0, format!("{layer} is no layer that tests/it/layering.rs knows")),
    }
    for (at, _) in code.match_indices('*') {
        let before = code[..at].trim_end().ends_with([':', '{', ',']);
        if before && code[at + 1..].trim_start().starts_with([';', ',', '}']) {
            report(at, "a glob import".to_owned());
        }
    }
    for (word, _) in WORDS.iter().filter(|(_, allowed)| !may(allowed)) {
        for at in words(&code, word) {
            report(at, format!("`{word}` in {layer}"));
        }
    }
    for (root, module, _) in FOREIGN.iter().filter(|(_, _, allowed)| !may(allowed)) {
        for (at, segment) in segments_after(&code, &format!("{root}::")) {
            if segment == *module {
                report(at, format!("`{root}::{module}` in {layer}"));
            }
        }
    }
    for word in PANICS {
        for at in words(&code, word) {
            report(at, format!("`{word}`"));
        }
    }
    for word in EXCUSABLE {
        for at in words(&code, word) {
            let line = code[..at].matches('\n').count();
            let above = line.checked_sub(1).map_or("", |above| lines[above].trim_start());
            if !lines[line].contains(EXCUSE) && !above.starts_with(EXCUSE) {
                report(at, format!("`{word}` without a comment `{EXCUSE}`"));
            }
        }
    }
    for at in words(&code, "static").into_iter().filter(|at| !code[..*at].ends_with('\'')) {
        let item = code[at..].split(['=', ';']).next().unwrap_or_default();
        // The command line has signal handlers, and they can reach nothing but statics.
        let excused = layer == "cli" && item.contains("Atomic");
        if STATE.iter().any(|state| item.contains(state)) && !excused {
            report(at, "global state".to_owned());
        }
    }
    for word in ["lazy_static!", "thread_local!"] {
        for at in words(&code, word) {
            report(at, "global state".to_owned());
        }
    }
    if lines.len() > MAX_LINES {
        report(0, format!("{} lines, more than {MAX_LINES}", lines.len()));
    }
    found
}

/// Where `word` begins, wherever it is not part of a longer identifier.
fn words(code: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let is_word = |(at, _): &(usize, &str)| {
        let before = code[..*at].chars().next_back().is_some_and(part) && word.starts_with(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part) && word.ends_with(part);
        !before && !after
    };
    code.match_indices(word).filter(is_word).map(|(at, _)| at).collect()
}

/// The layers that a file's paths lead to: through `crate::`, or through `super::` up to the crate's root.
fn layer_paths(name: &str, code: &str) -> Vec<(usize, String)> {
    let depth = name.trim_end_matches(".rs").split('/').count();
    let mut paths = segments_after(code, "crate::");
    for ups in depth..=depth + 2 {
        paths.extend(segments_after(code, &"super::".repeat(ups)));
    }
    paths.retain(|(_, segment)| LAYERS.iter().any(|(layer, _)| layer == segment));
    paths
}

/// The first identifiers that follow `prefix`, several where a group in braces follows.
fn segments_after(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut segments = Vec::new();
    for at in words(code, prefix) {
        let rest = &code[at + prefix.len()..];
        let identifier = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(group) = rest.trim_start().strip_prefix('{') else {
            segments.push((at, identifier(rest.trim_start())));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (offset, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    segments.push((at, identifier(&group[offset..])));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    segments
}

/// The source with comments and the inside of literals turned into blanks, at the same length in lines.
fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut index = 0;
    while index < chars.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => (index..chars.len()).find(|i| at(*i) == '\n').unwrap_or(chars.len()),
            ('/', '*') => end_of_block_comment(&chars, index),
            ('"', _) => end_of_string(&chars, index + 1),
            ('r', '"' | '#') if !is_identifier_before(&chars, index) => end_of_raw_string(&chars, index),
            ('\'', '\\') => (index + 3..chars.len()).find(|i| at(*i) == '\'').map_or(chars.len(), |i| i + 1),
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        if end == index {
            out.push(chars[index]);
            index += 1;
        } else {
            out.extend(chars[index..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            index = end;
        }
    }
    out
}

fn is_identifier_before(chars: &[char], index: usize) -> bool {
    let part = |c: &char| c.is_alphanumeric() || *c == '_';
    match chars[..index] {
        [.., before, 'b' | 'c'] => part(&before),
        ['b' | 'c'] => false,
        [.., before] => part(&before),
        [] => false,
    }
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut index) = (0, start);
    while index < chars.len() {
        match chars[index..] {
            ['/', '*', ..] => (depth, index) = (depth + 1, index + 2),
            ['*', '/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut index = start;
    while index < chars.len() {
        match chars[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    chars.len()
}

/// The end of the raw string at `start`, or `start` itself for a raw identifier.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes = |index: &usize| {
        chars[*index] == '"' && chars[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |index| index + 1 + hashes)
}

/// The code with the body of each `#[cfg(test)] mod` turned into blanks.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let rest = &code[at..];
        let Some(open) = rest.find(['{', ';']).filter(|open| rest[*open..].starts_with('{')) else { continue };
        if words(&rest[..open], "mod").is_empty() {
            continue;
        }
        let mut depth = 0;
        let close = rest[open..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        });
        let end = at + close.map_or(rest.len(), |(close, _)| open + close);
        let blanks: String = code[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        let padded = format!("{blanks}{}", " ".repeat(end - at - blanks.len()));
        out.replace_range(at..end, &padded);
    }
    out
}

#[test]
fn planted_violations_are_found() {
    for (name, source, expected) in [
        ("format/pack.rs", "use crate::repo::Writer;", "src/format/pack.rs:1: format names repo"),
        ("format.rs", "\n\nfn f(x: crate::backend::Stat) {}", "src/format.rs:3: format names backend"),
        ("repo/gc.rs", "use crate::source::Files;", "repo names source"),
        ("source/files.rs", "use crate::{format::Kind, repo::Reader};", "source names repo"),
        ("source/files.rs", "use crate::{\n    format::{Kind, ObjectId},\n    cli,\n};", "source names cli"),
        ("repo.rs", "use super::orchestrate::run;", "repo names orchestrate"),
        ("repo/index.rs", "use super::super::source;", "repo names source"),
        ("repo/index/look_up.rs", "use super::super::super::{source};", "repo names source"),
        ("orchestrate/backup.rs", "use crate::cli::render;", "orchestrate names cli"),
        ("progress.rs", "use crate::format::Kind;", "progress names format"),
        ("retention.rs", "use crate::repo::Snapshots;", "retention names repo"),
        ("helper.rs", "fn f() {}", "helper is no layer"),
        ("repo.rs", "use crate::format::*;", "a glob import"),
        ("repo.rs", "use std::{io::{self, *}, fmt};", "a glob import"),
        ("repo.rs", "fn f(x: *const u8) {}\nuse std::{*, io};", "src/repo.rs:2: a glob import"),
        ("repo.rs", "fn f() { println!(\"x\") }", "`println!` in repo"),
        ("repo.rs", "fn f() { eprint!(\"x\") }", "`eprint!` in repo"),
        ("cli/render.rs", "fn f() { dbg!(1); }", "`dbg!` in cli"),
        ("orchestrate.rs", "use clap::Parser;", "`clap` in orchestrate"),
        ("orchestrate.rs", "#[derive(clap::Args)]", "`clap` in orchestrate"),
        ("repo.rs", "use indicatif::ProgressBar;", "`indicatif` in repo"),
        ("repo.rs", "fn f() -> anyhow::Result<()> {}", "`anyhow` in repo"),
        ("cli.rs", "use tokio::fs;", "`tokio` in cli"),
        ("repo/index.rs", "use std::fs;", "`std::fs` in repo"),
        ("repo/index.rs", "use std::{fs::File, io};", "`std::fs` in repo"),
        ("orchestrate.rs", "rustix::fs::open()", "`rustix::fs` in orchestrate"),
        ("repo/cache.rs", "use rustix::fs::open;", "`rustix::fs` in repo"),
        ("format/id.rs", "x.unwrap()", "`.unwrap()`"),
        ("format/id.rs", "x.expect(\"no\")", "`.expect(` without"),
        ("format/id.rs", "// Infallible: far away.\n\nx.expect(\"no\")", "`.expect(` without"),
        ("format/id.rs", "let text = \"// nothing\"; panic!()", "`panic!`"),
        ("cli.rs", "todo!()", "`todo!`"),
        ("cli.rs", "let c = '\"'; unimplemented!(); let d = '\"';", "`unimplemented!`"),
        ("cli.rs", "fn f<'a>(x: &'a str) -> &'a str { unreachable!() }", "`unreachable!` without"),
        ("cli.rs", "static mut COUNT: u8 = 0;", "global state"),
        ("repo.rs", "static ALL: LazyLock<Vec<u8>> = LazyLock::new(Vec::new);", "global state"),
        ("repo.rs", "static COUNT: AtomicU64 = AtomicU64::new(0);", "global state"),
        ("repo.rs", "thread_local! { static X: u8 = 0; }", "global state"),
        ("repo.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { x.unwrap() }", "src/repo.rs:3: `.unwrap()`"),
        ("repo.rs", "#[cfg(test)]\nuse a::b;\nmod c { fn g() { x.unwrap() } }", "`.unwrap()`"),
    ] {
        let found = scan(name, source);
        assert!(found.iter().any(|line| line.contains(expected)), "{source:?} in {name} gave {found:?}");
    }
    let long = scan("repo.rs", &"\n".repeat(MAX_LINES + 1));
    assert_eq!(long, [format!("src/repo.rs:1: {} lines, more than {MAX_LINES}", MAX_LINES + 1)]);
}

#[test]
fn innocent_sources_pass() {
    for (name, source) in [
        ("repo/gc.rs", "use crate::{backend::{Backend, list_all}, format::Kind, progress, retention};"),
        ("repo/gc.rs", "//! See [`crate::cli`] and `println!`.\n/* crate::source /* panic! */ todo!() */"),
        (
            "repo/gc.rs",
            "let x = \"crate::source \\\" .unwrap()\"; let y = r#\"tokio \" dbg!()\"#; let z = br\"anyhow\";",
        ),
        ("repo/gc.rs", "use super::index; use super::super::format; let r#static = 'x'; fn f(x: &'static str) {}"),
        ("repo/gc.rs", "let product = 2 * 3; x.unwrap_or_else(|e| e); x.expect_err(1); collapse(clapped)"),
        ("repo/gc.rs", "x.expect(\"32 bytes\") // Infallible: the array has that length."),
        ("repo/gc.rs", "    // Infallible: it was just inserted.\n    x.expect(\"there\");"),
        ("repo/gc.rs", "static TABLE: [u8; 2] = [1, 2]; struct S { once: OnceLock<u8> }"),
        ("repo/gc.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::*;\n    fn g() { { x.unwrap() } }\n}\n"),
        ("repo/cache.rs", "use std::fs;"),
        ("source/files.rs", "use std::{fs, io}; use crate::format::tree; use crate::progress::Monitor;"),
        ("cli/render.rs", "use clap::Parser; use crate::{orchestrate, repo, source}; fn f() { println!(\"x\") }"),
        ("cli/signal.rs", "static STOP: AtomicBool = AtomicBool::new(false);"),
        ("main.rs", "fn main() -> anyhow::Result<()> { cairn::cli::main() }"),
    ] {
        assert_eq!(scan(name, source), Vec::<String>::new(), "{source}");
    }
}
