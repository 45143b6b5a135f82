//! What can be wrong with stored bytes.

/// A failure to decode, authenticate or encode stored bytes.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the value does.
    #[error("truncated {what}")]
    Truncated {
        /// The value that was being read.
        what: &'static str,
    },
    /// A length or count exceeds what the format allows.
    #[error("{what} is {found}, more than the {limit} that the format allows")]
    TooLarge {
        /// The value that is too large.
        what: &'static str,
        /// The value found.
        found: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// A value that the format does not allow.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The value that is wrong.
        what: &'static str,
        /// Why it is wrong.
        why: String,
    },
    /// Another format version.
    #[error(
        "{what} has format version {found}; this program reads version {}: use a newer cairn",
        crate::format::VERSION
    )]
    Version {
        /// The object that has it.
        what: &'static str,
        /// The version found.
        found: u64,
    },
    /// A feature flag that this program does not know.
    #[error("the repository needs the feature {name:?}, which this program does not know: use a newer cairn")]
    Feature {
        /// The flag's name.
        name: String,
    },
    /// Authentication failed: other key, other place, or changed bytes.
    #[error("{what} does not authenticate: it is damaged, was altered, or belongs elsewhere")]
    Authentication {
        /// The value that failed.
        what: &'static str,
    },
    /// No key object opens with the given password or key file.
    #[error("wrong password or key file")]
    WrongKey,
    /// Decompression or compression failed.
    #[error("zstd failed on {what}: {why}")]
    Zstd {
        /// The value that failed.
        what: &'static str,
        /// zstd's own word for it.
        why: String,
    },
    /// The content does not have the identifier it is stored under.
    #[error("{what} has other content than its id says: it is damaged")]
    Hash {
        /// The value that failed.
        what: &'static str,
    },
    /// The system gave no randomness.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        FormatError::Invalid { what, why: why.into() }
    }
}

/// An error and its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
