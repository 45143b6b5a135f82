//! From configuration files to the key and certificate files that they name.
//!
//! Each format has a module that turns a text into [`Item`]s; here the files are read, includes followed, and relative
//! paths completed. A file is read once in a search, so a cycle of includes ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Discovery, KeyFinding, Naming, Note, elasticsearch, expand, is_absent, neo4j, nginx, path_text, postgres};
use super::{python, redis};
use crate::orchestrate::platform::files::{Files, tidy};
use crate::orchestrate::platform::profile::{PathPattern, Profile};

/// A search reads at most so many files.
const MAX_FILES: usize = 2000;
/// A search follows at most so many includes, and as many files that they stand for, one file several times.
const MAX_INCLUDED: usize = 20_000;
/// A search finds at most so many keys.
const MAX_KEYS: usize = 2000;

/// Something that a configuration file says.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// This file or directory holds keys or certificates.
    Key(String),
    /// It does, unless a setting of the same name says otherwise.
    Default(String),
    /// Further files, a path or glob.
    Include(String),
    /// Files that need not be there.
    IncludeIfExists(String),
    /// All files in a directory whose names end so.
    IncludeDirectory(String, &'static str),
    /// Where relative paths begin.
    Base(String),
    /// What cannot be followed, and why.
    Unclear(String),
}

/// Something that a configuration file says, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// The line, from 1.
    pub line: usize,
    /// The setting.
    pub setting: String,
    /// What it says.
    pub what: What,
}

/// How a format is read.
struct Format {
    read: fn(&str) -> Vec<Item>,
    /// Relative paths, of keys and of includes, begin at the directory of the file that was listed, not of the one that
    /// was included.
    from_listed: bool,
    /// Where relative paths of keys begin, if the files do not say.
    base: Option<PathBuf>,
}

/// Follows all configuration files that the profile names.
pub fn search(profile: &Profile, files: &Files, discovery: &mut Discovery) {
    let format = |read| Format { read, from_listed: false, base: None };
    let data = profile.postgres.data_directories.iter().find(|path| files.kind(path).is_ok()).cloned();
    let search = &profile.keys.search;
    for (format, listed) in [
        (Format { from_listed: true, ..format(nginx::read) }, &search.nginx),
        (Format { base: data, ..format(postgres::read) }, &search.postgres),
        (format(elasticsearch::read), &search.elasticsearch),
        (Format { base: Some(profile.neo4j.home.clone()), ..format(neo4j::read) }, &search.neo4j),
        (Format { from_listed: true, ..format(redis::read) }, &search.redis),
        (format(python::read), &search.python),
    ] {
        let mut search =
            Search { format, files, discovery, read: BTreeSet::new(), included: 0, keys: Vec::new(), base: None };
        for pattern in listed {
            search.listed(pattern);
        }
        search.finish();
    }
}

struct Search<'a> {
    format: Format,
    files: &'a Files,
    discovery: &'a mut Discovery,
    read: BTreeSet<PathBuf>,
    included: usize,
    keys: Vec<Key>,
    base: Option<PathBuf>,
}

struct Key {
    naming: Naming,
    value: String,
    /// Where it begins if it is relative.
    directory: PathBuf,
    is_default: bool,
}

/// A file that is still to be read.
struct Due {
    file: PathBuf,
    /// Where its relative paths begin.
    directory: PathBuf,
}

