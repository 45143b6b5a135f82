//! Continuous archiving: PostgreSQL's `archive_command` and `restore_command`.
//!
//! **Push.** The server hands over one file at a time and waits. While it waits for the first, the files behind it that
//! are marked as ready are archived as well, and when it asks for those, they are there: they are hashed and compared,
//! and that is all. No marks of what was done are kept anywhere: the archive itself is the mark. It is asked for the
//! object of the very file, and what it says was authenticated and is compared by hash with the file that the server has
//! now; so nothing can be stale, and what a crash has left is either there as a whole or not at all. The files behind
//! are written in their order, each when the one before it is durable, so that no crash leaves a gap.
//!
//! **Fetch.** The server takes every failure with an exit status up to 125 as the end of the archive, and ends recovery
//! there. So [`Fetched::Missing`] is told only for a file that is not there and that nothing comes after ([`gap`]); a gap,
//! damage, or a repository that cannot be reached is an error, which the command line turns into a status that stops the
//! server.

pub mod ahead;
pub mod gap;
pub mod status;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::format::Kind;
use crate::format::timeline::{Fork, history};
use crate::format::wal::{WalHead, WalName};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::wal::gap::Server;
use crate::progress::Monitor;
use crate::repo::RepoError;
use crate::repo::wal::{Archive, Archived, SealedWal, WalFile};
use crate::source::SourceError;
use crate::source::postgres::{Spool, WalSource, WalTarget, is_standby, system_id, waiting};

/// Files that are archived besides the one that was asked for, at most.
const BESIDE: usize = 16;
/// Their bytes, at most.
const BESIDE_BYTES: u64 = 256 << 20;
/// How long a segment is waited for that is not there and was written.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be archived.
#[derive(Debug, Clone)]
pub struct Push {
    /// The file.
    pub path: PathBuf,
    /// The data directory of its cluster.
    pub data: PathBuf,
}

/// What was archived.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The file.
    pub file: WalFile,
    /// Whether it was written or found.
    pub archived: Archived,
    /// Files behind it that were written as well.
    pub beside: usize,
}

/// Archives a file. When this returns the file is durable in the repository.
pub fn push(archive: &Archive, push: &Push, monitor: &dyn Monitor) -> Result<Pushed, OrchestrateError> {
    let system_id = system_id(&push.data)?;
    let mut source = WalSource::open(&push.path, system_id)?;
    let file = WalFile { system_id, name: source.name() };
    if is_archived(archive, &file, &mut source)? {
        return Ok(Pushed { file, archived: Archived::Found, beside: 0 });
    }
    let archived = archive.publish(seal(archive, &file, &mut source)?)?;
    // The server is told of these when it asks for them; what fails now fails then, if it still does.
    let beside = beside(archive, push, system_id, source.len(), monitor).unwrap_or_else(|error| {
        tracing::debug!("files that wait were not archived: {error}");
        0
    });
    Ok(Pushed { file, archived, beside })
}

fn seal<'a>(archive: &'a Archive, file: &WalFile, source: &mut WalSource) -> Result<SealedWal<'a>, OrchestrateError> {
    archive.seal(file, source.len(), &mut |buffer| Ok(source.fill(buffer)?))
}

/// Whether the archive has just this content.
fn is_archived(archive: &Archive, file: &WalFile, source: &mut WalSource) -> Result<bool, OrchestrateError> {
    if archive.head(file)?.is_none() {
        return Ok(false);
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; source.len().min(1 << 20) as usize];
    let mut left = source.len();
    while left > 0 {
        let part = &mut buffer[..left.min(1 << 20) as usize];
        source.fill(part)?;
        hasher.update(part);
        left -= part.len() as u64;
    }
    source.rewind();
    Ok(archive.confirm(file, source.len(), hasher.finalize().as_bytes())?)
}

/// Archives files that wait behind one. Each is compressed and written while the one before it is made durable.
fn beside(
    archive: &Archive,
    push: &Push,
    system_id: u64,
    len: u64,
    monitor: &dyn Monitor,
) -> Result<usize, OrchestrateError> {
    let most = (BESIDE_BYTES / len.max(1)).min(BESIDE as u64) as usize;
    let paths = waiting(&push.path, most)?;
    if paths.is_empty() {
        return Ok(0);
    }
    std::thread::scope(|scope| {
        let (send, receive) = bounded::<SealedWal<'_>>(0);
        let writer = scope.spawn(move || {
            let mut written = 0;
            for sealed in receive {
                archive.publish(sealed)?;
                written += 1;
            }
            Ok::<usize, RepoError>(written)
        });
        let mut sealed = Ok(());
        for path in paths {
            if monitor.interrupted() {
                break;
            }
            match seal_waiting(archive, &path, system_id) {
                Ok(None) => {}
                // When writing has failed nobody takes it.
                Ok(Some(one)) => {
                    if send.send(one).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    sealed = Err(error);
                    break;
                }
            }
        }
        drop(send);
        let written = writer.join().map_err(|_| RepoError::Worker)??;
        sealed.map(|()| written)
    })
}

