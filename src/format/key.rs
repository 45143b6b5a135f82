//! Key objects: the master key, wrapped by a password (Argon2id, RFC 9106) or by a key file.
//!
//! JSON in the clear, because it must be read before any key is known; the wrapped key inside is authenticated
//! and bound to the repository. The cost parameters come from the repository, so they are bounded before use.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::format::codec::put_bytes;
use crate::format::crypto::{MasterKey, open_once, random, seal_once};
use crate::format::{FormatError, RepositoryId};

/// A stored key object is at most this long.
pub const MAX_KEY_OBJECT: usize = 16 << 10;
/// Most memory that a stored key may ask of its reader, in KiB.
pub const MAX_MEMORY_KIB: u32 = 1 << 20;

/// What opens a repository.
#[derive(Clone)]
pub enum Credential {
    /// A password, any bytes.
    Password(Zeroizing<Vec<u8>>),
    /// The 32 bytes of a key file; used without key derivation cost, for machines.
    KeyFile(Zeroizing<[u8; 32]>),
}

/// The cost of a password, as Argon2id parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PasswordCost {
    /// 64 MiB and three passes, as RFC 9106 section 4 recommends for memory-constrained settings.
    pub const DEFAULT: PasswordCost = PasswordCost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
enum Derivation {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: String },
    KeyFile { salt: String },
}

/// A stored key object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyObject {
    version: u64,
    /// A name for people.
    pub label: String,
    /// When it was made, RFC 3339.
    pub created: String,
    derivation: Derivation,
    wrapped: String,
}

impl KeyObject {
    /// Wraps the master key.
    pub fn wrap(
        master: &MasterKey,
        repository: RepositoryId,
        credential: &Credential,
        cost: PasswordCost,
        label: String,
        created: String,
    ) -> Result<Self, FormatError> {
        let salt = hex::encode(random::<32>()?);
        let derivation = match credential {
            Credential::Password(_) => {
                let PasswordCost { memory_kib, passes, lanes } = cost;
                Derivation::Argon2id { memory_kib, passes, lanes, salt }
            }
            Credential::KeyFile(_) => Derivation::KeyFile { salt },
        };
        let key = derivation.key(credential)?.ok_or(FormatError::WrongKey)?;
        let aad = aad(repository, &label, &created);
        let wrapped = seal_once(&key, &aad, master.as_bytes(), "key")?;
        let version = u64::from(crate::format::VERSION);
        Ok(KeyObject { version, label, created, derivation, wrapped: hex::encode(wrapped) })
    }

    /// Unwraps the master key; `None` when the credential does not open this object.
    pub fn unwrap(&self, repository: RepositoryId, credential: &Credential) -> Result<Option<MasterKey>, FormatError> {
        let Some(key) = self.derivation.key(credential)? else { return Ok(None) };
        let wrapped = hex::decode(&self.wrapped).map_err(|e| FormatError::invalid("key", e.to_string()))?;
        let aad = aad(repository, &self.label, &self.created);
        let Ok(plain) = open_once(&key, &aad, &wrapped, "key") else { return Ok(None) };
        let plain = Zeroizing::new(plain);
        let mut bytes: [u8; 32] =
            plain.as_slice().try_into().map_err(|_| FormatError::invalid("key", "wrapped key of another length"))?;
        let master = MasterKey::from_bytes(bytes);
        bytes.zeroize();
        Ok(Some(master))
    }

    /// The word for people: `password` or `key file`.
    pub fn method(&self) -> &'static str {
        match self.derivation {
            Derivation::Argon2id { .. } => "password",
            Derivation::KeyFile { .. } => "key file",
        }
    }

    /// The stored bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        serde_json::to_vec_pretty(self).map_err(|e| FormatError::invalid("key", e.to_string()))
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8]) -> Result<Self, FormatError> {
        crate::format::config::bounded("key", stored, MAX_KEY_OBJECT)?;
        crate::format::config::refuse_other_version("key", stored)?;
        serde_json::from_slice(stored).map_err(|e| FormatError::invalid("key", e.to_string()))
    }
}

impl Derivation {
    fn key(&self, credential: &Credential) -> Result<Option<Zeroizing<[u8; 32]>>, FormatError> {
        let salt = |text: &str| -> Result<[u8; 32], FormatError> {
            let mut salt = [0; 32];
            hex::decode_to_slice(text, &mut salt).map_err(|e| FormatError::invalid("key salt", e.to_string()))?;
            Ok(salt)
        };
        let mut key = Zeroizing::new([0; 32]);
        match (self, credential) {
            (Derivation::Argon2id { memory_kib, passes, lanes, salt: s }, Credential::Password(password)) => {
                for (what, found, limit) in [
                    ("key derivation memory in KiB", *memory_kib, MAX_MEMORY_KIB),
                    ("key derivation passes", *passes, 64),
                    ("key derivation lanes", *lanes, 64),
                ] {
                    if found > limit {
                        return Err(FormatError::TooLarge { what, found: found.into(), limit: limit.into() });
                    }
                }
                let params = Params::new(*memory_kib, *passes, *lanes, Some(32))
                    .map_err(|e| FormatError::invalid("key derivation", e.to_string()))?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(password, &salt(s)?, key.as_mut())
                    .map_err(|e| FormatError::invalid("key derivation", e.to_string()))?;
            }
            (Derivation::KeyFile { salt: s }, Credential::KeyFile(file)) => {
                let mut material = Zeroizing::new(file.to_vec());
                material.extend_from_slice(&salt(s)?);
                *key = blake3::derive_key("cairn 1 key file", &material);
            }
            _ => return Ok(None),
        }
        Ok(Some(key))
    }
}

/// Binds the wrapped key to its repository and to the words that an operator goes by when removing a key.
fn aad(repository: RepositoryId, label: &str, created: &str) -> Vec<u8> {
    let mut aad = b"cairn 1 key".to_vec();
    aad.extend_from_slice(repository.as_bytes());
    put_bytes(&mut aad, label.as_bytes());
    put_bytes(&mut aad, created.as_bytes());
    aad
}
