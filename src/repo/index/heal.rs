//! Finding what is silently wrong in an index file, and putting it right from the packs.
//!
//! Invariant: after [`Index::heal`] the index has every frame of every usable pack and every chunk of every frame, and
//! nothing else. Rows that were right keep their numbers; if a pack gets others, [`Index::state`] changes, so that whoever
//! holds numbers over it (a writer, a gc) finds out before it publishes or removes anything.

use rusqlite::{Connection, TransactionBehavior};

use crate::backend::Backend;
use crate::format::crypto::Keys;
use crate::progress::{Monitor, Phase};
use crate::repo::cache;
use crate::repo::error::RepoError;
use crate::repo::index::places::{self, Limits};
use crate::repo::index::refresh::{Footer, UnusablePack, read_footer};
use crate::repo::index::rows::{frames_of_pack, is_damage, pack_numbers};
use crate::repo::index::{ChunkNo, FrameInfo, Index, PackInfo, add_pack, remove_packs};

/// What a chunk adds to the sum over all of them, whatever their order.
fn mix(prefix: u64, number: ChunkNo) -> u64 {
    let mixed = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    [prefix, number].into_iter().fold(0, mixed)
}

/// What one pass over the index found.
#[derive(Default)]
struct Findings {
    bad_packs: Vec<u64>,
    orphans: bool,
    chunks_differ: bool,
    /// The next number is one that a chunk has.
    counter_is_behind: bool,
}

impl Findings {
    fn are_none(&self) -> bool {
        self.bad_packs.is_empty() && !self.orphans && !self.chunks_differ && !self.counter_is_behind
    }
}

impl Index {
    /// Compares all rows with their sums and with each other, and makes anew what is wrong; then brings the index up to
    /// date. True if something was wrong.
    pub fn heal(
        &self,
        backend: &dyn Backend,
        keys: &Keys,
        monitor: &dyn Monitor,
    ) -> Result<(bool, Vec<UnusablePack>), RepoError> {
        let mut healed = match self.repair() {
            Err(RepoError::Index { source, .. }) if is_damage(&source) => self.empty().map(|()| true)?,
            result => result?,
        };
        let unusable = match self.refresh(backend, keys, monitor) {
            Err(RepoError::Index { source, .. }) if is_damage(&source) => {
                self.empty()?;
                healed = true;
                self.refresh(backend, keys, monitor)?
            }
            result => result?,
        };
        Ok((healed, unusable))
    }

    fn repair(&self) -> Result<bool, RepoError> {
        let mut connection = self.lock();
        // Looking takes long, and mostly nothing is wrong: others may write meanwhile.
        let looking = connection.transaction().map_err(self.failed())?;
        if inspect(&looking).map_err(self.failed())?.are_none() {
            return Ok(false);
        }
        drop(looking);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        let found = inspect(&transaction).map_err(self.failed())?;
        if found.are_none() {
            return Ok(false);
        }
        repair(&transaction, &found).map_err(self.failed())?;
        transaction.commit().map_err(self.failed())?;
        self.drop_frames();
        drop(connection);
        *self.filter() = None;
        self.damaged.store(false, std::sync::atomic::Ordering::SeqCst);
        Ok(true)
    }

    /// Makes the index what the packs say, whatever it was: heals it, and compares each pack's rows with its footer. What is
    /// right stays as it is, with its numbers, so that whoever uses the index at this moment is not disturbed.
    pub fn rebuild(
        &self,
        backend: &dyn Backend,
        keys: &Keys,
        monitor: &dyn Monitor,
    ) -> Result<Vec<UnusablePack>, RepoError> {
        if !self.is_well_formed()? {
            self.empty()?;
        }
        let (_, mut unusable) = self.heal(backend, keys, monitor)?;
        let packs = self.packs()?;
        monitor.begin(Phase::Index, Some(packs.len() as u64));
        for pack in packs {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            match read_footer(backend, keys, pack.kind, &pack.id, pack.len) {
                Ok(footer) => self.correct(&pack, &footer)?,
                // A gc removed it since it was listed.
                Err(error) if error.is_not_found() => {}
                Err(error) if error.is_damage() => {
                    self.remove_packs(&[pack.no])?;
                    unusable.push(UnusablePack { kind: pack.kind, id: pack.id, error });
                }
                Err(error) => return Err(error),
            }
            monitor.advance(1);
        }
        monitor.end();
        self.settle(Limits::COMPACT)?;
        Ok(unusable)
    }

    /// Whether SQLite finds its file whole.
    fn is_well_formed(&self) -> Result<bool, RepoError> {
        let found = self.lock().query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match found {
            Ok(found) => Ok(found == "ok"),
            Err(error) if is_damage(&error) => Ok(false),
            Err(error) => Err(self.failed()(error)),
        }
    }

