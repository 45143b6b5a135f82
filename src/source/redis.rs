//! Redis: the platform's queues, and Celery's tasks in them.
//!
//! * [`encoding`]: queues as a stream of bytes, and back.
//! * [`read`]: queues to a stream, in bounded memory.
//! * [`restore`]: a stream to queues.
//! * [`aside`]: taking a queue away without losing what is pushed meanwhile, and giving it back.
//! * `link`: a connection, and what is asked over it.
//! * [`server`]: what the server is, who else talks to it, and its dump on disk.
//!
//! Invariant: nothing here deletes an element that is not in a [`encoding::Saved`], and a queue is never overwritten:
//! what is there stays there, and what comes back is joined to it. What is moved is moved by single commands and
//! transactions of the server, so each element is in exactly one place whenever this program dies. No scripts are
//! sent: they may be forbidden, and they block the server.

pub mod aside;
pub mod encoding;
mod link;
pub mod read;
pub mod restore;
pub mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::redis::link::Link;
use crate::source::secret::SecretSource;
use crate::source::wait::pause;

/// How often queues are looked at while they drain.
const LOOK: Duration = Duration::from_millis(500);
/// What Celery puts between a queue's name and a priority, for the keys of tasks that have one.
const PRIORITY_SEPARATOR: &str = "\u{6}\u{16}";
/// The priorities for which Celery has keys; the first has the queue's own name.
const PRIORITIES: [u8; 3] = [3, 6, 9];
/// The keys in which Celery keeps tasks that a worker has taken and not yet acknowledged: content, order, lock.
const UNACKED: [&str; 3] = ["unacked", "unacked_index", "unacked_mutex"];

/// How the platform's Redis is reached, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RedisSettings {
    /// Host and port.
    pub address: String,
    /// A Unix socket, instead of `address`.
    pub socket: Option<PathBuf>,
    /// The number of the database that holds the queues.
    pub database: u32,
    /// The user to log in as, where the server has users.
    pub username: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// A systemd credential that holds the password.
    pub password_credential: Option<String>,
    /// An environment variable that holds the password.
    pub password_env: Option<String>,
    /// The queues of Celery's tasks, which must be empty before a capture.
    pub queues: Vec<String>,
    /// The queues of data on its way in, which may be emptied before a capture once they are saved.
    pub ingestion_queues: Vec<String>,
    /// The end from which the ingestion queues are consumed. Celery's are consumed from the right.
    pub ingestion_consumed_from: End,
    /// What Celery's `global_keyprefix` is; one empty prefix where it is not set.
    pub key_prefixes: Vec<String>,
    /// Whether the server's own dump is saved besides the queues.
    pub dump: bool,
    /// How long to wait for a connection.
    pub connect_timeout_seconds: u64,
    /// How long to wait for an answer.
    pub answer_timeout_seconds: u64,
    /// How long to wait for the queues to become empty.
    pub drain_timeout_seconds: u64,
    /// How long to wait for the server to write its dump.
    pub save_timeout_seconds: u64,
}

impl Default for RedisSettings {
    fn default() -> Self {
        let queues = [
            "enrichers",
            "integrations",
            "priority_enrichers",
            "priority_providers",
            "priority_utilities",
            "providers",
            "reindexing",
            "utilities",
        ];
        let ingestion = ["queue:ingestion:inbound", "queue:graph:inbound", "queue:search:inbound"];
        RedisSettings {
            address: "localhost:6379".to_owned(),
            socket: None,
            database: 0,
            username: None,
            password_file: None,
            password_credential: None,
            password_env: None,
            queues: queues.map(str::to_owned).to_vec(),
            ingestion_queues: ingestion.map(str::to_owned).to_vec(),
            ingestion_consumed_from: End::Left,
            key_prefixes: vec![String::new()],
            dump: false,
            connect_timeout_seconds: 5,
            answer_timeout_seconds: 60,
            drain_timeout_seconds: 1800,
            save_timeout_seconds: 600,
        }
    }
}

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Index 0.
    Left,
    /// Index -1.
    Right,
}

