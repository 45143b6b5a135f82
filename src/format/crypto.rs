//! Keys and sealing (format-spec/objects.md, "Keys" and "Envelope").
//!
//! One random master key; everything else is derived from it by BLAKE3 with a context string. Each stored object
//! begins with a random 32-byte salt, and its own AES-256-GCM key is derived from that salt, so a nonce (the
//! position in the object) never meets the same key twice. The associated data binds repository, kind and
//! position: bytes moved elsewhere do not authenticate.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::format::{ChunkId, FormatError, Kind, ObjectId, RepositoryId};

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;
/// Bytes of the envelope's header: magic, version, kind, salt.
pub const HEADER_LEN: usize = 40;
/// The position of a pack's footer.
pub const FOOTER_POSITION: u64 = 1 << 63;

const MAGIC: [u8; 6] = *b"CAIRN\0";

/// Fills an array with random bytes from the system.
pub fn random<const N: usize>() -> Result<[u8; N], FormatError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| FormatError::Random(e.to_string()))?;
    Ok(bytes)
}

/// The repository's secret, from which all keys are derived.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// Makes a new random one.
    pub fn generate() -> Result<Self, FormatError> {
        Ok(MasterKey(random()?))
    }

    /// Wraps raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        MasterKey(bytes)
    }

    /// The raw bytes, to be wrapped by a password.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The keys derived from the master key of one repository.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Keys {
    #[zeroize(skip)]
    repository: RepositoryId,
    chunk_id: [u8; 32],
    seal: [u8; 32],
    chunker: [u8; 32],
    path: [u8; 32],
    config: [u8; 32],
    wal: [u8; 32],
}

impl Keys {
    /// Derives all keys.
    pub fn derive(master: &MasterKey, repository: RepositoryId) -> Self {
        let derive = |context: &str| blake3::derive_key(context, master.as_bytes());
        Keys {
            repository,
            chunk_id: derive("cairn 1 chunk id"),
            seal: derive("cairn 1 seal"),
            chunker: derive("cairn 1 chunker"),
            path: derive("cairn 1 path"),
            config: derive("cairn 1 configuration"),
            wal: derive("cairn 1 wal name"),
        }
    }

    /// The repository these keys belong to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The id of a chunk with this content.
    pub fn chunk_id(&self, content: &[u8]) -> ChunkId {
        let hash = blake3::keyed_hash(&self.chunk_id, content);
        let mut id = [0; ChunkId::LEN];
        id.copy_from_slice(&hash.as_bytes()[..ChunkId::LEN]);
        ChunkId::from_bytes(id)
    }

    /// 256 secret values for the content-defined chunker.
    pub fn gear_table(&self) -> [u64; 256] {
        let mut stream = blake3::Hasher::new_keyed(&self.chunker).finalize_xof();
        let mut table = [0; 256];
        for entry in &mut table {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            *entry = u64::from_le_bytes(bytes);
        }
        table
    }

    /// Where tree blocks are cut: a secret 32-bit hash of a path.
    pub fn path_hash(&self, path: &[u8]) -> u32 {
        let hash = blake3::keyed_hash(&self.path, path);
        let b = hash.as_bytes();
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }

