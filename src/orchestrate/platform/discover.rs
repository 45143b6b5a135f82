//! What of a profile's paths is there: globs expanded, template units with their instances, and the key and certificate
//! files that configuration files name.
//!
//! * [`expand`]: listed paths and globs against the real files; instances of template units.
//! * `keys` and one module for each format: what configuration files say of keys.
//!
//! Invariants: nothing is left out silently: a path that is not there, cannot be read, or cannot be known is told. What
//! a symbolic link leads to is found besides the link, because a saved link alone restores nothing. Files are hostile:
//! their size, their number and the length of every chain of includes is bounded.

mod elasticsearch;
pub mod expand;
mod keys;
mod neo4j;
mod nginx;
mod postgres;
mod python;
mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::format::record::PathText;
use crate::orchestrate::platform::files::{Files, Kind};
use crate::orchestrate::platform::profile::Profile;

/// What of a profile's paths is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    /// Configuration files, by the profile's groups.
    pub groups: BTreeMap<String, Vec<Finding>>,
    /// Key and certificate files.
    pub keys: Vec<KeyFinding>,
    /// What could not be known: each makes the component partial.
    pub gaps: Vec<Note>,
    /// What the operator should look at.
    pub notes: Vec<Note>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The path; for an absent glob, the glob.
    pub path: PathText,
    /// Whether it is there.
    #[serde(flatten)]
    pub state: State,
    /// How it was found, if it is not listed itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
}

impl Finding {
    /// True when it is a glob that stands for nothing, or could not be expanded: it is no path.
    fn is_unexpanded(&self) -> bool {
        matches!(&self.via, Some(Via::Glob(glob)) if glob.as_bytes() == self.path.0)
    }
}

/// Whether a path is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It is, and can be read.
    Present {
        /// `file`, `directory`, `link` or `special`.
        kind: String,
        /// A file's length.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// It is not.
    Absent,
    /// It cannot be read, or it cannot be known whether it is there.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// How a path was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// It matches this glob.
    Glob(String),
    /// It is an instance of this template unit, or changes one.
    Template(PathText),
    /// This symbolic link leads to it.
    Link(PathText),
}

/// A key or certificate file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFinding {
    /// The file or directory.
    #[serde(flatten)]
    pub found: Finding,
    /// What names it; absent when the profile lists it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_by: Option<Naming>,
}

/// Where a path is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// The configuration file.
    pub file: PathText,
    /// The line, from 1.
    pub line: u64,
    /// The setting.
    pub setting: String,
}

/// Something about a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The file.
    pub file: PathText,
    /// The line, from 1; absent for the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is to be known.
    pub text: String,
}

/// Looks for everything that the profile lists.
pub fn discover(profile: &Profile, files: &Files) -> Discovery {
    let mut discovery = Discovery::default();
    for (name, group) in &profile.config.groups {
        let mut found: Vec<Finding> = group.paths.iter().flat_map(|path| expand::listed(files, path)).collect();
        let instances = expand::instances(files, &found, &mut discovery.gaps);
        found.extend(instances);
        discovery.groups.insert(name.clone(), without_repetition(found));
    }
    let listed = profile.keys.paths.iter().flat_map(|path| expand::listed(files, path));
    discovery.keys = listed.map(|found| KeyFinding { found, named_by: None }).collect();
    keys::search(profile, files, &mut discovery);
    discovery
}

impl Discovery {
    /// All findings, those of keys last.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.groups.values().flatten().chain(self.keys.iter().map(|key| &key.found))
    }

    /// What is to be saved: every path that is there, readable or not, once.
    pub fn roots(&self) -> Vec<PathBuf> {
        let there = self.findings().filter(|found| found.state != State::Absent && !found.is_unexpanded());
        let paths: BTreeSet<PathBuf> = there.map(|found| path_of(&found.path)).collect();
        paths.into_iter().collect()
    }

    /// How many paths are there, not there, not readable.
    pub fn counts(&self) -> (usize, usize, usize) {
        let of = |wanted: fn(&State) -> bool| self.findings().filter(|found| wanted(&found.state)).count();
        (
            of(|state| matches!(state, State::Present { .. })),
            of(|state| *state == State::Absent),
            of(|state| matches!(state, State::Unreadable { .. })),
        )
    }
}

fn without_repetition(found: Vec<Finding>) -> Vec<Finding> {
    let mut known = BTreeSet::new();
    found.into_iter().filter(|finding| known.insert(finding.path.clone())).collect()
}

fn path_text(path: &Path) -> PathText {
    PathText(path.as_os_str().as_bytes().to_vec())
}

fn path_of(path: &PathText) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&path.0))
}

/// What is at a path, and whether it can be read.
fn state(files: &Files, path: &Path) -> (State, Option<Kind>) {
    let looked = files.kind(path).and_then(|kind| files.try_to_read(path, &kind).map(|()| kind));
    match looked {
        Ok(kind) => {
            let (name, bytes) = match &kind {
                Kind::File { bytes } => ("file", Some(*bytes)),
                Kind::Directory => ("directory", None),
                Kind::Link { .. } => ("link", None),
                Kind::Special => ("special", None),
            };
            (State::Present { kind: name.to_owned(), bytes }, Some(kind))
        }
        Err(error) if is_absent(&error) => (State::Absent, None),
        Err(error) => (State::Unreadable { why: error.to_string() }, None),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