impl RedisSettings {
    /// The server, for people.
    pub fn shown(&self) -> String {
        match &self.socket {
            Some(path) => format!("redis {}", path.display()),
            None => format!("redis {}", self.address),
        }
    }

    /// All queues: those of tasks, and those of data on its way in.
    pub fn all_queues(&self) -> impl Iterator<Item = &String> {
        self.queues.iter().chain(&self.ingestion_queues)
    }

    /// The keys in which a queue's elements are: one for each prefix, and for Celery's queues one for each priority.
    pub fn keys(&self, queue: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for prefix in &self.key_prefixes {
            keys.push(format!("{prefix}{queue}"));
            if !self.ingestion_queues.iter().any(|name| name == queue) {
                keys.extend(PRIORITIES.map(|priority| format!("{prefix}{queue}{PRIORITY_SEPARATOR}{priority}")));
            }
        }
        keys
    }

    /// The keys that hold the tasks that workers have taken; the lock is not among them.
    pub fn unacked_keys(&self) -> Vec<String> {
        self.key_prefixes.iter().flat_map(|prefix| [0, 1].map(|at| format!("{prefix}{}", UNACKED[at]))).collect()
    }

    /// The end from which a key's elements are consumed.
    pub fn consumed_from(&self, key: &str) -> End {
        let ingestion = self.ingestion_queues.iter().flat_map(|queue| self.keys(queue)).any(|name| name == key);
        if ingestion { self.ingestion_consumed_from } else { End::Right }
    }

    fn password(&self) -> Result<Option<SecretSource>, SourceError> {
        let (credential, environment) = (self.password_credential.as_deref(), self.password_env.as_deref());
        SecretSource::one_of("redis password", self.password_file.as_deref(), credential, environment)
    }

    fn port_and_host(&self) -> Result<(String, u16), SourceError> {
        let invalid = || SourceError::Setting {
            setting: format!("redis address {:?}", self.address),
            why: "a host and a port are expected, such as localhost:6379 or [::1]:6379".to_owned(),
        };
        let (host, port) = self.address.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok((host.to_owned(), port.parse().map_err(|_| invalid())?))
    }

    /// What opens a connection, whenever and on whatever thread it is called.
    fn opening(&self) -> Result<impl FnOnce() -> Result<Connection, RedisError> + Send + 'static, SourceError> {
        let address = match &self.socket {
            Some(path) => ConnectionAddr::Unix(path.clone()),
            None => {
                let (host, port) = self.port_and_host()?;
                ConnectionAddr::Tcp(host, port)
            }
        };
        let mut login = RedisConnectionInfo::default().set_db(i64::from(self.database)).set_skip_set_lib_name();
        if let Some(name) = &self.username {
            login = login.set_username(name);
        }
        if let Some(secret) = self.password()? {
            login = login.set_password(secret.read()?.expose());
        }
        let patience = Duration::from_secs(self.connect_timeout_seconds.max(1));
        Ok(move || {
            let client = redis::Client::open(address.into_connection_info()?.set_redis_settings(login))?;
            let mut connection = client.get_connection_with_timeout(patience)?;
            connection.set_read_timeout(None)?;
            connection.set_write_timeout(None)?;
            // By this name our own connections are told from those of the platform.
            redis::cmd("CLIENT").arg("SETNAME").arg(our_name()).exec(&mut connection)?;
            Ok(connection)
        })
    }
}

/// Queues that are not empty, with what is in them, for people.
pub fn waiting(lengths: &BTreeMap<String, u64>) -> Vec<String> {
    lengths.iter().filter(|(_, length)| **length > 0).map(|(queue, length)| format!("{queue}: {length}")).collect()
}