impl Search<'_> {
    /// Reads a listed file, or those of a glob, and everything they include.
    fn listed(&mut self, pattern: &PathPattern) {
        for file in self.expand(pattern, Path::new(pattern.as_str()), None) {
            let mut left = vec![Due { directory: parent(&file), file }];
            while let Some(due) = left.pop() {
                let mut more = self.file(&due);
                // The last one in is the next one out: in the order of the text.
                more.reverse();
                left.extend(more);
            }
        }
    }

    /// The files that a path or glob stands for.
    fn expand(&mut self, pattern: &PathPattern, from: &Path, line: Option<usize>) -> Vec<PathBuf> {
        if !pattern.is_glob() {
            return vec![PathBuf::from(pattern.as_str())];
        }
        let (paths, failures) = expand::matches(self.files, pattern);
        for failure in failures {
            self.gap(from, line, format!("{pattern}: {failure}, so the keys it names are not all known"));
        }
        paths
    }

    /// Reads a file; what it includes is returned.
    fn file(&mut self, due: &Due) -> Vec<Due> {
        let file = &due.file;
        if self.read.contains(file) {
            return Vec::new();
        }
        if self.read.len() == MAX_FILES {
            self.gap(file, None, format!("more than {MAX_FILES} files would be searched for keys; this is not"));
            return Vec::new();
        }
        self.read.insert(file.clone());
        let text = match self.files.text(file) {
            Ok(text) => text,
            // That it is not there is told where it is listed.
            Err(error) if is_absent(&error) => return Vec::new(),
            Err(error) => {
                self.gap(file, None, format!("it cannot be searched for keys: {error}"));
                return Vec::new();
            }
        };
        let mut more = Vec::new();
        for item in (self.format.read)(&text) {
            self.item(due, item, &mut more);
        }
        more
    }

    fn item(&mut self, due: &Due, item: Item, more: &mut Vec<Due>) {
        let Item { line, setting, what } = item;
        let is_default = matches!(what, What::Default(_));
        match what {
            What::Key(value) | What::Default(value) => self.key(due, (line, setting), value, is_default),
            What::Base(directory) => self.base = Some(tidy(&due.directory.join(directory))),
            What::Unclear(why) => {
                self.note(due, line, format!("`{setting}` cannot be followed: {why}; list its files in [keys] paths"));
            }
            What::Include(path) => self.include(due, line, &path, true, more),
            What::IncludeIfExists(path) => self.include(due, line, &path, false, more),
            What::IncludeDirectory(path, end) => {
                let directory = tidy(&due.directory.join(path));
                match self.files.names(&directory) {
                    Ok(names) => {
                        let names = names.into_iter().map(|name| directory.join(name));
                        let fitting = names.filter(|path| path.to_string_lossy().ends_with(end)).collect();
                        self.add(due, line, fitting, more);
                    }
                    Err(error) if is_absent(&error) => {}
                    Err(error) => {
                        let text = format!("cannot list {}, so its keys are not known: {error}", directory.display());
                        self.gap(&due.file, Some(line), text);
                    }
                }
            }
        }
    }

    fn key(&mut self, due: &Due, (line, setting): (usize, String), value: String, is_default: bool) {
        if self.keys.len() == MAX_KEYS {
            let text = format!("more than {MAX_KEYS} keys are named; `{setting}` is left out");
            return self.gap(&due.file, Some(line), text);
        }
        let naming = Naming { file: path_text(&due.file), line: line as u64, setting };
        self.keys.push(Key { naming, value, directory: due.directory.clone(), is_default });
    }

    fn include(&mut self, due: &Due, line: usize, path: &str, required: bool, more: &mut Vec<Due>) {
        let whole = tidy(&due.directory.join(path));
        let pattern = whole.to_str().and_then(|text| text.parse::<PathPattern>().ok());
        let Some(pattern) = pattern else {
            let text = format!("the include {path:?} cannot be followed, so the keys it names are not known");
            return self.gap(&due.file, Some(line), text);
        };
        if required && !pattern.is_glob() && self.files.kind(&whole).is_err_and(|error| is_absent(&error)) {
            self.note(due, line, format!("it includes {pattern}, which is not there"));
        }
        // Once there are too many, which was told, nothing more is expanded.
        if self.included < MAX_INCLUDED {
            let expanded = self.expand(&pattern, &due.file, Some(line));
            self.add(due, line, expanded, more);
        }
    }

    /// Adds included files to those that are still to be read.
    fn add(&mut self, due: &Due, line: usize, included: Vec<PathBuf>, more: &mut Vec<Due>) {
        self.included += included.len() + 1;
        if self.included >= MAX_INCLUDED {
            return self.gap(&due.file, Some(line), "too much is included to be searched for keys".to_owned());
        }
        more.extend(included.into_iter().map(|file| Due { directory: self.start(due, &file), file }));
    }

    /// Where the relative paths of an included file begin.
    fn start(&self, due: &Due, included: &Path) -> PathBuf {
        if self.format.from_listed { due.directory.clone() } else { parent(included) }
    }

    fn gap(&mut self, file: &Path, line: Option<usize>, text: String) {
        if self.discovery.gaps.len() < MAX_KEYS {
            self.discovery.gaps.push(Note { file: path_text(file), line: line.map(|line| line as u64), text });
        }
    }

    fn note(&mut self, due: &Due, line: usize, text: String) {
        if self.discovery.notes.len() < MAX_KEYS {
            self.discovery.notes.push(Note { file: path_text(&due.file), line: Some(line as u64), text });
        }
    }

    /// Completes relative paths, now that all files have been read, and looks at each.
    fn finish(self) {
        let keys = self.keys.iter();
        let said: BTreeSet<&str> =
            keys.clone().filter(|key| !key.is_default).map(|key| key.naming.setting.as_str()).collect();
        let mut known: BTreeSet<(PathBuf, &str)> = BTreeSet::new();
        for key in keys.filter(|key| !key.is_default || !said.contains(key.naming.setting.as_str())) {
            let base = self.base.as_ref().or(self.format.base.as_ref()).unwrap_or(&key.directory);
            let path = tidy(&base.join(&key.value));
            if !known.insert((path.clone(), &key.naming.setting)) {
                continue;
            }
            for found in expand::with_targets(self.files, &path, None) {
                self.discovery.keys.push(KeyFinding { found, named_by: Some(key.naming.clone()) });
            }
        }
    }
}

fn parent(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).to_owned()
}

/// A value without the quotes around it.
pub fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let inner = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}