    /// The authentication code of the configuration's fields.
    pub fn config_mac(&self, fields: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.config, fields).as_bytes()
    }

    /// The id of a log file: told by its cluster and its name alone, so that it is found without a list, and so that two
    /// that archive the same file meet at the same object.
    pub fn wal_id(&self, system_id: u64, name: &str) -> ObjectId {
        let mut hasher = blake3::Hasher::new_keyed(&self.wal);
        hasher.update(&system_id.to_le_bytes()).update(name.as_bytes());
        ObjectId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Begins a new object of this kind, with a fresh salt.
    pub fn new_envelope(&self, kind: Kind) -> Result<Envelope, FormatError> {
        self.envelope(kind, random()?)
    }

    /// Opens the envelope of stored bytes (at least [`HEADER_LEN`]) of this kind.
    pub fn open_envelope(&self, kind: Kind, stored: &[u8]) -> Result<Envelope, FormatError> {
        let what = kind.word();
        let header: &[u8; HEADER_LEN] = stored.first_chunk().ok_or(FormatError::Truncated { what })?;
        if header[..6] != MAGIC {
            return Err(FormatError::invalid(what, "it does not begin like a cairn object"));
        }
        if header[6] != crate::format::VERSION {
            return Err(FormatError::Version { what, found: u64::from(header[6]) });
        }
        if header[7] != kind as u8 {
            let found = Kind::from_number(header[7]).map_or("unknown object", Kind::word);
            return Err(FormatError::invalid(what, format!("it is a {found}")));
        }
        let mut salt = [0; 32];
        salt.copy_from_slice(&header[8..]);
        self.envelope(kind, salt)
    }

    fn envelope(&self, kind: Kind, salt: [u8; 32]) -> Result<Envelope, FormatError> {
        let mut header = [0; HEADER_LEN];
        header[..6].copy_from_slice(&MAGIC);
        header[6] = crate::format::VERSION;
        header[7] = kind as u8;
        header[8..].copy_from_slice(&salt);
        let mut key = *blake3::keyed_hash(&self.seal, &header).as_bytes();
        let sealing = sealing_key(&key, kind.word());
        key.zeroize();
        let mut aad = [0; 48];
        aad[..32].copy_from_slice(self.repository.as_bytes());
        aad[32..40].copy_from_slice(&header[..8]);
        Ok(Envelope { kind, header, key: sealing?, aad })
    }
}

/// Seals with a key that is used once only (a wrapped master key), so the nonce is zero.
pub fn seal_once(key: &[u8; 32], aad: &[u8], plain: &[u8], what: &'static str) -> Result<Vec<u8>, FormatError> {
    let mut bytes = plain.to_vec();
    sealing_key(key, what)?
        .seal_in_place_append_tag(nonce(0), Aad::from(aad), &mut bytes)
        .map_err(|_| FormatError::Authentication { what })?;
    Ok(bytes)
}

/// Opens what [`seal_once`] sealed.
pub fn open_once(key: &[u8; 32], aad: &[u8], sealed: &[u8], what: &'static str) -> Result<Vec<u8>, FormatError> {
    let mut bytes = sealed.to_vec();
    let len = sealing_key(key, what)?
        .open_in_place(nonce(0), Aad::from(aad), &mut bytes)
        .map_err(|_| FormatError::Authentication { what })?
        .len();
    bytes.truncate(len);
    Ok(bytes)
}

fn sealing_key(key: &[u8; 32], what: &'static str) -> Result<LessSafeKey, FormatError> {
    let unbound = UnboundKey::new(&AES_256_GCM, key).map_err(|_| FormatError::Authentication { what })?;
    Ok(LessSafeKey::new(unbound))
}

fn nonce(position: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&position.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The header of one object and the key that seals its parts.
pub struct Envelope {
    kind: Kind,
    header: [u8; HEADER_LEN],
    key: LessSafeKey,
    aad: [u8; 48],
}

impl Envelope {
    /// The bytes that the object begins with.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    fn aad(&self, position: u64) -> Aad<[u8; 48]> {
        let mut aad = self.aad;
        aad[40..].copy_from_slice(&position.to_le_bytes());
        Aad::from(aad)
    }

    /// Appends the sealed form of `plain` to `out`. A position is sealed at most once per envelope.
    pub fn seal(&self, position: u64, plain: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(position), self.aad(position), &mut out[start..])
            .map_err(|_| FormatError::Authentication { what: self.kind.word() })?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens sealed bytes in place and returns the plain ones.
    pub fn open<'a>(&self, position: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8], FormatError> {
        self.key
            .open_in_place(nonce(position), self.aad(position), sealed)
            .map_err(|_| FormatError::Authentication { what: self.kind.word() })
    }
}
