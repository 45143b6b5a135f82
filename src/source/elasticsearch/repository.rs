//! The snapshot repository's registration with the server.
//!
//! Invariant: a registration that someone else made is never bent to another type or directory; only `readonly` is
//! changed, and every other setting in it stays. Registering, making read-only and making writable are repeatable: what
//! is so already is left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Answer, Call, Client, GRACE, Refusal};
use crate::source::SourceError;
use crate::source::wait;

/// What the name of a registration begins with that is made for a restore, and that of its directory.
pub const RESTORE_PREFIX: &str = "cairn-restore-";

/// Whether the server may write to the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Snapshots can be taken and deleted.
    Writable,
    /// The server only reads: its directory can be copied.
    ReadOnly,
}

/// A registered repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its type: `fs` for a directory.
    pub kind: String,
    /// Its directory.
    pub location: Option<PathBuf>,
    /// Whether the server may write to it.
    pub access: Access,
    settings: Map<String, Value>,
}

impl Client {
    /// All registered repositories.
    pub fn registrations(&self) -> Result<Vec<Registration>, SourceError> {
        let answer = self.ask(&Call::get(&["_snapshot", "_all"]))?;
        let all = answer.as_object().ok_or_else(|| self.unclear("its list of repositories is no object".to_owned()))?;
        all.iter().map(|(name, found)| self.registration(name, found)).collect()
    }

    /// Our repository, if it is registered.
    pub fn registered(&self) -> Result<Option<Registration>, SourceError> {
        let name = &self.settings.repository;
        let path = ["_snapshot", name];
        let call = Call::get(&path);
        match self.send(&call)? {
            Answer::Done(answer) => match answer.get(name) {
                Some(found) => self.registration(name, found).map(Some),
                None => Err(self.unclear(format!("its answer to {call} does not name the repository"))),
            },
            Answer::Refused(refusal) if refusal.kind == "repository_missing_exception" => Ok(None),
            Answer::Refused(refusal) => Err(self.refused(call.to_string(), refusal)),
        }
    }

    /// Whether our repository is registered, in our directory.
    pub fn is_registered(&self) -> Result<bool, SourceError> {
        Ok(self.registered()?.is_some_and(|found| self.fits(&found)))
    }

    /// Whether our repository is registered and the server does not write to it.
    pub fn is_read_only(&self) -> Result<bool, SourceError> {
        Ok(self.registered()?.is_some_and(|found| found.access == Access::ReadOnly))
    }

    /// Registers our repository, or changes who may write to it; true if something had to be changed.
    ///
    /// The server refuses while a snapshot is being taken or deleted; see [`Client::wait_for_access`].
    pub fn register(&self, access: Access) -> Result<bool, SourceError> {
        let mut settings = match self.registered()? {
            None => Map::new(),
            Some(found) if !self.fits(&found) => return Err(self.foreign(&found)),
            Some(found) if found.access == access => return Ok(false),
            Some(found) => found.settings,
        };
        let location = self.settings.location.to_str().ok_or_else(|| SourceError::Setting {
            setting: "location".to_owned(),
            why: "the path is not UTF-8, which Elasticsearch needs".to_owned(),
        })?;
        settings.insert("location".to_owned(), json!(location));
        settings.insert("readonly".to_owned(), json!(access == Access::ReadOnly));
        let path = ["_snapshot", &self.settings.repository];
        let call = Call::new(Method::PUT, &path).body(json!({"type": "fs", "settings": settings}));
        match self.send(&call)? {
            Answer::Done(_) => {}
            Answer::Refused(refusal) if not_allowed(&refusal) => {
                let nodes = self.path_repo().unwrap_or_default();
                let seen: Vec<String> = nodes.iter().map(|(node, paths)| format!("{node} has {paths:?}")).collect();
                return Err(SourceError::Setting {
                    setting: "path.repo".to_owned(),
                    why: format!("{} does not allow it ({}); {}", self.server(), seen.join(", "), self.advice()),
                });
            }
            Answer::Refused(refusal) => return Err(self.refused(call.to_string(), refusal)),
        }
        // An acknowledgement is not proof: what is copied next depends on it.
        match self.registered()? {
            Some(found) if found.access == access && self.fits(&found) => Ok(true),
            _ => Err(self.unclear(format!("it acknowledged {call}, but the repository is not as it was told"))),
        }
    }

    /// As [`Client::register`], for as long as the server refuses because the repository is in use. A wish to stop is
    /// heard between attempts: a change that is given up while it is on its way would take place after its undoing.
    pub fn wait_for_access(&self, access: Access, stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
        let started = Instant::now();
        let limit = self.settings.request_timeout();
        loop {
            if stop() {
                return Err(SourceError::Interrupted);
            }
            let result = self.attended(limit * 3 + GRACE, &|| false, move |client| client.register(access));
            match result {
                Err(SourceError::Server { source, .. })
                    if started.elapsed() < limit && source.downcast_ref::<Refusal>().is_some_and(in_use) => {}
                result => return result,
            }
            wait::pause(wait::INTERVAL * 5, stop)?;
        }
    }

