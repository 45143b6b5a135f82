//! A stream of [`encoding`](super::encoding) back into Redis.
//!
//! Invariant: no key is touched before the whole stream was read and found right. Until then elements go under private
//! names (`cairn:loading:...`), which are deleted if the stream is bad. Then they are joined to what is there: a queue's
//! elements come in their order and are consumed before those that are there; of a hash's fields those that are there
//! stay.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::source::SourceError;
use crate::source::redis::Client;
use crate::source::redis::aside::aside;
use crate::source::redis::encoding::{Decoder, Item, KeyKind, Saved};

/// Bytes that are sent at once, unless a single element is larger.
const BATCH: usize = 1 << 20;
/// Elements that are sent at once.
const COUNT: usize = 512;
/// A stream has at most so many keys.
const MAX_KEYS: usize = 10_000;

fn loading(key: &str) -> String {
    format!("cairn:loading:{key}")
}

impl Client {
    /// Pushes what a stream holds back, and returns how many elements each key got. If it fails before the stream's end
    /// was seen, nothing has changed. Running it a second time pushes a second time.
    pub fn push_back(&mut self, reader: impl Read) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut loaded = Vec::new();
        if let Err(error) = self.load(Decoder::new(reader), &mut loaded) {
            for (key, _) in &loaded {
                // What remains there if this fails, too, is deleted by the next attempt.
                let _ = self.ask::<u64>("delete what was loaded", redis::cmd("DEL").arg(loading(key)));
            }
            return Err(error);
        }
        let mut pushed = BTreeMap::new();
        for (key, saved) in loaded {
            if let Some(saved) = saved {
                self.join(&key, saved.kind)?;
                pushed.insert(key, saved.elements);
            }
        }
        Ok(pushed)
    }

    /// Reads the whole stream into private keys. `loaded` has each key that was begun, also after an error.
    fn load<R: Read>(
        &mut self,
        mut decoder: Decoder<R>,
        loaded: &mut Vec<(String, Option<Saved>)>,
    ) -> Result<(), SourceError> {
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut size = 0;
        let mut current = KeyKind::Absent;
        loop {
            match decoder.next_item().map_err(|error| self.unusable(error))? {
                Item::Key { name, kind } => {
                    self.begin(&name, kind, loaded)?;
                    current = kind;
                }
                Item::Element(parts) => {
                    size += parts.iter().map(Vec::len).sum::<usize>();
                    batch.extend(parts);
                    if size >= BATCH || batch.len() >= COUNT {
                        self.send(loaded, current, &mut batch)?;
                        size = 0;
                    }
                }
                Item::KeyEnd(saved) => {
                    self.send(loaded, current, &mut batch)?;
                    size = 0;
                    if let Some(last) = loaded.last_mut() {
                        last.1 = Some(saved);
                    }
                }
                Item::End => return Ok(()),
            }
        }
    }

    fn begin(
        &mut self,
        key: &str,
        kind: KeyKind,
        loaded: &mut Vec<(String, Option<Saved>)>,
    ) -> Result<(), SourceError> {
        if loaded.len() >= MAX_KEYS || loaded.iter().any(|(known, _)| known == key) {
            return Err(self.answer(format!("the stream has too many keys, or {key:?} twice; nothing was pushed back")));
        }
        let there = self.kind(key)?;
        if there != KeyKind::Absent && kind != KeyKind::Absent && there != kind {
            let (there, kind) = (there.type_name(), kind.type_name());
            return Err(self.answer(format!("{key:?} is a {there}, and was a {kind}; nothing was pushed back")));
        }
        if kind == KeyKind::List && !self.set_aside_already(std::slice::from_ref(&key.to_owned()))?.is_empty() {
            return Err(self.answer(format!(
                "elements of {key:?} are set aside by a run that did not end; run cairn platform resume first"
            )));
        }
        loaded.push((key.to_owned(), None));
        self.ask::<u64>("delete what an earlier attempt loaded", redis::cmd("DEL").arg(loading(key))).map(drop)
    }

    fn send(
        &mut self,
        loaded: &[(String, Option<Saved>)],
        kind: KeyKind,
        batch: &mut Vec<Vec<u8>>,
    ) -> Result<(), SourceError> {
        let Some((key, _)) = loaded.last() else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        let name = match kind {
            KeyKind::List => "RPUSH",
            KeyKind::Set => "SADD",
            KeyKind::Hash => "HMSET",
            KeyKind::SortedSet => "ZADD",
            KeyKind::Absent => return Err(self.answer(format!("an element of {key:?}, which was not there"))),
        };
        let mut command = redis::cmd(name);
        command.arg(loading(key));
        match kind {
            // The score comes first.
            KeyKind::SortedSet => batch.chunks(2).for_each(|pair| {
                command.arg(pair.get(1)).arg(&pair[0]);
            }),
            _ => {
                command.arg(&*batch);
            }
        }
        batch.clear();
        self.ask::<()>(&format!("load the elements of {key:?}"), &command)
    }

    /// From the private name to the key's own.
    fn join(&mut self, key: &str, kind: KeyKind) -> Result<(), SourceError> {
        match kind {
            KeyKind::Absent => Ok(()),
            KeyKind::List => {
                if !self.rename_new(&loading(key), &aside(key))? {
                    return Err(self.answer(format!("somebody else set elements of {key:?} aside; run one at a time")));
                }
                self.put_back(std::slice::from_ref(&key.to_owned()))
            }
            KeyKind::Set | KeyKind::Hash | KeyKind::SortedSet => {
                if self.rename_new(&loading(key), key)? {
                    return Ok(());
                }
                self.add_missing(key, kind)?;
                self.ask::<u64>("delete what was joined", redis::cmd("DEL").arg(loading(key))).map(drop)
            }
        }
    }

    fn add_missing(&mut self, key: &str, kind: KeyKind) -> Result<(), SourceError> {
        let action = format!("join the elements of {key:?}");
        let mut reader = self.read_keys(std::slice::from_ref(&loading(key)))?;
        let mut decoder = Decoder::new(&mut reader);
        loop {
            let Item::Element(parts) = (match decoder.next_item().map_err(|error| self.unusable(error))? {
                Item::End => return Ok(()),
                item => item,
            }) else {
                continue;
            };
            let mut command = match kind {
                KeyKind::Hash => redis::cmd("HSETNX"),
                KeyKind::SortedSet => redis::cmd("ZADD"),
                _ => redis::cmd("SADD"),
            };
            command.arg(key);
            match kind {
                KeyKind::SortedSet => command.arg("NX").arg(parts.get(1)).arg(parts.first()),
                _ => command.arg(&parts),
            };
            self.ask::<()>(&action, &command)?;
        }
    }

    fn unusable(&self, source: io::Error) -> SourceError {
        SourceError::Unreadable {
            action: "read queues to be pushed back to",
            path: self.link.settings().shown(),
            source,
        }
    }
}