fn seal_waiting<'a>(
    archive: &'a Archive,
    path: &Path,
    system_id: u64,
) -> Result<Option<SealedWal<'a>>, OrchestrateError> {
    let mut source = WalSource::open(path, system_id)?;
    let file = WalFile { system_id, name: source.name() };
    if archive.has(&file)? {
        return Ok(None);
    }
    seal(archive, &file, &mut source).map(Some)
}

/// What the server asks for.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The file.
    pub file: WalFile,
    /// Where it is to be.
    pub into: PathBuf,
    /// Where segments may lie that were fetched before.
    pub spool: Option<Spool>,
    /// What it is.
    pub server: Server,
}

/// What the server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file.
    Whole,
    /// Nothing: the archive ends before it.
    Missing,
}

/// Fetches a file.
pub fn fetch(archive: &Archive, fetch: &Fetch, monitor: &dyn Monitor) -> Result<Fetched, OrchestrateError> {
    let head = match archive.head(&fetch.file)? {
        Some(head) => head,
        None => match gap::beyond(archive, &fetch.file, fetch.server, monitor)? {
            Some(proof) => awaited(archive, &fetch.file, &proof, monitor)?,
            None => {
                if let Some(spool) = &fetch.spool {
                    ahead::clear(spool, &fetch.file.name);
                }
                return Ok(Fetched::Missing);
            }
        },
    };
    if let Some(spool) = &fetch.spool {
        match spool.take(&fetch.file.name, head.raw_len, &head.hash, &fetch.into) {
            Ok(true) => return Ok(Fetched::Whole),
            Ok(false) => {}
            Err(error) => tracing::debug!("the spool is of no use: {error}"),
        }
    }
    let mut target = WalTarget::create(&fetch.into)?;
    match archive.fetch(&fetch.file, &mut |block| Ok::<(), OrchestrateError>(target.write(block)?))? {
        // The server would take it for the end.
        None => {
            let WalFile { system_id, name } = fetch.file;
            let location = archive.location();
            let what =
                format!("{name} of cluster {system_id} vanished from the archive in {location} while it was read");
            Err(OrchestrateError::Unfit(what))
        }
        Some(_) => {
            target.finish()?;
            Ok(Fetched::Whole)
        }
    }
}

/// Waits for a segment that was written, as something archived proves: two archivers, or one and its predecessor, may have
/// archived them in another order.
fn awaited(
    archive: &Archive,
    file: &WalFile,
    proof: &WalName,
    monitor: &dyn Monitor,
) -> Result<WalHead, OrchestrateError> {
    let interval = crate::source::wait::INTERVAL;
    let mut waited = Duration::ZERO;
    loop {
        if let Some(head) = archive.head(file)? {
            return Ok(head);
        }
        if waited >= PATIENCE {
            break;
        }
        crate::source::wait::pause(interval, &|| monitor.interrupted())?;
        waited += interval;
    }
    let WalFile { system_id, name } = file;
    let proves = match proof {
        WalName::History(timeline) => format!("{proof} says that timeline {timeline} began behind it"),
        _ => format!("{proof} is"),
    };
    Err(OrchestrateError::Unfit(format!(
        "{name} of cluster {system_id} is not in the archive in {}, and {proves}: the log has a gap, beyond which nothing can be \
         recovered; see `cairn wal status`",
        archive.location()
    )))
}

/// What a timeline began from; nothing where that is not archived.
pub fn history_of(archive: &Archive, system_id: u64, timeline: u32) -> Result<Option<Vec<Fork>>, RepoError> {
    let file = WalFile { system_id, name: WalName::History(timeline) };
    // Its length is bounded by what the head of such a file may say.
    let mut content = Vec::new();
    let keep = &mut |block: &[u8]| {
        content.extend_from_slice(block);
        Ok::<(), RepoError>(())
    };
    if archive.fetch(&file, keep)?.is_none() {
        return Ok(None);
    }
    Ok(Some(history(timeline, &content).map_err(RepoError::object(Kind::Wal, archive.id(&file)))?))
}

/// The identifier of the cluster in a data directory.
pub fn cluster(data: &Path) -> Result<u64, SourceError> {
    system_id(data)
}

/// What the server of a data directory is, as that says.
pub fn server(data: &Path) -> Result<Server, SourceError> {
    Ok(if is_standby(data)? { Server::StandsBy } else { Server::Recovers })
}
