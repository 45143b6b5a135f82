//! Taking, watching, listing and deleting snapshots.
//!
//! Invariant: [`Client::wait`] returns a snapshot only if it ended as SUCCESS with every shard in it. Only snapshots
//! whose names are of our form are ever pruned, never the newest of them, and only by Elasticsearch itself: files of
//! one snapshot belong to others, too.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Answer, Call, Client, GRACE};
use crate::source::SourceError;
use crate::source::wait;

/// So many failed shards are named in an error.
const NAMED: usize = 10;
/// The longest time between two looks at a running snapshot.
const POLL: Duration = Duration::from_secs(2);
/// So many snapshots may be taken in one minute.
const MAX_SUFFIX: u32 = 99;

/// A snapshot as the repository lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// `IN_PROGRESS`, `SUCCESS`, `PARTIAL`, `FAILED` or `INCOMPATIBLE`.
    pub state: String,
    /// The version that wrote it.
    pub version: String,
    /// The indices in it, by name.
    pub indices: Vec<String>,
    /// When it began, in milliseconds since 1970.
    pub started_milliseconds: u64,
    /// Shards that were to be saved.
    pub shards: u64,
    /// Shards that were not saved, and why.
    pub failures: Vec<String>,
    /// Shards that were saved.
    pub saved_shards: u64,
}

impl Snapshot {
    /// Whether everything that it should hold is in it.
    pub fn is_complete(&self) -> bool {
        self.state == "SUCCESS" && self.failures.is_empty() && self.saved_shards == self.shards
    }
}

/// How far a running snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Shards that are saved.
    pub shards_done: u64,
    /// Shards in all.
    pub shards: u64,
    /// Bytes that this snapshot adds to the repository, as far as known.
    pub bytes_to_write: u64,
    /// Bytes of those that are written.
    pub bytes_written: u64,
}

