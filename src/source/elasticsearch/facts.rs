//! What a snapshot held, counted when it was taken, and compared after a restore.
//!
//! A snapshot does not say how many documents are in it, so the living indices are counted: with the platform at rest
//! that is the same number. While it works, it is near it, and the note says so.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;

use super::client::{Answer, Call, Client, GRACE};
use super::snapshot::Snapshot;
use crate::format::set::ElasticsearchFacts;
use crate::source::SourceError;

/// Whether something wrote while the snapshot was taken and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiescence {
    /// Nothing did: the counts are those of the snapshot.
    AtRest,
    /// The platform worked.
    Online,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The facts.
    pub facts: ElasticsearchFacts,
    /// What is to be known about them.
    pub notes: Vec<String>,
}

impl Client {
    /// Counts the documents of each index in the snapshot.
    pub fn facts(
        &self,
        snapshot: &Snapshot,
        quiescence: Quiescence,
        stop: &dyn Fn() -> bool,
    ) -> Result<Counted, SourceError> {
        let limit = self.settings.request_timeout() + GRACE;
        let info = self.attended(limit, stop, Client::info)?;
        let mut notes = self.absent(snapshot, quiescence, stop)?;
        let (documents, uncounted) = self.documents(&snapshot.indices, stop)?;
        notes.extend(uncounted.into_iter().map(|index| format!("{index}; its documents are not counted")));
        if quiescence == Quiescence::Online {
            notes.push(
                "documents were counted while the platform worked: the snapshot may hold a few more or fewer"
                    .to_owned(),
            );
        }
        let facts = ElasticsearchFacts {
            cluster_uuid: info.cluster_uuid,
            cluster_name: info.cluster_name,
            repository: self.settings.repository.clone(),
            snapshot: snapshot.name.clone(),
            snapshot_uuid: snapshot.uuid.clone(),
            documents,
        };
        Ok(Counted { facts, notes })
    }

    /// The documents of these indices, after a refresh; and those that cannot be counted, with the reason.
    pub fn documents(
        &self,
        indices: &[String],
        stop: &dyn Fn() -> bool,
    ) -> Result<(BTreeMap<String, u64>, Vec<String>), SourceError> {
        let limit = self.settings.request_timeout() * 2 + GRACE;
        let mut documents = BTreeMap::new();
        let mut uncounted = Vec::new();
        for index in indices {
            let name = index.clone();
            match self.attended(limit, stop, move |client| client.count(&name))? {
                Ok(count) => {
                    documents.insert(index.clone(), count);
                }
                Err(why) => uncounted.push(format!("the index {index} {why}")),
            }
        }
        Ok((documents, uncounted))
    }

    /// The documents of an index, or why there is no such number.
    fn count(&self, index: &str) -> Result<Result<u64, &'static str>, SourceError> {
        for (method, operation) in [(Method::POST, "_refresh"), (Method::GET, "_count")] {
            let path = [index, operation];
            let call = Call::new(method, &path);
            let answer = match self.send(&call)? {
                Answer::Done(answer) => answer,
                Answer::Refused(refusal) => match refusal.kind.as_str() {
                    "index_closed_exception" => return Ok(Err("is closed")),
                    "index_not_found_exception" => return Ok(Err("is not there any more")),
                    _ => return Err(self.refused(call.to_string(), refusal)),
                },
            };
            let shards = |field: &str| answer.pointer(&format!("/_shards/{field}")).and_then(Value::as_u64);
            if shards("failed") != Some(0) {
                return Err(self.unclear(format!("{call} failed on some shard, so {index} cannot be counted")));
            }
            if operation == "_count" {
                // A frozen index is passed over in silence, which would be recorded as no documents.
                return match (shards("total"), shards("successful")) {
                    (Some(total), Some(successful)) if total > 0 && total == successful => {
                        self.number(&answer, "/count").map(Ok)
                    }
                    _ => Ok(Err("is frozen, or not all of its shards answer")),
                };
            }
        }
        Ok(Err("could not be counted"))
    }

    /// Indices that a snapshot of everything lacks. At rest, that is an error: what is not in it would be lost.
    fn absent(
        &self,
        snapshot: &Snapshot,
        quiescence: Quiescence,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<String>, SourceError> {
        if !self.settings.indices.is_empty() {
            return Ok(Vec::new());
        }
        let present = self.attended(self.settings.request_timeout() + GRACE, stop, Client::indices)?;
        let absent: Vec<String> =
            present.into_iter().map(|index| index.name).filter(|name| !snapshot.indices.contains(name)).collect();
        match (absent.is_empty(), quiescence) {
            (true, _) => Ok(Vec::new()),
            (false, Quiescence::AtRest) => Err(self.unclear(format!(
                "the snapshot {} lacks these indices: {}; take another one",
                snapshot.name,
                absent.join(", ")
            ))),
            (false, Quiescence::Online) => {
                Ok(absent.into_iter().map(|name| format!("the index {name} is not in the snapshot")).collect())
            }
        }
    }
}

/// How a restored cluster differs from what was recorded; empty if it does not.
pub fn compare(recorded: &ElasticsearchFacts, found: &ElasticsearchFacts) -> Vec<String> {
    compare_documents(&recorded.documents, &found.documents)
}

/// The indices of a snapshot of which nothing was recorded, since they were closed, say. They can neither be compared nor be
/// taken for absent; in words.
pub fn not_recorded(snapshot: &Snapshot, recorded: &BTreeMap<String, u64>) -> Vec<String> {
    let left = snapshot.indices.iter().filter(|index| !recorded.contains_key(*index));
    left.map(|index| format!("the index {index} is in the snapshot too, and was not counted when it was made"))
        .collect()
}

/// How the documents of indices differ from what was recorded.
pub fn compare_documents(recorded: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) -> Vec<String> {
    let mut differences = Vec::new();
    for (index, count) in recorded {
        match found.get(index) {
            None => differences.push(format!("the index {index} is missing; it had {count} documents")),
            Some(found) if found != count => {
                differences.push(format!("the index {index} has {found} documents instead of {count}"));
            }
            Some(_) => {}
        }
    }
    let surplus = found.keys().filter(|index| !recorded.contains_key(*index));
    differences.extend(surplus.map(|index| format!("the index {index} was not recorded")));
    differences
}
