//! Keys of Redis as a stream of [`encoding`](super::encoding), in bounded memory.
//!
//! Invariant: a key's record ends only if nothing changed the key between its first and its last element. The server
//! itself says so: the key is watched (`WATCH`) on the reader's own connection while it is read in pieces, and the
//! transaction at its end is refused if anybody touched it. So a record is of one point in time without stopping the
//! server, and a queue that is in use makes an error, never a stored mixture.

use std::collections::VecDeque;
use std::io::{self, Read};

use redis::{Cmd, FromRedisValue, Value};

use crate::source::SourceError;
use crate::source::redis::encoding::{Encoder, KeyKind, Saved};
use crate::source::redis::link::Link;
use crate::source::redis::{Client, RedisSettings};

/// How much one answer should hold at most; a single element may be larger.
const ANSWER: usize = 2 << 20;
/// Elements of one answer at most.
const BATCH: usize = 256;
/// Elements of the first answer, while their size is not known.
const FIRST: usize = 8;
/// Names of a hash's fields or elements of a set come in one answer; so there may be so many.
const MOST_UNORDERED: u64 = 100_000;

/// A key to be read, under the name that it is to have in the stream.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Where its elements are.
    pub key: String,
    /// What it is called.
    pub name: String,
}

/// Reads keys, one after the other, through [`Read`].
pub struct QueueReader {
    link: Link,
    encoder: Encoder,
    wanted: VecDeque<Wanted>,
    current: Option<Reading>,
    stage: Stage,
    buffer: Vec<u8>,
    given: usize,
    saved: Vec<Saved>,
}

#[derive(PartialEq)]
enum Stage {
    Begin,
    Keys,
    Ended,
    Failed,
}

struct Reading {
    wanted: Wanted,
    kind: KeyKind,
    length: u64,
    done: u64,
    /// The size of the largest element so far.
    largest: usize,
    /// The fields of a hash that are still to be read.
    fields: VecDeque<Vec<u8>>,
}

impl Client {
    /// The elements of these keys as a stream. Keys that do not exist are in it as such.
    pub fn read_keys(&self, keys: &[String]) -> Result<QueueReader, SourceError> {
        let wanted = |key: &String| Wanted { key: key.clone(), name: key.clone() };
        QueueReader::new(self.link.settings(), keys.iter().map(wanted).collect())
    }

    /// A queue with all its keys as a stream.
    pub fn read_queue(&self, queue: &str) -> Result<QueueReader, SourceError> {
        self.read_keys(&self.link.settings().keys(queue))
    }
}

impl QueueReader {
    pub(super) fn new(settings: &RedisSettings, wanted: VecDeque<Wanted>) -> Result<Self, SourceError> {
        Ok(QueueReader {
            link: Link::open(settings)?,
            encoder: Encoder::default(),
            wanted,
            current: None,
            stage: Stage::Begin,
            buffer: Vec::new(),
            given: 0,
            saved: Vec::new(),
        })
    }

    /// What was read, once the stream has been read to its end; `None` before.
    pub fn saved(&self) -> Option<&[Saved]> {
        let whole = self.stage == Stage::Ended && self.given == self.buffer.len();
        whole.then_some(&self.saved)
    }

    /// What was read. To be called after the stream's last byte.
    pub fn finish(self) -> Result<Vec<Saved>, SourceError> {
        let whole = self.saved().map(<[Saved]>::to_vec);
        whole.ok_or_else(|| self.answer("its queues were not read to their end, so they are not trusted".to_owned()))
    }

