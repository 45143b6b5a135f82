//! Listed paths and globs against the real files, what symbolic links lead to, and the instances of template units.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Finding, Note, State, Via, is_absent, path_of, path_text, state};
use crate::format::record::PathText;
use crate::orchestrate::platform::files::{Files, Kind, tidy};
use crate::orchestrate::platform::profile::PathPattern;
use crate::orchestrate::platform::profile::value::{component_glob, is_glob};

/// A glob stands for at most so many paths.
const MAX_MATCHES: usize = 10_000;
/// So many symbolic links are followed from one path.
const MAX_CHAIN: usize = 16;
/// Where the units of the machine are, and those that its packages brought.
const UNIT_DIRECTORIES: [&str; 2] = ["/etc/systemd/system", "/lib/systemd/system"];

/// A listed path or glob: each path that it stands for, and what symbolic links lead to. At least one finding.
pub fn listed(files: &Files, pattern: &PathPattern) -> Vec<Finding> {
    if !pattern.is_glob() {
        return with_targets(files, Path::new(pattern.as_str()), None);
    }
    let via = || Some(Via::Glob(pattern.to_string()));
    let whole = || PathText(pattern.as_str().as_bytes().to_vec());
    let (matches, failures) = matches(files, pattern);
    let mut found: Vec<Finding> = Vec::new();
    for path in matches {
        let reached = with_targets(files, &path, via());
        if reached.first().is_some_and(|finding| finding.state != State::Absent) {
            found.extend(reached);
        }
    }
    for why in failures {
        found.push(Finding { path: whole(), state: State::Unreadable { why }, via: via() });
    }
    if found.is_empty() {
        found.push(Finding { path: whole(), state: State::Absent, via: via() });
    }
    found
}

/// The paths that a glob could stand for, and why some may be missing. Names that begin with a dot match only a pattern
/// that does.
pub fn matches(files: &Files, pattern: &PathPattern) -> (Vec<PathBuf>, Vec<String>) {
    let mut paths = vec![PathBuf::from("/")];
    let mut failures = Vec::new();
    for component in pattern.components() {
        if !is_glob(component) {
            paths.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let glob = match component_glob(component) {
            Ok(glob) => glob,
            Err(why) => return (Vec::new(), vec![why]),
        };
        let mut next = Vec::new();
        for directory in &paths {
            match files.names(directory) {
                Ok(names) => {
                    let hidden = |name: &OsStr| name.as_bytes().starts_with(b".") && !component.starts_with('.');
                    let fitting = names.iter().filter(|name| glob.is_match(name) && !hidden(name));
                    next.extend(fitting.map(|name| directory.join(name)));
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => failures.push(format!("cannot list {}: {error}", directory.display())),
            }
            if next.len() > MAX_MATCHES {
                failures.push(format!("it stands for more than {MAX_MATCHES} paths"));
                next.truncate(MAX_MATCHES);
                break;
            }
        }
        paths = next;
    }
    (paths, failures)
}

/// A path, and as long as it is a symbolic link, what it leads to.
pub fn with_targets(files: &Files, path: &Path, via: Option<Via>) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut path, mut via) = (path.to_owned(), via);
    for _ in 0..MAX_CHAIN {
        let (state, kind) = state(files, &path);
        found.push(Finding { path: path_text(&path), state, via });
        let Some(Kind::Link { target }) = kind else { return found };
        via = Some(Via::Link(path_text(&path)));
        path = tidy(&path.parent().unwrap_or(Path::new("/")).join(target));
    }
    let why = format!("more than {MAX_CHAIN} symbolic links lead to it");
    found.push(Finding { path: path_text(&path), state: State::Unreadable { why }, via });
    found
}

/// For each template unit (`NAME@.service`) among the findings: the instances that are enabled, defined or changed.
pub fn instances(files: &Files, found: &[Finding], gaps: &mut Vec<Note>) -> Vec<Finding> {
    let templates: Vec<(PathBuf, String, String)> = found.iter().filter_map(template).collect();
    if templates.is_empty() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for path in unit_files(files, gaps) {
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        for (template, stem, suffix) in &templates {
            let unit = name.strip_suffix(".d").unwrap_or(name);
            let instance = unit.strip_prefix(stem.as_str()).and_then(|rest| rest.strip_suffix(suffix.as_str()));
            // A drop-in directory of the template itself changes all its instances.
            if instance.is_some_and(|instance| !instance.is_empty() || unit != name) {
                all.extend(with_targets(files, &path, Some(Via::Template(path_text(template)))));
            }
        }
    }
    all
}

/// A template unit's path, and what stands before and after the name of an instance.
fn template(found: &Finding) -> Option<(PathBuf, String, String)> {
    let path = path_of(&found.path);
    let name = path.file_name()?.to_str()?;
    let at = name.find("@.").filter(|_| matches!(found.state, State::Present { .. }))?;
    let (stem, suffix) = (name[..=at].to_owned(), name[at + 1..].to_owned());
    Some((path, stem, suffix))
}

/// Everything in the directories of units, and in their directories of what is wanted.
fn unit_files(files: &Files, gaps: &mut Vec<Note>) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for directory in UNIT_DIRECTORIES.map(PathBuf::from) {
        for path in listing(files, &directory, gaps) {
            let end = path.extension().unwrap_or_default();
            if end == "wants" || end == "requires" {
                all.extend(listing(files, &path, gaps));
            } else {
                all.push(path);
            }
        }
    }
    all
}

fn listing(files: &Files, directory: &Path, gaps: &mut Vec<Note>) -> Vec<PathBuf> {
    match files.names(directory) {
        Ok(names) => names.into_iter().map(|name| directory.join(name)).collect(),
        Err(error) if is_absent(&error) => Vec::new(),
        Err(error) => {
            let text = format!("it cannot be searched for instances of template units: {error}");
            gaps.push(Note { file: path_text(directory), line: None, text });
            Vec::new()
        }
    }
}