    /// Makes a pack's rows equal to its footer.
    fn correct(&self, pack: &PackInfo, footer: &Footer) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(self.failed())?;
        let known = frames_of_pack(&transaction, pack.no).map_err(self.failed())?;
        let is_equal = known.iter().map(|frame| &frame.entry).eq(&footer.frames) && pack.header == footer.header;
        // Without rows it went meanwhile.
        if is_equal || known.is_empty() {
            return Ok(());
        }
        remove_packs(&transaction, &[pack.no]).map_err(self.failed())?;
        add_pack(&transaction, pack.kind, &pack.id, pack.len, &footer.header, &footer.frames).map_err(self.failed())?;
        transaction.execute("UPDATE counter SET state = random()", []).map_err(self.failed())?;
        transaction.commit().map_err(self.failed())?;
        self.drop_frames();
        Ok(())
    }

    /// Goes on with another file, whose tables are empty or what another process has made of them: this one's pages may be
    /// damaged. Numbers begin anew in it, and [`Index::state`] is another.
    fn empty(&self) -> Result<(), RepoError> {
        let mut connection = self.lock();
        let next = cache::next_index(&self.path());
        let fresh = Index::open_file(&next, self.repository)?;
        std::mem::swap(&mut *connection, &mut *fresh.lock());
        *self.path.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        self.drop_frames();
        drop(connection);
        // With it goes the connection to the old file.
        drop(fresh);
        cache::remove_older_indexes(&self.path());
        *self.filter() = None;
        self.damaged.store(false, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

/// The number behind a frame's last chunk.
fn end(frame: &FrameInfo) -> ChunkNo {
    frame.first.saturating_add(frame.entry.chunks.len() as u64)
}

/// Whether the frames of a pack have numbers of their own, from `next` on: packs get theirs in the order of their rows.
fn follow(frames: &[FrameInfo], next: ChunkNo) -> bool {
    frames.first().is_none_or(|first| first.first >= next) && frames.windows(2).all(|two| end(&two[0]) == two[1].first)
}

fn inspect(connection: &Connection) -> Result<Findings, rusqlite::Error> {
    let mut found = Findings::default();
    let (mut count, mut sum) = (0u64, 0u64);
    let mut next = 0;
    for pack in pack_numbers(connection)? {
        match frames_of_pack(connection, pack) {
            // Two chunks of one number: then a look-up by number finds the one or the other.
            Ok(frames) if !follow(&frames, next) => found.bad_packs.push(pack),
            Ok(frames) => {
                next = frames.last().map_or(next, end);
                for frame in &frames {
                    for (chunk, number) in frame.entry.chunks.iter().zip(frame.first..) {
                        count += 1;
                        sum = sum.wrapping_add(mix(places::prefix(&chunk.id), number));
                    }
                }
            }
            Err(error) if is_damage(&error) => found.bad_packs.push(pack),
            Err(error) => return Err(error),
        }
    }
    found.counter_is_behind = connection.query_row("SELECT next < ?1 FROM counter", [next], |row| row.get(0))?;
    let sql = "SELECT EXISTS(SELECT 1 FROM frame WHERE pack NOT IN (SELECT no FROM pack))";
    found.orphans = connection.query_row(sql, [], |row| row.get(0))?;
    let (mut there, mut there_sum) = (0u64, 0u64);
    let sound = places::inspect(connection, &mut |prefix, number| {
        there += 1;
        there_sum = there_sum.wrapping_add(mix(prefix, number));
    })?;
    found.chunks_differ = !sound || (there, there_sum) != (count, sum);
    Ok(found)
}

fn repair(connection: &Connection, found: &Findings) -> Result<(), rusqlite::Error> {
    for pack in &found.bad_packs {
        connection.execute("DELETE FROM pack WHERE no = ?1", [pack])?;
    }
    connection.execute("DELETE FROM frame WHERE pack NOT IN (SELECT no FROM pack)", [])?;
    if !found.bad_packs.is_empty() {
        connection.execute("UPDATE counter SET state = random()", [])?;
    }
    places::clear(connection)?;
    let mut next = 0;
    for pack in pack_numbers(connection)? {
        let frames = frames_of_pack(connection, pack)?;
        let chunks =
            frames.iter().flat_map(|frame| frame.entry.chunks.iter().map(|chunk| &chunk.id).zip(frame.first..));
        places::add(connection, chunks)?;
        next = frames.last().map_or(next, end);
        places::settle(connection, Limits::DEFAULT)?;
    }
    connection.execute("UPDATE counter SET next = max(next, ?1)", [next])?;
    Ok(())
}
