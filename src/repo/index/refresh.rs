//! Bringing the index up to date with the packs that storage lists.

use std::collections::HashMap;

use crate::backend::{Backend, ByteRange, list_all};
use crate::format::crypto::{HEADER_LEN, Keys};
use crate::format::pack::{self, FrameEntry, MAX_PACK, TRAILER_LEN};
use crate::format::{FormatError, Kind, ObjectId};
use crate::progress::{Monitor, Phase};
use crate::repo::error::RepoError;
use crate::repo::index::Index;

/// A pack that storage lists and whose footer cannot be used.
#[derive(Debug)]
pub struct UnusablePack {
    /// Data or metadata.
    pub kind: Kind,
    /// The pack.
    pub id: ObjectId,
    /// What is wrong.
    pub error: RepoError,
}

/// The footer of a pack, read from storage.
pub struct Footer {
    /// The pack's first bytes.
    pub header: Vec<u8>,
    /// Its frames.
    pub frames: Vec<FrameEntry>,
}

/// Both kinds of packs.
pub const PACK_KINDS: [Kind; 2] = [Kind::MetaPack, Kind::DataPack];

/// Reads and opens the footer of a pack of this length.
pub fn read_footer(
    backend: &dyn Backend,
    keys: &Keys,
    kind: Kind,
    id: &ObjectId,
    len: u64,
) -> Result<Footer, RepoError> {
    let failed = RepoError::object(kind, *id);
    let least = (HEADER_LEN + TRAILER_LEN) as u64;
    if len < least || len > MAX_PACK {
        return Err(failed(FormatError::invalid("pack", format!("its length is {len} bytes"))));
    }
    let header = backend.read(kind, id, ByteRange::At { offset: 0, len: HEADER_LEN as u64 })?;
    // Most footers fit into this, so that one read gives trailer and footer.
    let guess = (len - HEADER_LEN as u64).min(64 << 10);
    let mut tail = backend.read(kind, id, ByteRange::At { offset: len - guess, len: guess })?;
    let trailer = tail.split_off(tail.len().saturating_sub(TRAILER_LEN));
    let footer_len = u64::from(pack::footer_len(len, &trailer).map_err(&failed)?);
    let mut stored = if footer_len <= tail.len() as u64 {
        tail.split_off(tail.len() - footer_len as usize)
    } else {
        let offset = len - TRAILER_LEN as u64 - footer_len;
        backend.read(kind, id, ByteRange::At { offset, len: footer_len })?
    };
    let frames = pack::open_footer(keys, kind, &header, len, &mut stored).map_err(&failed)?;
    Ok(Footer { header, frames })
}

impl Index {
    /// Makes the index equal to the packs that storage lists. Packs whose footer cannot be used are left out and
    /// returned: what does not need them still works.
    pub fn refresh(
        &self,
        backend: &dyn Backend,
        keys: &Keys,
        monitor: &dyn Monitor,
    ) -> Result<Vec<UnusablePack>, RepoError> {
        let mut known: HashMap<ObjectId, u64> = self.packs()?.into_iter().map(|pack| (pack.id, pack.no)).collect();
        let mut new = Vec::new();
        for kind in PACK_KINDS {
            for (id, len) in list_all(backend, kind)? {
                if known.remove(&id).is_none() {
                    new.push((kind, id, len));
                }
            }
        }
        let gone: Vec<u64> = known.into_values().collect();
        self.remove_packs(&gone)?;
        // What other processes have added is in the index, and not yet in the filter.
        self.catch_up()?;
        if new.is_empty() {
            return Ok(Vec::new());
        }
        monitor.begin(Phase::Index, Some(new.len() as u64));
        let mut unusable = Vec::new();
        for (kind, id, len) in new {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            match read_footer(backend, keys, kind, &id, len) {
                Ok(footer) => self.add_pack(kind, &id, len, &footer.header, &footer.frames)?,
                // A gc removed it since it was listed.
                Err(error) if error.is_not_found() => {}
                Err(error) => unusable.push(UnusablePack { kind, id, error }),
            }
            monitor.advance(1);
        }
        monitor.end();
        Ok(unusable)
    }
}