    /// Takes our registration away; the directory and the snapshots in it stay. Repeatable.
    pub fn unregister(&self) -> Result<(), SourceError> {
        let path = ["_snapshot", &self.settings.repository];
        let call = Call::new(Method::DELETE, &path);
        match self.send(&call)? {
            Answer::Done(_) => Ok(()),
            Answer::Refused(refusal) if refusal.kind == "repository_missing_exception" => Ok(()),
            Answer::Refused(refusal) => Err(self.refused(call.to_string(), refusal)),
        }
    }

    /// Lets every node prove that it can write to the repository (or read it, if it is read-only); their names.
    pub fn verify_repository(&self) -> Result<Vec<String>, SourceError> {
        let path = ["_snapshot", &self.settings.repository, "_verify"];
        let answer = self.ask(&Call::new(Method::POST, &path))?;
        let nodes = answer.get("nodes").and_then(Value::as_object);
        let names: Vec<String> = nodes
            .into_iter()
            .flatten()
            .map(|(id, node)| node.get("name").and_then(Value::as_str).unwrap_or(id).to_owned())
            .collect();
        match names.is_empty() {
            true => Err(self.unclear("no node verified the repository".to_owned())),
            false => Ok(names),
        }
    }

    /// Other repositories that the server may write to in our directory: such a one must not exist, since what it
    /// deletes may be ours.
    pub fn rivals(&self) -> Result<Vec<String>, SourceError> {
        let mut rivals = self.registrations()?;
        rivals.retain(|found| {
            let same = found.location.as_deref().is_some_and(|place| same_place(place, &self.settings.location));
            same && found.name != self.settings.repository && found.access == Access::Writable
        });
        Ok(rivals.into_iter().map(|found| found.name).collect())
    }

    /// `path.repo` of each running node, by the node's name.
    pub fn path_repo(&self) -> Result<BTreeMap<String, Vec<String>>, SourceError> {
        let query = [("filter_path", "nodes.*.name,nodes.*.settings.path.repo")];
        let answer = self.ask(&Call::get(&["_nodes", "settings"]).query(&query))?;
        let nodes = answer.get("nodes").and_then(Value::as_object);
        let mut found = BTreeMap::new();
        for (id, node) in nodes.into_iter().flatten() {
            let name = node.get("name").and_then(Value::as_str).unwrap_or(id).to_owned();
            let paths = match node.pointer("/settings/path/repo") {
                None => Vec::new(),
                Some(Value::String(paths)) => paths.split(',').map(|path| path.trim().to_owned()).collect(),
                Some(Value::Array(paths)) => paths.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                Some(_) => return Err(self.unclear(format!("path.repo of the node {name} is no text and no list"))),
            };
            found.insert(name, paths);
        }
        match found.is_empty() {
            true => Err(self.unclear("it names no node".to_owned())),
            false => Ok(found),
        }
    }

    /// Nodes that do not allow a repository in our directory; the advice is in [`Client::advice`].
    pub fn nodes_without_location(&self) -> Result<Vec<String>, SourceError> {
        let location = &self.settings.location;
        let allows = |paths: &[String]| paths.iter().any(|path| location.starts_with(path));
        Ok(self.path_repo()?.into_iter().filter(|(_, paths)| !allows(paths)).map(|(node, _)| node).collect())
    }

    /// How the operator allows the directory.
    pub fn advice(&self) -> String {
        let location = self.settings.location.display();
        let file = self.settings.configuration_file.display();
        let service = &self.settings.service;
        format!("put this line into {file}:  path.repo: [\"{location}\"]  and run: systemctl restart {service}")
    }

    fn registration(&self, name: &str, found: &Value) -> Result<Registration, SourceError> {
        let settings = found.get("settings").and_then(Value::as_object).cloned().unwrap_or_default();
        // The server keeps settings as text, and gives them back as they were put.
        let read_only = match settings.get("readonly").or_else(|| settings.get("read_only")) {
            None => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::String(value)) if value == "true" || value == "false" => value == "true",
            Some(other) => return Err(self.unclear(format!("readonly of the repository {name} is {other}"))),
        };
        Ok(Registration {
            name: name.to_owned(),
            kind: self.text(found, "/type")?,
            location: settings.get("location").and_then(Value::as_str).map(PathBuf::from),
            access: if read_only { Access::ReadOnly } else { Access::Writable },
            settings,
        })
    }

    fn fits(&self, found: &Registration) -> bool {
        found.kind == "fs" && found.location.as_deref().is_some_and(|place| same_place(place, &self.settings.location))
    }

    fn foreign(&self, found: &Registration) -> SourceError {
        let place = found.location.as_deref().unwrap_or(Path::new("an unknown place")).display();
        SourceError::Setting {
            setting: "repository".to_owned(),
            why: format!(
                "{:?} is registered at {} with type {} in {place}, and not with type fs in {}; use another name, or \
                 set location to that directory",
                found.name,
                self.server(),
                found.kind,
                self.settings.location.display()
            ),
        }
    }
}

/// Equal as paths or, where both exist, as directories.
fn same_place(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    a == b || real(a) == real(b)
}

fn not_allowed(refusal: &Refusal) -> bool {
    refusal.reason.contains("path.repo")
}

fn in_use(refusal: &Refusal) -> bool {
    refusal.reason.contains("currently used") || refusal.kind == "concurrent_snapshot_execution_exception"
}
