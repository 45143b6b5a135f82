//! Verifying: reading a snapshot's every byte back, and recording that it worked.

use std::time::Instant;

use jiff::Timestamp;

use crate::format::content::Content;
use crate::format::record::{Proof, SnapshotKind};
use crate::progress::{Monitor, Phase};
use crate::repo::error::RepoError;
use crate::repo::reader::{ChunkReader, Prefetch};
use crate::repo::{Repository, SnapshotInfo};

/// Contents at least this long are decoded ahead.
const LARGE: u64 = 8 << 20;

impl Repository {
    /// Reads all of a snapshot, compares every chunk with its id, and writes the proof.
    pub fn verify(&self, info: &SnapshotInfo, monitor: &dyn Monitor) -> Result<Proof, RepoError> {
        let started = Instant::now();
        monitor.begin(Phase::ReadData, Some(info.snapshot.summary.bytes));
        let mut bytes = 0;
        match info.snapshot.kind {
            SnapshotKind::Stream => bytes += self.read_all(&info.snapshot.content, monitor)?,
            SnapshotKind::Tree => {
                for entry in self.tree(&info.snapshot.content)? {
                    if let Some(content) = entry?.content() {
                        bytes += self.read_all(content, monitor)?;
                    }
                }
            }
        }
        monitor.end();
        let proof = Proof {
            snapshot: info.id,
            time: Timestamp::now(),
            bytes,
            milliseconds: started.elapsed().as_millis() as u64,
            host: self.host().to_owned(),
            program: concat!("cairn ", env!("CARGO_PKG_VERSION")).to_owned(),
            drill: None,
        };
        self.write_record(&proof)?;
        self.backend().sync()?;
        Ok(proof)
    }

    fn read_all(&self, content: &Content, monitor: &dyn Monitor) -> Result<u64, RepoError> {
        let prefetch = (content.bytes >= LARGE).then(|| Prefetch::start(self.frames()));
        let mut chunks = ChunkReader::new(self.frames(), content, prefetch)?;
        let mut bytes = 0;
        while let Some(chunk) = chunks.next_chunk()? {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            bytes += chunk.len() as u64;
            monitor.advance(chunk.len() as u64);
        }
        if bytes != content.bytes {
            let why = format!("a content has {bytes} bytes where {} were promised", content.bytes);
            return Err(RepoError::Malformed { why });
        }
        Ok(bytes)
    }
}
