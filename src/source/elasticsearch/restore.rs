//! Bringing indices back from a snapshot.
//!
//! Invariant: [`Client::restore`] is `Ok` only if Elasticsearch says that every shard was restored. It writes to names
//! that do not exist, since the server refuses to restore over an open index.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Answer, Call, Client, GRACE};
use crate::source::SourceError;
use crate::source::wait;

/// How the restored indices are called: what `pattern` matches becomes `replacement`, as Java's regular expressions do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The pattern: `(.+)`.
    pub pattern: String,
    /// What takes its place: `drill-$1`.
    pub replacement: String,
}

/// What to bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The snapshot.
    pub snapshot: String,
    /// The indices, by name; all in the snapshot, if none is named.
    pub indices: Vec<String>,
    /// Other names for them.
    pub rename: Option<Rename>,
    /// Whether to bring back templates, cluster settings and the like, too.
    pub global_state: bool,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Shards that are there.
    pub shards_done: u64,
    /// Shards that are known to be restored.
    pub shards: u64,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl Client {
    /// Restores, and returns the names of the restored indices. If the wait ends early, the server goes on.
    pub fn restore(
        &self,
        request: &Request,
        limit: Duration,
        stop: &dyn Fn() -> bool,
        on_progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Vec<String>, SourceError> {
        let mut body = json!({"include_global_state": request.global_state, "partial": false});
        if !request.indices.is_empty() {
            body["indices"] = json!(request.indices);
        }
        if let Some(rename) = &request.rename {
            body["rename_pattern"] = json!(rename.pattern);
            body["rename_replacement"] = json!(rename.replacement);
        }
        // The answer to a restore that is waited for is the only one that says how it ended; meanwhile another thread's
        // requests show how far it is.
        let name = request.snapshot.clone();
        let (finished, ended) = std::sync::mpsc::channel();
        let client = self.clone();
        let worker = std::thread::Builder::new().name("restore".to_owned()).spawn(move || {
            let path = ["_snapshot", &client.settings.repository, &name, "_restore"];
            let query = [("wait_for_completion", "true")];
            let call = Call::new(Method::POST, &path).query(&query).body(body).limit(limit);
            let _ = finished.send(client.ask(&call));
        });
        worker.map_err(|source| SourceError::Spawn { program: "a thread".to_owned(), source })?;
        let started = Instant::now();
        let answer = loop {
            match ended.recv_timeout(wait::INTERVAL) {
                Ok(answer) => break answer?,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if started.elapsed() < limit + GRACE => {}
                Err(_) => {
                    let what = format!("{}: the restore of {} did not end", self.server(), request.snapshot);
                    return Err(SourceError::Timeout { what, limit });
                }
            }
            if stop() {
                return Err(SourceError::Interrupted);
            }
            let patience = self.settings.request_timeout() + GRACE;
            if let Ok(progress) = self.attended(patience, stop, Client::restore_progress) {
                on_progress(progress);
            }
        };
        self.restored(request, &answer)
    }

    /// Restores indices, and closes those that were closed, since the server opens what it restores; the names of all.
    pub fn restore_as_recorded(
        &self,
        request: &Request,
        closed: &[String],
        limit: Duration,
        stop: &dyn Fn() -> bool,
        on_progress: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Vec<String>, SourceError> {
        let restored = self.restore(request, limit, stop, on_progress)?;
        for index in closed {
            self.close_index(index)?;
        }
        Ok(restored)
    }

    /// How far the restores are that the server knows of.
    pub fn restore_progress(&self) -> Result<RestoreProgress, SourceError> {
        let query = [("expand_wildcards", "all"), ("filter_path", "*.shards.type,*.shards.stage,*.shards.index.size")];
        let answer = self.ask(&Call::get(&["_recovery"]).query(&query))?;
        let mut progress = RestoreProgress::default();
        let indices = answer.as_object();
        let shards = indices.into_iter().flatten().filter_map(|(_, index)| index.get("shards")?.as_array());
        for shard in shards.flatten() {
            let text = |field: &str| shard.get(field).and_then(Value::as_str);
            if text("type") != Some("SNAPSHOT") {
                continue;
            }
            let bytes = |pointer: &str| shard.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
            progress.shards += 1;
            progress.shards_done += u64::from(text("stage") == Some("DONE"));
            progress.bytes = progress.bytes.saturating_add(bytes("/index/size/total_in_bytes"));
            progress.bytes_done = progress.bytes_done.saturating_add(bytes("/index/size/recovered_in_bytes"));
        }
        Ok(progress)
    }

    /// Deletes an index, by its exact name. Repeatable.
    pub fn delete_index(&self, name: &str) -> Result<(), SourceError> {
        self.on_index(Method::DELETE, name, &[name])
    }

    /// Closes an index, by its exact name: only then can a snapshot's index take its place. Repeatable.
    pub fn close_index(&self, name: &str) -> Result<(), SourceError> {
        self.on_index(Method::POST, name, &[name, "_close"])
    }

    fn on_index(&self, method: Method, name: &str, path: &[&str]) -> Result<(), SourceError> {
        // A pattern, or a list, would reach more than what was meant.
        let exact = !name.is_empty() && name != "_all" && !name.starts_with(['-', '_', '+', '<']);
        if !exact || name.contains(['*', '?', ',']) {
            return Err(self.unclear(format!("{name:?} is not the name of one index; nothing was done")));
        }
        let call = Call::new(method, path);
        match self.send(&call)? {
            Answer::Done(_) => Ok(()),
            Answer::Refused(refusal) if refusal.kind == "index_not_found_exception" => Ok(()),
            Answer::Refused(refusal) => Err(self.refused(call.to_string(), refusal)),
        }
    }

    fn restored(&self, request: &Request, answer: &Value) -> Result<Vec<String>, SourceError> {
        let total = self.number(answer, "/snapshot/shards/total")?;
        let successful = self.number(answer, "/snapshot/shards/successful")?;
        if total != successful {
            return Err(self.unclear(format!(
                "only {successful} of {total} shards of the snapshot {} were restored; GET /_cluster/allocation/explain \
                 tells why",
                request.snapshot
            )));
        }
        let indices = answer.pointer("/snapshot/indices").and_then(Value::as_array);
        let names = indices.into_iter().flatten().filter_map(Value::as_str);
        Ok(names.map(str::to_owned).collect())
    }
}
