//! Patterns that select paths, for `--exclude`, `--include` and `find`.
//!
//! A pattern that begins with `/` is compared with the whole absolute path. Any other is compared with the end of the
//! path, from the beginning of a component: `*.tmp`, `node_modules`, `cache/*.bin`. `*` and `?` do not match `/`; `**`
//! does; `[...]` and `{a,b}` work as in a shell. A directory that matches is selected with all that is in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::source::error::SourceError;

/// A set of patterns.
#[derive(Debug, Clone)]
pub struct Patterns {
    set: GlobSet,
}

impl Patterns {
    /// Reads patterns.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, SourceError> {
        let mut builder = GlobSetBuilder::new();
        let failed = |pattern: &str, why: String| SourceError::Pattern { pattern: pattern.to_owned(), why };
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let trimmed = pattern.trim_end_matches('/');
            if trimmed.is_empty() {
                return Err(failed(pattern, "it is empty".to_owned()));
            }
            let text = if trimmed.starts_with('/') { trimmed.to_owned() } else { format!("/**/{trimmed}") };
            let glob = GlobBuilder::new(&text).literal_separator(true).backslash_escape(true).build();
            builder.add(glob.map_err(|error| failed(pattern, error.kind().to_string()))?);
        }
        let set = builder.build().map_err(|error| failed("", error.to_string()))?;
        Ok(Patterns { set })
    }

    /// True when there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Whether this path (of a tree: without the leading `/`) itself matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.set.is_empty() {
            return false;
        }
        let absolute = [b"/", path].concat();
        self.set.is_match(OsStr::from_bytes(&absolute))
    }

    /// Whether this path or a directory above it matches.
    pub fn matches_with_parents(&self, path: &[u8]) -> bool {
        if self.set.is_empty() {
            return false;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        self.matches(path) || slashes.into_iter().any(|index| self.matches(&path[..index]))
    }
}
