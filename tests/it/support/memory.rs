//! Storage in memory, with a clock that only goes forward when something is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cairn::backend::{Backend, BackendError, ByteRange, Stat};
use cairn::format::{Kind, ObjectId};
use jiff::Timestamp;

type Objects = BTreeMap<(Kind, ObjectId), (Arc<Vec<u8>>, i64)>;

#[derive(Default)]
pub struct Memory {
    state: Mutex<(Objects, i64)>,
}

impl Memory {
    /// A copy of the present state: what is left after a crash, or a stolen copy.
    pub fn fork(&self) -> Memory {
        Memory { state: Mutex::new(self.state.lock().unwrap().clone()) }
    }

    pub fn ids(&self) -> Vec<(Kind, ObjectId)> {
        self.state.lock().unwrap().0.keys().copied().collect()
    }

    /// Changes an object's bytes behind everybody's back; `None` removes it.
    pub fn tamper(&self, key: (Kind, ObjectId), change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let objects = &mut self.state.lock().unwrap().0;
        let (bytes, time) = objects.remove(&key).unwrap();
        if let Some(bytes) = change(bytes.to_vec()) {
            objects.insert(key, (Arc::new(bytes), time));
        }
    }

    /// Lets the storage's clock run.
    pub fn pass(&self, seconds: i64) {
        self.state.lock().unwrap().1 += seconds;
    }

    fn not_found(&self, kind: Kind, id: &ObjectId) -> BackendError {
        BackendError::NotFound { kind, id: *id, location: self.location() }
    }
}

impl Backend for Memory {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let found = self.state.lock().unwrap().0.get(&(kind, *id)).map(|(bytes, _)| bytes.clone());
        let bytes = found.ok_or_else(|| self.not_found(kind, id))?;
        let len = bytes.len() as u64;
        let part = match range {
            ByteRange::All { limit } if len <= limit => Some(bytes.as_slice()),
            ByteRange::All { .. } => None,
            ByteRange::At { offset, len } => {
                offset.checked_add(len).and_then(|end| bytes.get(offset as usize..end as usize))
            }
        };
        let wanted = format!("{range:?}");
        let error = BackendError::Range { kind, id: *id, location: self.location(), len, wanted };
        Ok(part.ok_or(error)?.to_vec())
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        let (objects, clock) = &mut *self.state.lock().unwrap();
        if objects.contains_key(&(kind, *id)) {
            return Err(BackendError::AlreadyExists { kind, id: *id, location: self.location() });
        }
        *clock += 1;
        objects.insert((kind, *id), (Arc::new(bytes.to_vec()), *clock));
        Ok(())
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        let objects = self.state.lock().unwrap().0.clone();
        for ((_, id), (bytes, _)) in objects.iter().filter(|((found, _), _)| *found == kind) {
            visit(*id, bytes.len() as u64);
        }
        Ok(())
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let found = self.state.lock().unwrap().0.get(&(kind, *id)).map(|(bytes, time)| (bytes.len() as u64, *time));
        let (len, time) = found.ok_or_else(|| self.not_found(kind, id))?;
        Ok(Stat { len, modified: Timestamp::from_second(1_700_000_000 + time).unwrap() })
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        let removed = self.state.lock().unwrap().0.remove(&(kind, *id));
        removed.map(drop).ok_or_else(|| self.not_found(kind, id))
    }

    fn sync(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn remove_debris(&self, _: u64, _: bool) -> Result<(u64, u64), BackendError> {
        Ok((0, 0))
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}