impl Client {
    /// The snapshots of our repository, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, SourceError> {
        let answer = self.ask(&Call::get(&["_snapshot", &self.settings.repository, "_all"]))?;
        let listed = answer.get("snapshots").and_then(Value::as_array);
        let listed = listed.ok_or_else(|| self.unclear("its list of snapshots is no list".to_owned()))?;
        let mut snapshots = listed.iter().map(|found| self.snapshot(found)).collect::<Result<Vec<_>, _>>()?;
        snapshots.sort_by(|a, b| (a.started_milliseconds, &a.name).cmp(&(b.started_milliseconds, &b.name)));
        Ok(snapshots)
    }

    /// A snapshot of our repository, if it is there.
    pub fn find_snapshot(&self, name: &str) -> Result<Option<Snapshot>, SourceError> {
        let path = ["_snapshot", &self.settings.repository, name];
        let call = Call::get(&path);
        match self.send(&call)? {
            Answer::Done(answer) => match answer.pointer("/snapshots/0") {
                Some(found) => self.snapshot(found).map(Some),
                None => Ok(None),
            },
            Answer::Refused(refusal) if refusal.kind == "snapshot_missing_exception" => Ok(None),
            Answer::Refused(refusal) => Err(self.refused(call.to_string(), refusal)),
        }
    }

    /// A name for a snapshot of this time that no snapshot has: `snapshot-YYYYMMDDHHMM`, in UTC, so that names sort as
    /// they were taken when clocks are put back, too.
    pub fn name_for(&self, time: Timestamp) -> Result<String, SourceError> {
        let taken: HashSet<String> = self.snapshots()?.into_iter().map(|snapshot| snapshot.name).collect();
        let name = name_of(time);
        if !taken.contains(&name) {
            return Ok(name);
        }
        let free = (2..=MAX_SUFFIX).map(|suffix| format!("{name}-{suffix}")).find(|name| !taken.contains(name));
        free.ok_or_else(|| self.unclear(format!("it has {MAX_SUFFIX} snapshots named {name}; wait a minute")))
    }

    /// Starts a snapshot of the indices that the settings name (all, if they name none) with the cluster's state.
    /// Follow with [`Client::wait`].
    pub fn create(&self, name: &str) -> Result<(), SourceError> {
        let mut body = json!({
            "include_global_state": true,
            "ignore_unavailable": false,
            "partial": false,
            // Closed ones, too: without this they are left out.
            "expand_wildcards": "all",
            "metadata": {"taken_by": "cairn"},
        });
        if !self.settings.indices.is_empty() {
            body["indices"] = json!(self.settings.indices);
        }
        let path = ["_snapshot", &self.settings.repository, name];
        self.ask(&Call::new(Method::PUT, &path).body(body)).map(|_| ())
    }

    /// Waits for a snapshot to end, and returns it only if it is complete. If the wait ends early, the snapshot goes
    /// on; [`Client::delete`] ends it.
    pub fn wait(
        &self,
        name: &str,
        limit: Duration,
        stop: &dyn Fn() -> bool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Snapshot, SourceError> {
        let started = Instant::now();
        let answer_limit = self.settings.request_timeout() + GRACE;
        let mut between = Duration::from_millis(100);
        loop {
            let asked = name.to_owned();
            let found = self.attended(answer_limit, stop, move |client| client.find_snapshot(&asked))?;
            let Some(found) = found else {
                return Err(self.unclear(format!("the snapshot {name} is gone; was it deleted while it was taken?")));
            };
            if found.state != "IN_PROGRESS" {
                return match found.is_complete() {
                    true => Ok(found),
                    false => Err(self.incomplete(&found)),
                };
            }
            if started.elapsed() >= limit {
                let what = format!("{}: the snapshot {name} did not end", self.server());
                return Err(SourceError::Timeout { what, limit });
            }
            let asked = name.to_owned();
            if let Some(progress) = self.attended(answer_limit, stop, move |client| client.progress(&asked))? {
                on_progress(progress);
            }
            wait::pause(between, stop)?;
            between = (between * 2).min(POLL);
        }
    }

    /// Deletes a snapshot, or ends it if it is being taken. Repeatable.
    pub fn delete(&self, name: &str, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        self.delete_within(name, self.settings.delete_timeout(), stop)
    }

    /// The same, waiting at most so long; the server goes on with it.
    pub fn delete_within(&self, name: &str, limit: Duration, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let name = name.to_owned();
        self.attended(limit + GRACE, stop, move |client| {
            let path = ["_snapshot", &client.settings.repository, &name];
            let call = Call::new(Method::DELETE, &path).limit(limit);
            match client.send(&call)? {
                Answer::Done(_) => Ok(()),
                Answer::Refused(refusal) if refusal.kind == "snapshot_missing_exception" => Ok(()),
                Answer::Refused(refusal) => Err(client.refused(call.to_string(), refusal)),
            }
        })
    }

    /// Deletes all but the newest `keep` complete snapshots whose names are of our form, and incomplete ones that are
    /// older than those; what was deleted. At least the newest complete one stays, and whatever is younger than it.
    pub fn prune(&self, keep: u32, stop: &dyn Fn() -> bool) -> Result<Vec<String>, SourceError> {
        let limit = self.settings.request_timeout() + GRACE;
        let surplus = surplus(&self.attended(limit, stop, Client::snapshots)?, keep);
        for name in &surplus {
            self.delete(name, stop)?;
        }
        Ok(surplus)
    }

    fn progress(&self, name: &str) -> Result<Option<Progress>, SourceError> {
        let path = ["_snapshot", &self.settings.repository, name, "_status"];
        let query = [("filter_path", "snapshots.shards_stats,snapshots.stats")];
        // Progress is for people: a snapshot that has just ended is asked for again by its state.
        let Answer::Done(answer) = self.send(&Call::get(&path).query(&query))? else { return Ok(None) };
        let number = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64);
        let field = |path: &str| number(&format!("/snapshots/0/{path}"));
        let Some(shards) = field("shards_stats/total") else { return Ok(None) };
        let total = field("stats/incremental/size_in_bytes").unwrap_or_default();
        Ok(Some(Progress {
            shards_done: field("shards_stats/done").unwrap_or_default(),
            shards,
            bytes_to_write: total,
            // While nothing is processed, or all is, this field is absent.
            bytes_written: field("stats/processed/size_in_bytes").unwrap_or_default(),
        }))
    }

    fn snapshot(&self, found: &Value) -> Result<Snapshot, SourceError> {
        let list = |field: &str| found.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut indices: Vec<String> = list("indices").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        indices.sort();
        let state = self.text(found, "/state")?;
        let shard = |failure: &Value| {
            let field = |name: &str| failure.get(name).map(text_of).unwrap_or_default();
            format!("{}[{}]: {}", field("index"), field("shard_id"), field("reason"))
        };
        Ok(Snapshot {
            name: self.text(found, "/snapshot")?,
            uuid: self.text(found, "/uuid")?,
            version: found.get("version").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
            indices,
            started_milliseconds: self.number(found, "/start_time_in_millis").or_else(|error| {
                // A snapshot of a version that this server cannot read has no times.
                if state == "INCOMPATIBLE" { Ok(0) } else { Err(error) }
            })?,
            shards: found.pointer("/shards/total").and_then(Value::as_u64).unwrap_or_default(),
            saved_shards: found.pointer("/shards/successful").and_then(Value::as_u64).unwrap_or_default(),
            failures: list("failures").iter().map(shard).collect(),
            state,
        })
    }

    fn incomplete(&self, snapshot: &Snapshot) -> SourceError {
        let mut reasons: Vec<&str> = snapshot.failures.iter().take(NAMED).map(String::as_str).collect();
        let more = format!("and {} more", snapshot.failures.len().saturating_sub(NAMED));
        if snapshot.failures.len() > NAMED {
            reasons.push(&more);
        }
        if reasons.is_empty() {
            reasons.push("no reason is given; see the server's log");
        }
        self.unclear(format!(
            "the snapshot {} ended as {} with {} of {} shards, so it is not used: {}",
            snapshot.name,
            snapshot.state,
            snapshot.saved_shards,
            snapshot.shards,
            reasons.join("; ")
        ))
    }
}

/// The name for a snapshot of this time.
fn name_of(time: Timestamp) -> String {
    time.strftime("snapshot-%Y%m%d%H%M").to_string()
}

/// Whether a name is one that [`Client::name_for`] gives.
pub fn is_ours(name: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = name.strip_prefix("snapshot-") else { return false };
    let (time, suffix) = rest.split_once('-').unwrap_or((rest, "2"));
    time.len() == 12 && digits(time) && matches!(suffix.len(), 1 | 2) && digits(suffix)
}

/// Names of snapshots to delete, of all snapshots, oldest first.
pub fn surplus(snapshots: &[Snapshot], keep: u32) -> Vec<String> {
    let ours: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| is_ours(&snapshot.name)).collect();
    let complete: Vec<usize> = (0..ours.len()).filter(|&place| ours[place].is_complete()).collect();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX).max(1);
    let Some(oldest_kept) = complete.len().checked_sub(keep).and_then(|place| complete.get(place)) else {
        return Vec::new();
    };
    let old = ours[..*oldest_kept].iter().filter(|snapshot| snapshot.state != "IN_PROGRESS");
    old.map(|snapshot| snapshot.name.clone()).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
