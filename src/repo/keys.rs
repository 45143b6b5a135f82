//! The keys of a repository: each wraps the same master key.

use jiff::Timestamp;

use crate::backend::{Backend, ByteRange, list_all};
use crate::format::crypto::MasterKey;
use crate::format::key::{Credential, KeyObject, MAX_KEY_OBJECT, PasswordCost};
use crate::format::{FormatError, Kind, ObjectId, RepositoryId};
use crate::repo::Repository;
use crate::repo::error::RepoError;

/// More keys than this are refused: each costs a key derivation to try.
const MAX_KEYS: usize = 64;

const KEY_UNREAD: &str = "put the object back into `keys` from a copy of the repository, or use the password or key file of \
                          another key: without one nothing can be opened";

/// A key of a repository.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its id.
    pub id: ObjectId,
    /// Its name.
    pub label: String,
    /// When it was made.
    pub created: String,
    /// `password` or `key file`.
    pub method: &'static str,
}

fn read(backend: &dyn Backend, id: &ObjectId) -> Result<KeyObject, RepoError> {
    let stored = backend.read(Kind::Key, id, ByteRange::All { limit: MAX_KEY_OBJECT as u64 })?;
    if ObjectId::of(&stored) != *id {
        return Err(RepoError::object(Kind::Key, *id)(FormatError::Hash { what: "key" }));
    }
    KeyObject::decode(&stored).map_err(RepoError::object(Kind::Key, *id))
}

fn ids(backend: &dyn Backend) -> Result<Vec<ObjectId>, RepoError> {
    let all = list_all(backend, Kind::Key)?;
    if all.len() > MAX_KEYS {
        let (found, limit) = (all.len() as u64, MAX_KEYS as u64);
        return Err(FormatError::TooLarge { what: "number of keys", found, limit }.into());
    }
    Ok(all.into_iter().map(|(id, _)| id).collect())
}

/// Finds the key object that the credential opens. A key that cannot be read is passed over while another opens.
pub fn unlock(
    backend: &dyn Backend,
    repository: RepositoryId,
    credential: &Credential,
) -> Result<MasterKey, RepoError> {
    let mut problem = None;
    for id in ids(backend)? {
        let result = read(backend, &id)
            .and_then(|key| key.unwrap(repository, credential).map_err(RepoError::object(Kind::Key, id)));
        match result {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => {}
            // Not the advice to check: that needs a key.
            Err(RepoError::Object { kind, id, source }) => {
                problem = Some(RepoError::Unread { kind, id, why: KEY_UNREAD, source: Box::new(source.into()) });
            }
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.unwrap_or_else(|| RepoError::WrongKey { location: backend.location() }))
}

impl Repository {
    /// All keys, oldest first.
    pub fn list_keys(&self) -> Result<Vec<KeyInfo>, RepoError> {
        let mut keys = Vec::new();
        for id in ids(self.backend.as_ref())? {
            let key = read(self.backend.as_ref(), &id)?;
            let method = key.method();
            keys.push(KeyInfo { id, label: key.label, created: key.created, method });
        }
        keys.sort_by(|a, b| (&a.created, a.id).cmp(&(&b.created, b.id)));
        Ok(keys)
    }

    /// Adds a key.
    pub fn add_key(&self, credential: &Credential, label: String, cost: PasswordCost) -> Result<ObjectId, RepoError> {
        let now = Timestamp::now().to_string();
        let key = KeyObject::wrap(&self.master, self.config.id, credential, cost, label, now)?;
        // It is tried before it is trusted.
        if key.unwrap(self.config.id, credential)?.is_none_or(|master| master.as_bytes() != self.master.as_bytes()) {
            return Err(FormatError::Authentication { what: "key" }.into());
        }
        let stored = key.encode()?;
        let id = ObjectId::of(&stored);
        self.backend.write_new(Kind::Key, &id, &stored)?;
        self.backend.sync()?;
        Ok(id)
    }

    /// Removes the key whose id begins so; never the last one.
    pub fn remove_key(&self, prefix: &str) -> Result<ObjectId, RepoError> {
        let all = ids(self.backend.as_ref())?;
        let matching: Vec<ObjectId> = all.iter().copied().filter(|id| id.begins_with(prefix)).collect();
        let [id] = matching[..] else {
            return Err(RepoError::KeyPrefix { prefix: prefix.to_owned(), count: matching.len() });
        };
        if all.len() == 1 {
            return Err(RepoError::LastKey { id });
        }
        self.backend.remove(Kind::Key, &id)?;
        self.backend.sync()?;
        Ok(id)
    }

    /// Replaces the keys that `old` opens by one for `new`. The new one is durable before an old one goes.
    pub fn change_key(&self, old: &Credential, new: &Credential, cost: PasswordCost) -> Result<ObjectId, RepoError> {
        let mut opened = Vec::new();
        for id in ids(self.backend.as_ref())? {
            let key = read(self.backend.as_ref(), &id)?;
            if key.unwrap(self.config.id, old)?.is_some() {
                opened.push((id, key.label));
            }
        }
        let Some((_, label)) = opened.first() else {
            return Err(RepoError::WrongKey { location: self.backend.location() });
        };
        let added = self.add_key(new, label.clone(), cost)?;
        for (id, _) in opened {
            self.backend.remove(Kind::Key, &id)?;
        }
        self.backend.sync()?;
        Ok(added)
    }
}
