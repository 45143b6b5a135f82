//! Where a driver's password comes from: a setting names the place and never holds the secret itself.
//!
//! Invariant: a [`Secret`] is wiped when it is dropped, and neither `Debug` nor an error shows it. The place is read
//! when a connection is made, so a secret that was replaced is used from the next run on.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::format::codec::escape_path;
use crate::source::SourceError;

/// A secret is at most so long.
const LIMIT: u64 = 4 << 10;
/// The directory in which systemd puts a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The place of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that not every user may read; what follows its first line break is not part of it.
    File(PathBuf),
    /// A systemd credential (`LoadCredential=`), by its name.
    Credential(String),
    /// An environment variable, by its name.
    Environment(String),
}

/// A secret that was read.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(...)")
    }
}

impl SecretSource {
    /// The one place that the settings `NAME-file`, `NAME-credential` and `NAME-env` give; `None` if none is given.
    pub fn one_of(
        name: &str,
        file: Option<&Path>,
        credential: Option<&str>,
        environment: Option<&str>,
    ) -> Result<Option<Self>, SourceError> {
        let given = [
            file.map(|path| SecretSource::File(path.to_owned())),
            credential.map(|name| SecretSource::Credential(name.to_owned())),
            environment.map(|name| SecretSource::Environment(name.to_owned())),
        ];
        let mut given = given.into_iter().flatten();
        let first = given.next();
        if given.next().is_some() {
            return Err(SourceError::Setting {
                setting: format!("{name}-file, {name}-credential, {name}-env"),
                why: "more than one of them is set; keep one".to_owned(),
            });
        }
        Ok(first)
    }

    /// Reads it.
    pub fn read(&self) -> Result<Secret, SourceError> {
        let bytes = match self {
            SecretSource::File(path) => self.read_file(path)?,
            SecretSource::Credential(name) => {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(self.unusable("a credential's name is a plain file name"));
                }
                let directory = std::env::var_os(CREDENTIALS).ok_or_else(|| {
                    self.unusable("$CREDENTIALS_DIRECTORY is not set: run as a systemd service with LoadCredential=")
                })?;
                self.read_file(&PathBuf::from(directory).join(name))?
            }
            SecretSource::Environment(name) => match std::env::var(name) {
                Ok(value) => Zeroizing::new(value.into_bytes()),
                Err(std::env::VarError::NotPresent) => return Err(self.unusable("the variable is not set")),
                Err(std::env::VarError::NotUnicode(_)) => return Err(self.unusable("its value is not UTF-8")),
            },
        };
        self.secret(&bytes)
    }

    fn read_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let failed = |source| SourceError::at("read the secret in", path, source);
        // Without blocking: the name could be that of a pipe that nobody writes to.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(self.unusable("it is not a regular file"));
        }
        if metadata.permissions().mode() & 0o004 != 0 {
            return Err(self.unusable("every user may read it; take that right away with chmod o-r"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT as usize + 1));
        file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn secret(&self, bytes: &[u8]) -> Result<Secret, SourceError> {
        if bytes.len() as u64 > LIMIT {
            return Err(self.unusable("it is longer than 4096 bytes"));
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok("") => Err(self.unusable("it is empty")),
            Ok(text) => Ok(Secret(Zeroizing::new(text.to_owned()))),
            Err(_) => Err(self.unusable("it is not UTF-8")),
        }
    }

    fn unusable(&self, why: &str) -> SourceError {
        SourceError::Setting { setting: self.to_string(), why: why.to_owned() }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(formatter, "the secret file {}", escape_path(path)),
            SecretSource::Credential(name) => write!(formatter, "the systemd credential {name:?}"),
            SecretSource::Environment(name) => write!(formatter, "the secret in the environment variable {name:?}"),
        }
    }
}