fn our_name() -> String {
    format!("cairn-{}", std::process::id())
}

fn failed(settings: &RedisSettings, action: impl Into<String>, error: RedisError) -> SourceError {
    SourceError::Server { server: settings.shown(), action: action.into(), source: Box::new(error) }
}

/// A connection.
pub struct Client {
    link: Link,
}

/// What is waited for by [`Client::wait_drained`].
#[derive(Clone, Copy, Debug)]
pub struct Drain<'a> {
    /// The queues that have to become empty.
    pub queues: &'a [String],
    /// Whether the tasks that workers have taken have to be done, too. A task with a time in the future is taken at
    /// once and held until then.
    pub unacked: bool,
    /// How long to wait.
    pub limit: Duration,
}

/// Sees what is left in queues; an error ends the waiting for them.
pub type OnLook<'a> = dyn FnMut(&BTreeMap<String, u64>) -> Result<(), SourceError> + 'a;

impl Client {
    /// Connects, and sees that the server answers.
    pub fn connect(settings: &RedisSettings) -> Result<Self, SourceError> {
        Ok(Client { link: Link::open(settings)? })
    }

    /// How it was reached.
    pub fn settings(&self) -> &RedisSettings {
        self.link.settings()
    }

    fn ask<T: FromRedisValue + Send + 'static>(&mut self, action: &str, command: &Cmd) -> Result<T, SourceError> {
        self.link.ask(action, command)
    }

    fn answer(&self, what: String) -> SourceError {
        SourceError::Answer { server: self.link.settings().shown(), what }
    }

    /// Elements of one key; of something that is not a list it is an error.
    fn length(&mut self, key: &str) -> Result<u64, SourceError> {
        self.ask(&format!("tell the length of the queue {key:?}"), redis::cmd("LLEN").arg(key))
    }

    /// Elements of each queue.
    pub fn lengths(&mut self, queues: &[String]) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut lengths = BTreeMap::new();
        for queue in queues {
            let mut sum = 0u64;
            for key in self.link.settings().keys(queue) {
                sum = sum.saturating_add(self.length(&key)?);
            }
            lengths.insert(queue.clone(), sum);
        }
        Ok(lengths)
    }

    /// Tasks that workers have taken and not yet acknowledged.
    pub fn unacked(&mut self) -> Result<u64, SourceError> {
        let mut sum = 0u64;
        for prefix in self.link.settings().key_prefixes.clone() {
            let count = |name: &str| format!("{prefix}{name}");
            let content: u64 = self.ask("count unacknowledged tasks", redis::cmd("HLEN").arg(count(UNACKED[0])))?;
            let order: u64 = self.ask("count unacknowledged tasks", redis::cmd("ZCARD").arg(count(UNACKED[1])))?;
            // Celery writes both in one transaction. Should they differ, the larger one is the careful answer.
            sum = sum.saturating_add(content.max(order));
        }
        Ok(sum)
    }

    /// Waits until the queues are empty. `on_look` is given each count of what is left: the queues, and, where it is
    /// waited for, `unacked`. Its error ends the waiting.
    pub fn wait_drained(
        &mut self,
        drain: Drain<'_>,
        stop: &dyn Fn() -> bool,
        on_look: &mut OnLook<'_>,
    ) -> Result<(), SourceError> {
        let started = Instant::now();
        loop {
            let mut left = self.lengths(drain.queues)?;
            if drain.unacked {
                left.insert(UNACKED[0].to_owned(), self.unacked()?);
            }
            on_look(&left)?;
            if left.values().all(|length| *length == 0) {
                return Ok(());
            }
            if started.elapsed() >= drain.limit {
                let left = waiting(&left).join(", ");
                let what = format!("{}: these queues did not become empty ({left})", self.link.settings().shown());
                return Err(SourceError::Timeout { what, limit: drain.limit });
            }
            pause(LOOK.min(drain.limit), stop)?;
        }
    }
}
