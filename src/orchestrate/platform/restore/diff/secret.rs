//! What looks secret in configuration, so that it is never shown.
//!
//! It errs on the side of hiding: a line too much that is hidden costs a look at the file, and one too few ends up in a
//! terminal's history or a ticket.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::format::set::KeyFile;

/// Files whose names end so hold keys or passwords.
const ENDINGS: [&str; 13] = [
    ".key",
    ".pem",
    ".p12",
    ".pfx",
    ".jks",
    ".keystore",
    ".keytab",
    ".gpg",
    ".asc",
    ".pgpass",
    "htpasswd",
    "shadow",
    ".kdbx",
];
/// Names that begin so.
const BEGINNINGS: [&str; 4] = ["id_rsa", "id_ed25519", "id_ecdsa", "credentials"];
/// In a text that holds a key.
const KEY_MARK: &[u8] = b"PRIVATE KEY-----";
/// In a line, whatever the case of its letters, that says something secret.
const WORDS: [&str; 19] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "credential",
    "private",
    "api_key",
    "api-key",
    "apikey",
    "masterauth",
    "bearer",
    "cookie",
    "community",
    "salt",
    "signature",
    "$2a$",
    "$2b$",
    "$2y$",
    "scram-sha-",
];
/// A word of so many letters and digits that has both is no word.
const RANDOM: usize = 24;

/// What is known to be secret.
pub struct Secrets {
    keys: Vec<PathBuf>,
}

impl Secrets {
    /// With the key files that a set names.
    pub fn new(keys: &[KeyFile]) -> Self {
        let path = |key: &KeyFile| PathBuf::from(std::ffi::OsStr::from_bytes(&key.path.0));
        Secrets { keys: keys.iter().map(path).collect() }
    }

    /// Whether a path is of a key, by what the set says or by its name.
    pub fn is_key(&self, path: &[u8]) -> bool {
        let path = Path::new("/").join(std::ffi::OsStr::from_bytes(path));
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        self.keys.iter().any(|key| path.starts_with(key))
            || ENDINGS.iter().any(|end| name.ends_with(end))
            || BEGINNINGS.iter().any(|begin| name.starts_with(begin))
    }
}

/// Whether a content is of a key.
pub fn holds_key(content: Option<&[u8]>) -> bool {
    content.is_some_and(|content| content.windows(KEY_MARK.len()).any(|window| window == KEY_MARK))
}

/// For each line whether it may be secret. What is indented deeper below such a line, or continues it, is of it.
pub fn hidden(lines: &[&str]) -> Vec<bool> {
    let mut hidden = Vec::with_capacity(lines.len());
    // The indentation of the secret line that this one may belong to.
    let (mut within, mut continued) = (None, false);
    for line in lines {
        if line.trim().is_empty() {
            hidden.push(false);
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        let belongs = continued || within.is_some_and(|above| depth > above);
        let secret = is_secret(line);
        if secret && !belongs {
            within = Some(depth);
        } else if !belongs {
            within = None;
        }
        hidden.push(secret || belongs);
        continued = (secret || belongs) && line.trim_end().ends_with(['\\', '(', '[', '{', ',', '+']);
    }
    hidden
}

fn is_secret(line: &str) -> bool {
    let lower = line.to_lowercase();
    WORDS.iter().any(|word| lower.contains(word)) || names_key(&lower) || has_login(line) || has_random(line)
}

/// `SOME_KEY = ...`, `key: ...`: a setting whose name ends so, and not `ssl_certificate_key /a/path`.
fn names_key(lower: &str) -> bool {
    let Some((name, _)) = lower.split_once(['=', ':']) else { return false };
    name.trim_end_matches([' ', '\t', '"', '\'', ']']).ends_with("key")
}

/// `scheme://user:password@host`.
fn has_login(line: &str) -> bool {
    line.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', ' ', '\t', '"', '\'']).next().unwrap_or_default();
        rest.contains('@') && authority.contains('@') || authority.contains(':') && rest.contains('@')
    })
}

/// A run of letters and digits that nobody would write by hand.
fn has_random(line: &str) -> bool {
    let runs = line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '=')));
    runs.filter(|run| run.len() >= RANDOM)
        .any(|run| run.bytes().any(|byte| byte.is_ascii_digit()) && run.bytes().any(|byte| byte.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests {
    use super::hidden;

    #[test]
    fn what_looks_secret_is_hidden_with_what_continues_it_and_other_lines_are_not() {
        for secret in [
            "requirepass hunter2",
            "  PASSWORD: x",
            "FERNET_KEY = 'x'",
            "\"api-key\" : 1",
            "proxy=http://user:p@ss@proxy:3128",
            "url: amqp://guest:guest@localhost//",
            "value 0123456789abcdef0123456789abcdef",
            "admin:$2a$10$abcdefghijklmnopqrstuv",
        ] {
            assert_eq!(hidden(&[secret]), [true], "{secret}");
        }
        for plain in [
            "ssl_certificate_key /etc/nginx/ssl/platform.key;",
            "path.repo: [\"/db-backup/elasticsearch\"]",
            "proxy=http://proxy:3128",
            "dbms.directories.data=/media/neo4j/data",
            "# keys are elsewhere",
            "shared_buffers = 128MB",
        ] {
            assert_eq!(hidden(&[plain]), [false], "{plain}");
        }
        let lines =
            ["SECRETS = {", "  'a': 'b',", "", "  'c': 'd'", "}", "plain = 1", "password \\", "hunter2", "plain"];
        assert_eq!(hidden(&lines), [true, true, false, true, false, false, true, true, false]);
    }
}
