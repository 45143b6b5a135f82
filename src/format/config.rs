//! The configuration: the repository's id, its version and features, and how it cuts streams.
//!
//! JSON in the clear, since the version must be read before anything else; a keyed hash over its fields proves,
//! once the key is known, that nobody changed them.

use serde::{Deserialize, Serialize};

use crate::format::crypto::{Keys, random};
use crate::format::{FormatError, RepositoryId};

/// A stored configuration is at most this long.
pub const MAX_CONFIG: usize = 16 << 10;

/// Chunk sizes in bytes. All even, `min < average < max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSizes {
    /// No cut before this many bytes.
    pub min: u32,
    /// What the cuts aim at.
    pub average: u32,
    /// A cut at the latest here.
    pub max: u32,
}

impl ChunkSizes {
    /// 32 KiB on average: what that costs and saves is in ARCHITECTURE.md.
    pub const DEFAULT: ChunkSizes = ChunkSizes { min: 8 << 10, average: 32 << 10, max: 128 << 10 };

    fn validate(&self) -> Result<(), FormatError> {
        let ChunkSizes { min, average, max } = *self;
        let even = [min, average, max].iter().all(|size| size % 2 == 0);
        let fits = (64..=1 << 20).contains(&min) && average >= 256 && (1024..=1 << 20).contains(&max);
        if even && fits && min < average && average < max {
            Ok(())
        } else {
            Err(FormatError::invalid("chunk sizes", format!("{min}/{average}/{max}")))
        }
    }
}

/// A repository's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    version: u64,
    /// The repository's id.
    pub id: RepositoryId,
    /// Flags that a reader must know all of. Version 1 has none.
    features: Vec<String>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// How streams are cut.
    pub chunk_sizes: ChunkSizes,
    mac: String,
}

impl Config {
    /// A new repository's configuration, without its authentication code.
    pub fn new(created: String, chunk_sizes: ChunkSizes) -> Result<Self, FormatError> {
        chunk_sizes.validate()?;
        let id = RepositoryId::from_bytes(random()?);
        let version = u64::from(crate::format::VERSION);
        Ok(Config { version, id, features: Vec::new(), created, chunk_sizes, mac: String::new() })
    }

    /// Sets the authentication code.
    pub fn authenticate(&mut self, keys: &Keys) {
        self.mac = hex::encode(keys.config_mac(&self.fields()));
    }

    /// Fails when a field was changed by somebody without the key.
    pub fn verify(&self, keys: &Keys) -> Result<(), FormatError> {
        let expected = keys.config_mac(&self.fields());
        let mut found = [0; 32];
        let readable = hex::decode_to_slice(&self.mac, &mut found).is_ok();
        // blake3::Hash compares in constant time.
        if readable && blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(found) {
            Ok(())
        } else {
            Err(FormatError::Authentication { what: "configuration" })
        }
    }

    /// What the authentication code covers: `version NUL id NUL features, comma-joined NUL created NUL min/average/max`.
    fn fields(&self) -> Vec<u8> {
        let ChunkSizes { min, average, max } = self.chunk_sizes;
        let features = self.features.join(",");
        format!("{}\0{}\0{features}\0{}\0{min}/{average}/{max}", self.version, self.id, self.created).into_bytes()
    }

    /// The stored bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        serde_json::to_vec_pretty(self).map_err(|e| FormatError::invalid("configuration", e.to_string()))
    }

    /// Reads stored bytes; refuses other versions and unknown features by name.
    pub fn decode(stored: &[u8]) -> Result<Self, FormatError> {
        bounded("configuration", stored, MAX_CONFIG)?;
        refuse_other_version("configuration", stored)?;
        let config: Config =
            serde_json::from_slice(stored).map_err(|e| FormatError::invalid("configuration", e.to_string()))?;
        if let Some(name) = config.features.first() {
            return Err(FormatError::Feature { name: name.clone() });
        }
        config.chunk_sizes.validate()?;
        Ok(config)
    }
}

/// Fails when `stored` is longer than `limit`.
pub(crate) fn bounded(what: &'static str, stored: &[u8], limit: usize) -> Result<(), FormatError> {
    if stored.len() > limit {
        return Err(FormatError::TooLarge { what, found: stored.len() as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Looks at `version` alone, so that a newer object is refused as newer and not as malformed.
pub(crate) fn refuse_other_version(what: &'static str, stored: &[u8]) -> Result<(), FormatError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } =
        serde_json::from_slice(stored).map_err(|e| FormatError::invalid(what, e.to_string()))?;
    if version != u64::from(crate::format::VERSION) {
        return Err(FormatError::Version { what, found: version });
    }
    Ok(())
}
