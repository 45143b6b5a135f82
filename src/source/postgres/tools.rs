//! Whether PostgreSQL's programs are there, and whether they fit the server.
//!
//! Invariant: a dump is only begun with programs that know the server's version: an older `pg_dump` refuses, and that
//! should be known before a platform is stopped.

use std::path::PathBuf;
use std::time::Duration;

use crate::source::SourceError;
use crate::source::postgres::{PostgresSettings, Version};

const NAMES: [&str; 5] = ["pg_dump", "pg_dumpall", "psql", "pg_controldata", "pg_basebackup"];
/// How long a program may take to say its version.
const LIMIT: Duration = Duration::from_secs(30);
const MOST: usize = 4 << 10;

/// A program of PostgreSQL.
#[derive(Debug)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Where it is looked for.
    pub path: PathBuf,
    /// Its version, or why that is not known.
    pub version: Result<Version, SourceError>,
}

impl Tool {
    /// Why it cannot be used with a server of that version; `None` if it can.
    pub fn unfit_for(&self, server: &Version) -> Option<String> {
        let path = self.path.display();
        let found = match &self.version {
            Err(error) => return Some(format!("{path} cannot be used: {error}")),
            Ok(version) => version,
        };
        let fits = match self.name {
            // It reads files of the server's own version only.
            "pg_controldata" => found.major == server.major,
            _ => found.major >= server.major,
        };
        let why = || {
            format!(
                "{path} is of version {}, and the server of version {}: name the directory of the server's own programs",
                found.text, server.text
            )
        };
        (!fits).then(why)
    }

    /// What should be known before it is used with a server of that version.
    pub fn advice_for(&self, server: &Version) -> Option<String> {
        let version = self.version.as_ref().ok()?;
        (matches!(self.name, "pg_dump" | "pg_dumpall") && version.major > server.major).then(|| {
            format!(
                "{} is of version {}: what it dumps restores into version {} or later, not back into version {}",
                self.path.display(),
                version.text,
                version.major,
                server.major
            )
        })
    }
}

/// The programs of a cluster's settings.
pub fn tools(settings: &PostgresSettings, stop: &dyn Fn() -> bool) -> Vec<Tool> {
    let tool = |name| Tool { name, path: settings.bin_directory.join(name), version: version(settings, name, stop) };
    NAMES.into_iter().map(tool).collect()
}

pub(super) fn version(
    settings: &PostgresSettings,
    name: &str,
    stop: &dyn Fn() -> bool,
) -> Result<Version, SourceError> {
    let output = settings.program(name)?.arg("--version").run(MOST, LIMIT, stop)?.output()?;
    let text = String::from_utf8_lossy(&output);
    parsed(&text).ok_or_else(|| SourceError::Answer {
        server: settings.bin_directory.join(name).display().to_string(),
        what: format!("it says {:?} when asked for its version, and no version of PostgreSQL", text.trim()),
    })
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
fn parsed(text: &str) -> Option<Version> {
    let text = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits = text.split(|byte: char| !byte.is_ascii_digit()).next()?;
    Some(Version { major: digits.parse().ok()?, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn versions_are_read_as_programs_write_them() {
        let major = |text| parsed(text).map(|version| version.major);
        assert_eq!(major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("psql (PostgreSQL) 11.22\n"), Some(11));
        assert_eq!(major("pg_dump (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("pg_dump 9\n"), None);
        assert_eq!(major(""), None);
    }
}
