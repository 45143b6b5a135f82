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

/// Why an index is not counted as others are.
const CLOSED: &str = "is closed";

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

/// The documents of indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of those that are open.
    pub documents: BTreeMap<String, u64>,
    /// Of those that are closed: nested documents are in these numbers.
    pub closed: BTreeMap<String, u64>,
    /// Those that cannot be counted, with the reason.
    pub uncounted: Vec<String>,
}

impl Tally {
    /// What was recorded.
    pub fn of(facts: &ElasticsearchFacts) -> Self {
        Tally { documents: facts.documents.clone(), closed: facts.closed.clone(), uncounted: Vec::new() }
    }

    /// The same, with indices under the names that they get.
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        let rename = |all: BTreeMap<String, u64>| all.into_iter().map(|(index, count)| (name(&index), count)).collect();
        Tally { documents: rename(self.documents), closed: rename(self.closed), uncounted: self.uncounted }
    }

    /// The names of all that are counted.
    pub fn indices(&self) -> Vec<String> {
        self.documents.keys().chain(self.closed.keys()).cloned().collect()
    }

    /// For people: all of it is as recorded.
    pub fn shown(&self) -> String {
        let sum = |all: &BTreeMap<String, u64>| all.values().copied().fold(0, u64::saturating_add);
        let open = format!("{} indices with {} documents", self.documents.len(), sum(&self.documents));
        let closed = format!(" and {} closed ones with {}", self.closed.len(), sum(&self.closed));
        format!("{open}{}, as recorded", if self.closed.is_empty() { "" } else { &closed })
    }
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
        let Tally { documents, closed, uncounted } = self.tally(&snapshot.indices, stop)?;
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
            closed,
        };
        Ok(Counted { facts, notes })
    }

    /// The documents of these indices, after a refresh.
    pub fn tally(&self, indices: &[String], stop: &dyn Fn() -> bool) -> Result<Tally, SourceError> {
        let limit = self.settings.request_timeout() * 2 + GRACE;
        let mut tally = Tally::default();
        for index in indices {
            let name = index.clone();
            match self.attended(limit, stop, move |client| client.count(&name))? {
                Ok(count) => drop(tally.documents.insert(index.clone(), count)),
                Err(CLOSED) => {
                    let name = index.clone();
                    match self.attended(limit, stop, move |client| client.closed_count(&name))? {
                        Some(count) => drop(tally.closed.insert(index.clone(), count)),
                        None => tally.uncounted.push(format!("the index {index} {CLOSED}, without statistics")),
                    }
                }
                Err(why) => tally.uncounted.push(format!("the index {index} {why}")),
            }
        }
        Ok(tally)
    }

    /// The documents of a closed index, by the statistics of its primary shards; `None` if it is not closed, or not all of
    /// them tell.
    fn closed_count(&self, index: &str) -> Result<Option<u64>, SourceError> {
        let query = [("format", "json"), ("expand_wildcards", "all"), ("h", "status,pri")];
        let listed = self.ask(&Call::get(&["_cat", "indices", index]).query(&query))?;
        let field = |name: &str| listed.pointer(&format!("/0/{name}")).and_then(Value::as_str);
        let primaries = field("pri").and_then(|text| text.parse::<usize>().ok());
        let (Some("close"), Some(primaries)) = (field("status"), primaries) else { return Ok(None) };
        let query = [("level", "shards"), ("forbid_closed_indices", "false")];
        let answer = self.ask(&Call::get(&[index, "_stats", "docs"]).query(&query))?;
        let shards = answer.get("indices").and_then(|all| all.get(index)?.get("shards")?.as_object());
        let primary = |copies: &Value| {
            let mut copies = copies.as_array()?.iter();
            // One that is on its way to being closed says that it has none.
            let primary = copies.find(|one| {
                one.pointer("/routing/primary") == Some(&Value::Bool(true))
                    && one.pointer("/routing/state").and_then(Value::as_str) == Some("STARTED")
            })?;
            primary.pointer("/docs/count").and_then(Value::as_u64)
        };
        let counts: Vec<u64> = shards.into_iter().flatten().filter_map(|(_, copies)| primary(copies)).collect();
        let all = primaries > 0 && counts.len() == primaries;
        Ok(all.then(|| counts.into_iter().fold(0, u64::saturating_add)))
    }

    /// The documents of an index, or why there is no such number.
    fn count(&self, index: &str) -> Result<Result<u64, &'static str>, SourceError> {
        for (method, operation) in [(Method::POST, "_refresh"), (Method::GET, "_count")] {
            let path = [index, operation];
            let call = Call::new(method, &path);
            let answer = match self.send(&call)? {
                Answer::Done(answer) => answer,
                Answer::Refused(refusal) => match refusal.kind.as_str() {
                    "index_closed_exception" => return Ok(Err(CLOSED)),
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

/// How restored indices differ from what was recorded; empty if they do not.
pub fn compare(recorded: &Tally, found: &Tally) -> Vec<String> {
    let mut differences = compare_documents(&recorded.documents, &found.documents);
    for (index, count) in &recorded.closed {
        match found.closed.get(index) {
            None => {
                differences.push(format!("the index {index} is not there as a closed one; it had {count} documents"))
            }
            Some(found) if found != count => {
                differences.push(format!("the closed index {index} has {found} documents instead of {count}"));
            }
            Some(_) => {}
        }
    }
    let surplus = found.closed.keys().filter(|index| !recorded.closed.contains_key(*index));
    differences.extend(surplus.map(|index| format!("the index {index} is closed, and was not recorded so")));
    differences.extend(found.uncounted.iter().cloned());
    differences
}

/// The indices of a snapshot of which nothing was recorded, since they were frozen, say. They can neither be compared nor be
/// taken for absent; in words.
pub fn not_recorded(snapshot: &Snapshot, recorded: &Tally) -> Vec<String> {
    let is_recorded = |index: &str| recorded.documents.contains_key(index) || recorded.closed.contains_key(index);
    let left = snapshot.indices.iter().filter(|index| !is_recorded(index));
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
