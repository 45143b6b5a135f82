//! Cutting and hashing a long stream on threads of their own, while what comes after it is read and what came before is looked
//! up: of a stream that is stored already, these three are all there is to do.
//!
//! Invariants: chunks are those that [`Splitter`](crate::chunker::Splitter) would have cut, in their order; at most [`PIECES`]
//! pieces are on the way, so memory is bounded.

use std::ops::Range;
use std::sync::Arc;
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::chunker::Chunker;
use crate::format::ChunkId;
use crate::repo::error::RepoError;
use crate::repo::frames::Frames;

/// Bytes that are read into a piece.
const PIECE: usize = 512 << 10;
/// Pieces on the way.
const PIECES: usize = 4;

/// A part of a stream on its way. Its bytes begin with room for what the piece before left uncut.
pub struct Piece {
    bytes: Vec<u8>,
    end: usize,
    is_last: bool,
    chunks: Vec<(Range<usize>, ChunkId)>,
}

impl Piece {
    /// Room for what is read next.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Says that so many bytes of [`Piece::room`] were filled; none at the end of the stream.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
        self.is_last = len == 0;
    }

    /// Whether it should be handed on.
    pub fn is_full(&self) -> bool {
        self.is_last || self.bytes.len() - self.end < PIECE / 2
    }

    /// Its chunks, when it has come back.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, &[u8])> {
        self.chunks.iter().map(|(range, id)| (*id, &self.bytes[range.clone()]))
    }
}

/// The threads, and the pieces that are with them.
pub struct Cutting {
    to_cut: Sender<Piece>,
    done: Receiver<Piece>,
    /// What a piece's bytes begin with: as much as can be left of the one before.
    head: usize,
    under_way: usize,
    is_over: bool,
    free: Vec<Vec<u8>>,
}

impl Cutting {
    /// Starts two threads. `left` is what was read before, and not cut yet.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        chunker: Chunker,
        frames: Arc<Frames>,
        left: Vec<u8>,
    ) -> Self {
        let head = chunker.max_len();
        let (to_cut, pieces) = bounded(PIECES);
        let (to_hash, cut) = bounded(PIECES);
        let (hashed, done) = bounded(PIECES);
        scope.spawn(move || cut_all(&chunker, left, &pieces, &to_hash));
        scope.spawn(move || {
            for mut piece in cut {
                let Piece { bytes, chunks, .. } = &mut piece;
                chunks.iter_mut().for_each(|(range, id)| *id = frames.keys().chunk_id(&bytes[range.clone()]));
                if hashed.send(piece).is_err() {
                    return;
                }
            }
        });
        Cutting { to_cut, done, head, under_way: 0, is_over: false, free: Vec::new() }
    }

    /// A piece to be filled; nothing when the last one was handed on.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let bytes = || self.free.pop().unwrap_or_else(|| vec![0; self.head + PIECE]);
        (!self.is_over).then(bytes).map(|bytes| Piece { bytes, end: self.head, is_last: false, chunks: Vec::new() })
    }

    /// Hands a piece on.
    pub fn hand_on(&mut self, piece: Piece) -> Result<(), RepoError> {
        self.is_over = piece.is_last;
        self.under_way += 1;
        self.to_cut.send(piece).map_err(|_| RepoError::Worker)
    }

    /// The next piece that has been cut and hashed; waits for it if no more can be handed on before. Nothing when there is none.
    pub fn finished(&mut self) -> Result<Option<Piece>, RepoError> {
        let must_wait = self.under_way == PIECES || (self.is_over && self.under_way > 0);
        let piece = match must_wait {
            true => Some(self.done.recv().map_err(|_| RepoError::Worker)?),
            false => self.done.try_recv().ok(),
        };
        self.under_way -= usize::from(piece.is_some());
        Ok(piece)
    }

    /// Takes back a piece that is not needed any more.
    pub fn give_back(&mut self, piece: Piece) {
        self.free.push(piece.bytes);
    }
}

fn cut_all(chunker: &Chunker, mut left: Vec<u8>, pieces: &Receiver<Piece>, to_hash: &Sender<Piece>) {
    let head = chunker.max_len();
    for mut piece in pieces {
        let mut at = head - left.len();
        piece.bytes[at..head].copy_from_slice(&left);
        while at < piece.end && (piece.is_last || piece.end - at >= head) {
            let len = chunker.cut(&piece.bytes[at..piece.end]);
            piece.chunks.push((at..at + len, ChunkId::from_bytes([0; ChunkId::LEN])));
            at += len;
        }
        left.clear();
        left.extend_from_slice(&piece.bytes[at..piece.end]);
        if to_hash.send(piece).is_err() {
            return;
        }
    }
}
