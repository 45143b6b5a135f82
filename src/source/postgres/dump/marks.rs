//! The marks by which a whole dump is known, and what stands in the part for roles and tablespaces.
//!
//! Invariant: a mark counts only as a line of its own with nothing behind it that could be data or a statement.

use crate::source::SourceError;
use crate::source::postgres::settings::quoted;

/// What `pg_dumpall` writes last.
pub(crate) const WHOLE: &str = "-- PostgreSQL database cluster dump complete";
/// What `pg_dump` writes last.
pub(super) const PART: &str = "-- PostgreSQL database dump complete";
/// The end of a dump is looked for in so many bytes.
const KEPT: usize = 4 << 10;

/// The end of what went through.
#[derive(Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// Whether it ends with a mark.
    pub(crate) fn is_whole(&self, mark: &str) -> bool {
        self.0.ends_with(b"\n") && mark_at(&self.0, mark).is_some()
    }
}

/// Where the mark's line begins, if only what `pg_dump` itself writes after it follows.
fn mark_at(text: &[u8], mark: &str) -> Option<usize> {
    let mut end = text.len();
    for line in text.split(|byte| *byte == b'\n').rev() {
        let start = end - line.len();
        // Newer versions end the restricted mode of psql after the mark.
        let harmless = line.is_empty() || line == b"--" || line.starts_with(b"\\unrestrict ");
        match line == mark.as_bytes() {
            true => return Some(start),
            false if harmless => end = start.saturating_sub(1),
            false => return None,
        }
    }
    None
}

/// Roles and tablespaces as they go into the stream: without the mark, which is that of the whole stream, and with the
/// cluster's first role created only where it is not there: every cluster is made with one, mostly of the same name.
pub(super) fn prepared(globals: Vec<u8>, superuser: &str) -> Result<Vec<u8>, SourceError> {
    let unfit = |what: &str| SourceError::Answer { server: "pg_dumpall".to_owned(), what: what.to_owned() };
    let mark = mark_at(&globals, WHOLE).filter(|_| globals.ends_with(b"\n"));
    let mark = mark.ok_or_else(|| {
        unfit("it ended without the mark of a whole dump, so its output is not trusted; run the backup again")
    })?;
    if superuser.contains('\'') || superuser.contains('\n') {
        return Err(unfit("the first role's name has a quotation mark or a line break in it, which is not supported"));
    }
    let name = quoted(superuser);
    let created = [format!("CREATE ROLE {superuser};"), format!("CREATE ROLE {name};")];
    // Without a quotation mark in it: should the line stand in somebody's comment, the comment stays one.
    let guarded = format!("DO $$BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END$$;");
    let mut text = Vec::with_capacity(globals.len() + guarded.len());
    let mut found = false;
    for (number, line) in globals[..mark].split(|byte| *byte == b'\n').enumerate() {
        if number > 0 {
            text.push(b'\n');
        }
        if !found && created.iter().any(|created| line == created.as_bytes()) {
            found = true;
            text.extend_from_slice(guarded.as_bytes());
        } else {
            text.extend_from_slice(line);
        }
    }
    if !found {
        return Err(unfit("it did not write the cluster's first role, so its output is not trusted"));
    }
    // The lines around the mark stay: a lone `--` is a comment, too.
    text.extend_from_slice(&globals[mark + WHOLE.len()..]);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{PART, Tail, WHOLE, prepared};

    fn whole(text: &str) -> bool {
        let mut tail = Tail::default();
        for byte in text.as_bytes() {
            tail.push(&[*byte]);
        }
        tail.is_whole(PART)
    }

    #[test]
    fn a_mark_counts_only_at_the_end_and_on_a_line_of_its_own() {
        let long = "x".repeat(10_000);
        assert!(whole(&format!("{long}\n--\n{PART}\n--\n\n")));
        assert!(whole(&format!("{long}\n--\n{PART}\n--\n\n\\unrestrict abc\n\n")));
        assert!(!whole(&format!("{long}\n--\n{PART}\n--\n\nSELECT 1;\n")));
        assert!(!whole(&format!("{long}\n--\n{PART}")));
        assert!(!whole(&format!("{long}\n1\t{PART}\n--\n\n")));
        assert!(!whole(&format!("{long}\n--\n{WHOLE}\n--\n\n")));
        assert!(!whole(""));
        assert!(!whole(&long));
    }

    #[test]
    fn the_first_role_is_created_where_it_is_not_there() {
        let text = format!("CREATE ROLE a;\nCREATE ROLE postgres;\nCREATE ROLE postgres2;\n\n--\n{WHOLE}\n--\n\n");
        let text = prepared(text.into_bytes(), "postgres").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("CREATE ROLE a;\nDO $$BEGIN CREATE ROLE \"postgres\"; EXCEPTION"), "{text}");
        assert!(text.contains("\nCREATE ROLE postgres2;\n") && !text.contains(WHOLE), "{text}");
        assert!(prepared(b"CREATE ROLE postgres;\n".to_vec(), "postgres").is_err());
        assert!(prepared(format!("CREATE ROLE other;\n--\n{WHOLE}\n--\n\n").into_bytes(), "postgres").is_err());
    }
}
