//! Encoders and decoders: round trips (`codec`, `tree`), sealing (`seal`), keys and the configuration (`key`), and
//! bytes that somebody made up (`bytes`).

mod bytes;
mod codec;
mod key;
mod seal;
mod tree;

use cairn::format::crypto::{Keys, MasterKey};
use cairn::format::{FormatError, RepositoryId};

/// The repository of these tests.
const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x11; 32]);
/// Another one.
const OTHER_REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x22; 32]);

fn keys() -> Keys {
    Keys::derive(&MasterKey::from_bytes([7; 32]), REPOSITORY)
}

fn is_authentication<T>(result: Result<T, FormatError>) -> bool {
    matches!(result, Err(FormatError::Authentication { .. }))
}
