//! What Elasticsearch is busy with: running tasks, running snapshots, and what was written and searched within a
//! moment.
//!
//! Tasks alone miss what is short: a client that indexes one document every 50 ms is rarely seen at work. So the
//! counters of each index are read twice, and any that moved in between shows a writer or a reader.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::client::{Call, Client, GRACE};
use crate::source::SourceError;
use crate::source::wait;

/// At most so many tasks are named.
const MAX_TASKS: usize = 100;
/// A description is at most so long.
const MAX_DESCRIPTION: usize = 200;

/// Operations that the server has counted for an index since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Documents indexed and deleted.
    pub writes: u64,
    /// Queries and scrolls.
    pub reads: u64,
}

/// A running task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it does, in Elasticsearch's words: `indices:data/write/bulk`.
    pub action: String,
    /// What it works on.
    pub description: String,
    /// For how long it has run.
    pub running: Duration,
}

/// What goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Tasks that read or write data or take snapshots; the first hundred.
    pub tasks: Vec<Task>,
    /// Snapshots that are being taken, as `repository/name`.
    pub snapshots: Vec<String>,
    /// Indices that were written or read during the sample, and how often.
    pub moved: BTreeMap<String, Counters>,
    /// Scrolls and other searches that are held open.
    pub open_searches: u64,
}

impl Activity {
    /// Whether nothing reads or writes.
    pub fn is_quiet(&self) -> bool {
        self.tasks.is_empty() && self.snapshots.is_empty() && self.moved.is_empty() && self.open_searches == 0
    }
}

impl Client {
    /// What goes on, looked at for `sample` (a second, usually).
    pub fn activity(&self, sample: Duration, stop: &dyn Fn() -> bool) -> Result<Activity, SourceError> {
        let limit = self.settings.request_timeout() + GRACE;
        let before = self.attended(limit, stop, Client::counters)?;
        wait::pause(sample, stop)?;
        let after = self.attended(limit, stop, Client::counters)?;
        let mut moved = BTreeMap::new();
        for (name, after) in after {
            let before = before.get(&name).copied().unwrap_or_default();
            // A counter that went back belongs to an index that was made anew, which is a write.
            let changed = |after: u64, before: u64| after.checked_sub(before).unwrap_or(after.max(1));
            let writes = changed(after.writes, before.writes);
            let reads = changed(after.reads, before.reads);
            if writes > 0 || reads > 0 {
                moved.insert(name, Counters { writes, reads });
            }
        }
        let tasks = self.attended(limit, stop, Client::tasks)?;
        let snapshots = self.attended(limit, stop, Client::running_snapshots)?;
        let open_searches = self.attended(limit, stop, Client::open_searches)?;
        Ok(Activity { tasks, snapshots, moved, open_searches })
    }

    /// Operations counted for each open index, replicas included.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>, SourceError> {
        let query = [
            // Nobody works on closed ones.
            ("expand_wildcards", "open,hidden"),
            ("level", "indices"),
            ("filter_path", "indices.*.total.indexing,indices.*.total.search"),
        ];
        let answer = self.ask(&Call::get(&["_stats", "indexing,search"]).query(&query))?;
        let indices = answer.get("indices").and_then(Value::as_object);
        let mut counters = BTreeMap::new();
        for (name, index) in indices.into_iter().flatten() {
            let sum = |pointers: [&str; 2]| -> Result<u64, SourceError> {
                let [first, second] = pointers;
                Ok(self.number(index, first)?.saturating_add(self.number(index, second)?))
            };
            let writes = sum(["/total/indexing/index_total", "/total/indexing/delete_total"])?;
            let reads = sum(["/total/search/query_total", "/total/search/scroll_total"])?;
            counters.insert(name.clone(), Counters { writes, reads });
        }
        Ok(counters)
    }

    fn tasks(&self) -> Result<Vec<Task>, SourceError> {
        let actions = "indices:data/*,indices:admin/forcemerge*,indices:admin/create*,indices:admin/delete*,\
                       cluster:admin/snapshot/*,cluster:admin/reindex*";
        let query = [("actions", actions), ("detailed", "true"), ("group_by", "none")];
        let answer = self.ask(&Call::get(&["_tasks"]).query(&query))?;
        let found = answer.get("tasks").and_then(Value::as_array);
        let mut tasks = Vec::new();
        for task in found.into_iter().flatten().take(MAX_TASKS) {
            let action = self.text(task, "/action")?;
            // Asking for running snapshots is such a task itself.
            if action == "cluster:admin/snapshot/status" || action == "cluster:admin/snapshot/get" {
                continue;
            }
            let description = task.get("description").and_then(Value::as_str).unwrap_or_default();
            let running = task.get("running_time_in_nanos").and_then(Value::as_u64).unwrap_or_default();
            tasks.push(Task {
                action,
                description: description.chars().take(MAX_DESCRIPTION).collect(),
                running: Duration::from_nanos(running),
            });
        }
        Ok(tasks)
    }

    fn running_snapshots(&self) -> Result<Vec<String>, SourceError> {
        let query = [("filter_path", "snapshots.snapshot,snapshots.repository")];
        let answer = self.ask(&Call::get(&["_snapshot", "_status"]).query(&query))?;
        let found = answer.get("snapshots").and_then(Value::as_array);
        let mut snapshots = Vec::new();
        for snapshot in found.into_iter().flatten() {
            snapshots.push(format!("{}/{}", self.text(snapshot, "/repository")?, self.text(snapshot, "/snapshot")?));
        }
        Ok(snapshots)
    }

    fn open_searches(&self) -> Result<u64, SourceError> {
        let query = [("filter_path", "nodes.*.indices.search.open_contexts")];
        let answer = self.ask(&Call::get(&["_nodes", "stats", "indices", "search"]).query(&query))?;
        let nodes = answer.get("nodes").and_then(Value::as_object);
        let mut open = 0;
        for node in nodes.into_iter().flatten().map(|(_, node)| node) {
            open += self.number(node, "/indices/search/open_contexts")?;
        }
        Ok(open)
    }
}
