//! Globs that select paths: what `--exclude` and `--include` take, and `find`.
//!
//! A pattern that begins with `/` matches a whole absolute path. Any other matches the end of a path, from the
//! beginning of a component: `*.tmp` and `node_modules` match at any depth, `cache/*` matches what lies directly in
//! any directory named `cache`. A pattern that ends in `/` matches directories only.
//!
//! | in a pattern | matches |
//! |---|---|
//! | `?` | one byte, but no `/` |
//! | `*` | any bytes but `/`, also none |
//! | `**` between slashes, or at the beginning or end | any number of components, also none (at the end: one or more) |
//! | `[ab]`, `[a-z]`, `[!a]` | one byte of, or not of, the class |
//! | `{a,b}` | either |
//! | `\x` | `x` itself |
//!
//! Names are bytes: a character beyond ASCII is several of them, and a name that is not UTF-8 is matched with `?` or
//! `*`. Capital letters are not small ones. A directory that is excluded takes everything in it along.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::format::codec::escape;
use crate::source::SourceError;

/// A set of patterns; an empty set matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    any: GlobSet,
    directories: GlobSet,
    globs: Vec<Vec<u8>>,
}

impl Patterns {
    /// Compiles patterns. Each must be UTF-8 and not empty.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, SourceError> {
        let (mut any, mut directories, mut globs) = (GlobSetBuilder::new(), GlobSetBuilder::new(), Vec::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let invalid = |why: &str| SourceError::Pattern { pattern: escape(pattern), why: why.to_owned() };
            let text = str::from_utf8(pattern)
                .map_err(|_| invalid("it is not UTF-8: put `?` in place of each byte that is not"))?;
            let (body, set) = match text.strip_suffix('/') {
                Some(body) => (body, &mut directories),
                None => (text, &mut any),
            };
            let glob = match body.strip_prefix('/') {
                Some(absolute) => absolute.to_owned(),
                None if body.is_empty() => return Err(invalid("it is empty")),
                None => format!("**/{body}"),
            };
            let glob = GlobBuilder::new(&glob)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|e| invalid(&e.kind().to_string()))?;
            set.add(glob);
            globs.push(pattern.to_vec());
        }
        let built = |set: GlobSetBuilder| {
            set.build().map_err(|e| SourceError::Pattern {
                pattern: e.glob().unwrap_or_default().to_owned(),
                why: e.kind().to_string(),
            })
        };
        Ok(Patterns { any: built(any)?, directories: built(directories)?, globs })
    }

    /// True when there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    /// The patterns as they were given.
    pub fn globs(&self) -> &[Vec<u8>] {
        &self.globs
    }

    /// Whether a pattern matches this very path (as in a tree: without the `/` at its beginning).
    pub fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let candidate = Candidate::from_bytes(path);
        self.any.is_match_candidate(&candidate) || (is_directory && self.directories.is_match_candidate(&candidate))
    }

    /// Whether a pattern matches this path or a directory above it.
    pub fn covers(&self, path: &[u8], is_directory: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        !self.is_empty()
            && (above.into_iter().any(|directory| self.matches(directory, true)) || self.matches(path, is_directory))
    }
}
