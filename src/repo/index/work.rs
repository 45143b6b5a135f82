//! What reading a frame costs: how much has to be decoded for its bases by a reader that has nothing yet.
//!
//! A writer asks before it makes a frame a base, because depth alone bounds nothing in practice: where each frame has bases
//! in many others, each level multiplies what is read. Packs do not say it; it follows from them. The writer that makes a
//! frame notes it; of frames that came from elsewhere it is worked out the first time that somebody asks, and kept.
//!
//! Invariant: it only ever decides what becomes a base. A number that is wrong, or lost, costs time or space, never data.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{TransactionBehavior, params};

use crate::format::ObjectId;
use crate::repo::error::RepoError;
use crate::repo::index::{FrameInfo, Index};

impl Index {
    /// What has to be decoded for a frame, in KiB of raw bytes: itself, and for its bases all that has to be decoded for the
    /// frames they are read from. What several of them need is counted for each.
    pub fn work_kib(&self, frame: &Arc<FrameInfo>) -> Result<u32, RepoError> {
        let own = frame.entry.raw_len().div_ceil(1 << 10) as u32;
        let bases = match frame.base_work_kib {
            Some(known) => known,
            None => self.work_out(frame)?,
        };
        Ok(own.saturating_add(bases))
    }

    /// Goes down by depth, so it ends; each frame's sum is kept, so each is worked out once.
    fn work_out(&self, frame: &Arc<FrameInfo>) -> Result<u32, RepoError> {
        // Of the frames below only the numbers are kept: there may be many, and each may be long.
        let (mut seen, mut sum) = (HashSet::new(), 0_u32);
        for base in &frame.entry.bases {
            let copies = self.find(base)?;
            let Some(copy) = copies.into_iter().find(|copy| copy.frame.entry.depth < frame.entry.depth) else {
                continue;
            };
            if seen.insert(copy.frame.first) {
                sum = sum.saturating_add(self.work_kib(&copy.frame)?);
            }
        }
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("UPDATE frame SET work = ?2 WHERE first = ?1").map_err(self.failed())?;
        statement.execute(params![frame.first, sum]).map_err(self.failed())?;
        let mut recent = self.recent();
        // It may be of a file that is not used any more.
        if recent.find(frame.first).is_some_and(|known| Arc::ptr_eq(&known, frame)) {
            recent.insert(Arc::new(FrameInfo { base_work_kib: Some(sum), ..FrameInfo::clone(frame) }));
        }
        Ok(sum)
    }

    /// Notes what the bases of frames of a pack cost: slots, and KiB.
    pub fn note_work(&self, pack: &ObjectId, works: &[(usize, u32)]) -> Result<(), RepoError> {
        if works.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        for (slot, kib) in works {
            let sql = "UPDATE frame SET work = ?3 WHERE slot = ?2 AND pack = (SELECT no FROM pack WHERE id = ?1)";
            let mut statement = transaction.prepare_cached(sql).map_err(self.failed())?;
            statement.execute(params![pack.as_bytes().as_slice(), slot, kib]).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }
}
