//! Taking a queue away while nothing is lost: under its own name it is empty, and its elements wait under a private one.
//!
//! A purge is: set aside, read what was set aside, publish the snapshot, drop. What is pushed meanwhile lies under the
//! queue's own name and is not touched. The undo at any moment before the drop is to put back, which can be repeated.
//!
//! Invariant: an element is dropped only if the whole list that it lies in is, element by element, the list that was
//! saved. It is moved only by `RENAMENX`, which never overwrites, or by a transaction that takes it out of one list and
//! puts it into the other; so after a crash of ours or of the server's it is in one of them and in no other.

use std::collections::BTreeMap;
use std::io;

use redis::Value;

use crate::source::SourceError;
use crate::source::redis::encoding::{KeyKind, Saved};
use crate::source::redis::read::{QueueReader, Wanted};
use crate::source::redis::{Client, End};

/// Elements that one transaction moves.
const BATCH: isize = 64;

/// The private name of what was set aside.
pub fn aside(key: &str) -> String {
    format!("cairn:aside:{key}")
}

impl Client {
    /// Empties keys without deleting: each list gets a private name. Returns what was set aside. A key that is not
    /// there is an empty queue. If an earlier run left something aside, nothing is done.
    pub fn set_aside(&mut self, keys: &[String]) -> Result<BTreeMap<String, u64>, SourceError> {
        if let Some((key, count)) = self.set_aside_already(keys)?.into_iter().next() {
            return Err(self.answer(format!(
                "an earlier run set aside {count} elements of {key:?}; put them back first (cairn platform resume)"
            )));
        }
        for key in keys {
            let kind = self.kind(key)?;
            if !matches!(kind, KeyKind::List | KeyKind::Absent) {
                let kind = kind.type_name();
                return Err(self.answer(format!("{key:?} is a {kind}, and only lists are emptied; nothing was done")));
            }
        }
        for key in keys {
            self.rename_new(key, &aside(key))?;
        }
        self.set_aside_already(keys)
    }

    /// What is set aside of these keys now, with its number of elements.
    pub fn set_aside_already(&mut self, keys: &[String]) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut found = BTreeMap::new();
        for key in keys {
            let count = self.length(&aside(key))?;
            if count > 0 {
                found.insert(key.clone(), count);
            }
        }
        Ok(found)
    }

    /// What is set aside, as a stream in which each key has the queue's own name.
    pub fn read_aside(&self, keys: &[String]) -> Result<QueueReader, SourceError> {
        let wanted = |key: &String| Wanted { key: aside(key), name: key.clone() };
        QueueReader::new(self.link.settings(), keys.iter().map(wanted).collect())
    }

    /// Deletes what was set aside, if it is exactly what was saved; nothing of a key that differs. What is gone already
    /// is no error.
    pub fn drop_aside(&mut self, saved: &[Saved]) -> Result<(), SourceError> {
        for saved in saved {
            let key = saved.key.clone();
            if self.length(&aside(&key))? == 0 {
                continue;
            }
            let mut reader = self.read_aside(std::slice::from_ref(&key))?;
            io::copy(&mut reader, &mut io::sink()).map_err(|error| self.unreadable(&key, error))?;
            if reader.saved() != Some(std::slice::from_ref(saved)) {
                let path = format!("{key:?} of {}", self.link.settings().shown());
                return Err(SourceError::Changed { path, what: "what was set aside is not what was saved" });
            }
            self.ask::<u64>(&format!("delete what was saved of {key:?}"), redis::cmd("DEL").arg(aside(&key)))?;
        }
        Ok(())
    }

    /// Deletes a key's elements if they are exactly those that were saved; else it is as before, and an error says so.
    /// What is pushed meanwhile stays.
    pub fn purge(&mut self, saved: &Saved) -> Result<(), SourceError> {
        let keys = std::slice::from_ref(&saved.key);
        self.set_aside(keys)?;
        let dropped = self.drop_aside(std::slice::from_ref(saved));
        if dropped.is_err() {
            self.put_back(keys)?;
        }
        dropped
    }

    /// Gives back what is set aside, at the end at which it is consumed first: it is older than what was pushed since.
    pub fn put_back(&mut self, keys: &[String]) -> Result<(), SourceError> {
        for key in keys {
            while self.length(&aside(key))? > 0 {
                if self.rename_new(&aside(key), key)? {
                    break;
                }
                self.join_some(key)?;
            }
        }
        Ok(())
    }

    /// Moves some elements of what is set aside to a queue that has elements.
    fn join_some(&mut self, key: &str) -> Result<(), SourceError> {
        let action = format!("put back the elements of {key:?}");
        // A command that fails within a transaction does not undo the others. Watched, the queue stays a list, and so
        // the push cannot fail while the trim succeeds.
        self.ask::<()>(&action, redis::cmd("WATCH").arg(key))?;
        match self.kind(key)? {
            KeyKind::List => {}
            KeyKind::Absent => return self.ask(&action, &redis::cmd("UNWATCH")),
            kind => {
                let (kind, private) = (kind.type_name(), aside(key));
                self.ask::<()>(&action, &redis::cmd("UNWATCH"))?;
                return Err(self.answer(format!(
                    "{key:?} has become a {kind}; what was set aside stays in {private:?} until that is removed"
                )));
            }
        }
        let right = self.link.settings().consumed_from(key) == End::Right;
        let (from, to) = if right { (0, BATCH - 1) } else { (-BATCH, -1) };
        let mut elements: Vec<Vec<u8>> = self.ask(&action, redis::cmd("LRANGE").arg(aside(key)).arg(from).arg(to))?;
        let mut pipe = redis::pipe();
        let moved = pipe.atomic();
        if right {
            moved.cmd("RPUSH").arg(key).arg(&elements);
            moved.cmd("LTRIM").arg(aside(key)).arg(elements.len()).arg(-1);
        } else {
            // Each of them goes before those that were pushed before it.
            elements.reverse();
            moved.cmd("LPUSH").arg(key).arg(&elements);
            moved.cmd("LTRIM").arg(aside(key)).arg(0).arg(-(elements.len() as isize) - 1);
        }
        // Nil if somebody used the queue meanwhile: nothing was moved, and it is tried again.
        let _: Option<Vec<Value>> = self.link.transact(&action, moved)?;
        Ok(())
    }

    pub(super) fn kind(&mut self, key: &str) -> Result<KeyKind, SourceError> {
        let name: String = self.ask("tell the type of a key", redis::cmd("TYPE").arg(key))?;
        KeyKind::from_type(&name).ok_or_else(|| self.answer(format!("{key:?} is a {name}, which is no queue")))
    }

    /// Renames a key unless the new name is taken; says whether it was done. A key that is gone is no error.
    pub(super) fn rename_new(&mut self, from: &str, to: &str) -> Result<bool, SourceError> {
        let renamed = self.ask::<bool>(&format!("rename {from:?}"), redis::cmd("RENAMENX").arg(from).arg(to));
        match renamed {
            Ok(renamed) => Ok(renamed),
            Err(_) if self.kind(from)? == KeyKind::Absent => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn unreadable(&self, key: &str, error: io::Error) -> SourceError {
        match error.downcast::<SourceError>() {
            Ok(error) => error,
            Err(source) => {
                SourceError::Unreadable { action: "read what was set aside of", path: key.to_owned(), source }
            }
        }
    }
}
