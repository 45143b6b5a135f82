//! Names of snapshots and tags: short, printable, and free of the characters that selectors use.

use crate::format::FormatError;

/// A name is at most this many bytes.
pub const MAX_NAME: usize = 128;

/// Accepts 1 to [`MAX_NAME`] ASCII letters, digits and `. _ - +`, not beginning with `-` or `.`, and not `latest`.
pub fn validate(name: &str) -> Result<(), FormatError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let why = if name.is_empty() || name.len() > MAX_NAME {
        "it must have 1 to 128 characters"
    } else if !name.chars().all(allowed) {
        "only ASCII letters, digits and . _ - + may be in it"
    } else if name.starts_with(['-', '.']) {
        "it must not begin with - or ."
    } else if name == "latest" {
        "this word selects the newest snapshot"
    } else {
        return Ok(());
    };
    Err(FormatError::invalid("name", format!("{name:?}: {why}")))
}
