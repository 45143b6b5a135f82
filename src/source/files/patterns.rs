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
//! Names are bytes, and so are patterns: a character beyond ASCII is several bytes, and a byte that is not UTF-8 stands
//! for itself. Capital letters are not small ones. A directory that is excluded takes everything in it along.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::format::codec::escape;
use crate::source::SourceError;

/// The character that stands for the byte 0 of a pattern while globset, which takes text, reads it; the others follow.
/// It is the end of the last private-use plane.
const STAND_IN: u32 = 0x10_FF00;

/// A set of patterns; an empty set matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    any: Set,
    directories: Set,
    globs: Vec<Vec<u8>>,
}

/// Patterns that are text, and those that are not.
#[derive(Clone, Debug, Default)]
struct Set {
    text: GlobSet,
    bytes: RegexSet,
}

struct SetBuilder {
    text: GlobSetBuilder,
    bytes: Vec<String>,
}

impl Set {
    fn matches(&self, path: &Candidate<'_>, bytes: &[u8]) -> bool {
        self.text.is_match_candidate(path) || (!self.bytes.is_empty() && self.bytes.is_match(bytes))
    }
}

impl SetBuilder {
    fn new() -> Self {
        SetBuilder { text: GlobSetBuilder::new(), bytes: Vec::new() }
    }

    fn build(self) -> Result<Set, SourceError> {
        let unbuilt = |pattern: String, why: String| SourceError::Pattern { pattern, why };
        let text =
            self.text.build().map_err(|e| unbuilt(e.glob().unwrap_or_default().to_owned(), e.kind().to_string()))?;
        let bytes = RegexSetBuilder::new(&self.bytes).unicode(false).dot_matches_new_line(true).build();
        Ok(Set { text, bytes: bytes.map_err(|e| unbuilt(self.bytes.join(", "), e.to_string()))? })
    }
}

impl Patterns {
    /// The pattern that matches just this path, and what is below it.
    pub fn literal(path: &Path) -> Vec<u8> {
        let special = |byte: &u8| b"\\*?[]{}!".contains(byte);
        let bytes = path.as_os_str().as_bytes();
        bytes.iter().flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
    }

    /// Compiles patterns, none of which may be empty.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, SourceError> {
        let (mut any, mut directories, mut globs) = (SetBuilder::new(), SetBuilder::new(), Vec::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let invalid = |why: &str| SourceError::Pattern { pattern: escape(pattern), why: why.to_owned() };
            let text = as_text(pattern).ok_or_else(|| invalid("it mixes private-use characters with other bytes"))?;
            let (body, set) = match text.strip_suffix('/') {
                Some(body) => (body, &mut directories),
                None => (text.as_str(), &mut any),
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
            match str::from_utf8(pattern) {
                Ok(_) => drop(set.text.add(glob)),
                Err(_) => set.bytes.push(byte_expression(&glob)),
            }
            globs.push(pattern.to_vec());
        }
        Ok(Patterns { any: any.build()?, directories: directories.build()?, globs })
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
        self.any.matches(&candidate, path) || (is_directory && self.directories.matches(&candidate, path))
    }

    /// Whether a pattern matches this path or a directory above it.
    pub fn covers(&self, path: &[u8], is_directory: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        !self.is_empty()
            && (above.into_iter().any(|directory| self.matches(directory, true)) || self.matches(path, is_directory))
    }
}

/// A pattern as text, each byte that is not UTF-8 as its stand-in; none if a stand-in is in it already.
fn as_text(pattern: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(pattern.len());
    let mut mixed = [false; 2];
    for part in pattern.utf8_chunks() {
        mixed[0] |= part.valid().chars().any(|c| u32::from(c) >= STAND_IN);
        mixed[1] |= !part.invalid().is_empty();
        text.push_str(part.valid());
        text.extend(part.invalid().iter().filter_map(|byte| stand_in(*byte)));
    }
    (mixed != [true; 2]).then_some(text)
}

fn stand_in(byte: u8) -> Option<char> {
    char::from_u32(STAND_IN + u32::from(byte))
}

/// The glob's expression with the bytes themselves in place of their stand-ins, which globset writes as escapes.
fn byte_expression(glob: &Glob) -> String {
    let mut expression = glob.regex().to_owned();
    for byte in 0x80..=0xff {
        let Some(c) = stand_in(byte) else { continue };
        let escapes: String = c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        expression = expression.replace(&escapes, &format!("\\x{byte:02x}"));
    }
    expression
}