    fn ask<T: FromRedisValue + Send + 'static>(&mut self, action: &str, command: &Cmd) -> Result<T, SourceError> {
        self.link.ask(action, command)
    }

    fn answer(&self, what: String) -> SourceError {
        SourceError::Answer { server: self.link.settings().shown(), what }
    }

    /// Puts the next piece of the stream into the buffer, which is empty.
    fn advance(&mut self) -> Result<(), SourceError> {
        let mut out = std::mem::take(&mut self.buffer);
        out.clear();
        let step = self.step(&mut out);
        self.buffer = out;
        self.given = 0;
        step
    }

    fn step(&mut self, out: &mut Vec<u8>) -> Result<(), SourceError> {
        if self.stage == Stage::Begin {
            self.encoder.start(out);
            self.stage = Stage::Keys;
        } else if let Some(reading) = self.current.take() {
            self.batch(reading, out)?;
        } else if let Some(wanted) = self.wanted.pop_front() {
            self.open(wanted, out)?;
        } else {
            self.encoder.finish(out);
            self.stage = Stage::Ended;
        }
        Ok(())
    }

    fn open(&mut self, wanted: Wanted, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let key = wanted.key.clone();
        self.ask::<()>("watch a queue", redis::cmd("WATCH").arg(&key))?;
        let name: String = self.ask("tell the type of a key", redis::cmd("TYPE").arg(&key))?;
        let kind = KeyKind::from_type(&name).ok_or_else(|| {
            self.answer(format!("{key:?} is a {name}, which cannot be saved; take it from the queues"))
        })?;
        let count = match kind {
            KeyKind::List => "LLEN",
            KeyKind::Set => "SCARD",
            KeyKind::Hash => "HLEN",
            KeyKind::SortedSet => "ZCARD",
            KeyKind::Absent => "EXISTS",
        };
        let length: u64 = self.ask("tell the length of a queue", redis::cmd(count).arg(&key))?;
        if matches!(kind, KeyKind::Set | KeyKind::Hash) && length > MOST_UNORDERED {
            return Err(
                self.answer(format!("{key:?} has {length} elements, and at most {MOST_UNORDERED} can be saved"))
            );
        }
        let fields = match kind {
            KeyKind::Hash => self.ask::<Vec<Vec<u8>>>("list the fields of a hash", redis::cmd("HKEYS").arg(&key))?,
            _ => Vec::new(),
        };
        self.encoder.key(out, &wanted.name, kind).map_err(|error| self.answer(error.to_string()))?;
        self.current = Some(Reading { wanted, kind, length, done: 0, largest: 0, fields: fields.into() });
        Ok(())
    }

    fn batch(&mut self, mut reading: Reading, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let elements = match reading.length - reading.done {
            0 => Vec::new(),
            left => self.fetch(&mut reading, left)?,
        };
        if elements.is_empty() {
            return self.close(&reading, out);
        }
        for element in elements {
            let parts: Vec<&[u8]> = element.iter().map(Vec::as_slice).collect();
            reading.largest = parts.iter().map(|part| part.len()).sum::<usize>().max(reading.largest);
            self.encoder.element(out, &parts).map_err(|error| self.answer(error.to_string()))?;
            reading.done += 1;
        }
        self.current = Some(reading);
        Ok(())
    }

    /// The next elements. None means that the key changed, which its end will find.
    fn fetch(&mut self, reading: &mut Reading, left: u64) -> Result<Vec<Vec<Vec<u8>>>, SourceError> {
        let count = if reading.done == 0 { FIRST } else { (ANSWER / reading.largest.max(1)).clamp(1, BATCH) };
        let count = count.min(usize::try_from(left).unwrap_or(BATCH));
        let key = reading.wanted.key.as_str();
        let last = reading.done + count as u64 - 1;
        let action = format!("read the queue {key:?}");
        let single = |values: Vec<Vec<u8>>| values.into_iter().map(|value| vec![value]).collect();
        Ok(match reading.kind {
            KeyKind::Absent => Vec::new(),
            KeyKind::List => single(self.ask(&action, redis::cmd("LRANGE").arg(key).arg(reading.done).arg(last))?),
            KeyKind::Set => single(self.ask(&action, redis::cmd("SMEMBERS").arg(key))?),
            KeyKind::SortedSet => {
                let mut command = redis::cmd("ZRANGE");
                command.arg(key).arg(reading.done).arg(last).arg("WITHSCORES");
                let flat: Vec<Vec<u8>> = self.ask(&action, &command)?;
                flat.chunks(2).map(<[Vec<u8>]>::to_vec).collect()
            }
            KeyKind::Hash => {
                let fields: Vec<Vec<u8>> = reading.fields.drain(..count.min(reading.fields.len())).collect();
                let values: Vec<Option<Vec<u8>>> = self.ask(&action, redis::cmd("HMGET").arg(key).arg(&fields))?;
                let pairs = fields.into_iter().zip(values);
                pairs.filter_map(|(field, value)| Some(vec![field, value?])).collect()
            }
        })
    }

    fn close(&mut self, reading: &Reading, out: &mut Vec<u8>) -> Result<(), SourceError> {
        // Nil instead of the answers: the key was touched since WATCH.
        let mut pipe = redis::pipe();
        let look = pipe.atomic().cmd("EXISTS").arg(&reading.wanted.key);
        let untouched: Option<Vec<Value>> = self.link.transact("see that a queue is unchanged", look)?;
        if untouched.is_none() || reading.done != reading.length && reading.kind != KeyKind::Absent {
            let path = format!("{} of {}", reading.wanted.key, self.link.settings().shown());
            return Err(SourceError::Changed { path, what: "somebody uses the queue" });
        }
        let saved = self.encoder.end_key(out).map_err(|error| self.answer(error.to_string()))?;
        self.saved.push(saved);
        Ok(())
    }
}

impl Read for QueueReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.buffer.len() && self.stage != Stage::Ended {
            if self.stage == Stage::Failed {
                return Err(io::Error::other("an earlier error ended this stream"));
            }
            if let Err(error) = self.advance() {
                self.stage = Stage::Failed;
                return Err(io::Error::other(error));
            }
        }
        let length = buffer.len().min(self.buffer.len() - self.given);
        buffer[..length].copy_from_slice(&self.buffer[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}
