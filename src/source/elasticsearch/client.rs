//! Requests to Elasticsearch and their bounded answers; who the server is, and how it is.
//!
//! Invariant: no answer takes more memory than 64 MiB or more time than the request's limit, whatever the
//! server sends; credentials go to the configured address only, since redirections are not followed and proxies are
//! not used.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use reqwest::{Certificate, Method, Url, redirect};
use serde_json::Value;

use super::ElasticsearchSettings;
use crate::format::codec::escape_path;
use crate::format::error::chain;
use crate::source::SourceError;
use crate::source::secret::Secret;
use crate::source::wait;

/// An answer is at most so long.
const MAX_ANSWER: usize = 64 << 20;
/// So much of a server's reason is passed on.
const MAX_REASON: usize = 2000;
/// How often a state that is waited for is asked for.
const POLL: Duration = Duration::from_millis(500);

/// So much longer than the request's own limit is its thread waited for: the request's error says more.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A connection to the server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::blocking::Client,
    base: Url,
    credentials: Option<(String, Arc<Secret>)>,
    pub(super) settings: ElasticsearchSettings,
}

/// A request.
pub(super) struct Call<'a> {
    pub method: Method,
    /// The path, by its segments: names are escaped.
    pub path: &'a [&'a str],
    pub query: &'a [(&'a str, &'a str)],
    pub body: Option<Value>,
    /// How long the answer may take; the setting's time if absent.
    pub limit: Option<Duration>,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, path: &'a [&'a str]) -> Self {
        Call { method, path, query: &[], body: None, limit: None }
    }

    pub fn get(path: &'a [&'a str]) -> Self {
        Call::new(Method::GET, path)
    }

    pub fn query(self, query: &'a [(&'a str, &'a str)]) -> Self {
        Call { query, ..self }
    }

    pub fn body(self, body: Value) -> Self {
        Call { body: Some(body), ..self }
    }

    pub fn limit(self, limit: Duration) -> Self {
        Call { limit: Some(limit), ..self }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} /{}", self.method, self.path.join("/"))
    }
}

/// The server understood and said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it answered {status}{}: {reason}", if kind.is_empty() { String::new() } else { format!(" ({kind})") })]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Elasticsearch's name of the error, such as `snapshot_missing_exception`.
    pub kind: String,
    /// Why, in its words, causes included.
    pub reason: String,
}

impl Refusal {
    /// Whether the server says that it cannot yet, or has too much to do: asked again, it may do it.
    pub fn is_not_ready(&self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

/// What a request led to.
pub(super) enum Answer {
    Done(Value),
    Refused(Refusal),
}

/// Who the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its version, `7.17.28`.
    pub version: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's UUID.
    pub cluster_uuid: String,
}

/// How well a cluster is; the greater, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Some primary shard is not available.
    Red,
    /// Every primary shard is available, some replica is not.
    Yellow,
    /// Every shard is available.
    Green,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Level::Red => "red",
            Level::Yellow => "yellow",
            Level::Green => "green",
        })
    }
}

/// A cluster's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How well it is.
    pub level: Level,
    /// Nodes in it.
    pub nodes: u64,
    /// Shards without a node; a single node never has one for replicas.
    pub unassigned_shards: u64,
    /// Shards that are on their way.
    pub moving_shards: u64,
    /// Changes of the cluster's state that wait.
    pub pending_tasks: u64,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether it can be read.
    pub open: bool,
    /// How well it is; absent for some closed ones.
    pub health: Option<Level>,
    /// Documents of its primary shards, nested ones included; absent when they are not available.
    pub documents: Option<u64>,
    /// Bytes of its primary shards.
    pub bytes: Option<u64>,
}

impl Client {
    /// Prepares a connection; nothing is sent yet.
    pub fn new(settings: &ElasticsearchSettings) -> Result<Self, SourceError> {
        let base = address(&settings.url)?;
        let credentials = credentials(settings)?;
        let setting = |setting: &str, why: String| SourceError::Setting { setting: setting.to_owned(), why };
        let mut builder = reqwest::blocking::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(settings.connect_timeout_seconds))
            .timeout(settings.request_timeout())
            .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_only(certificates(path)?);
        }
        let http = builder.build().map_err(|error| setting("elasticsearch", chain(&error)))?;
        Ok(Client { http, base, credentials, settings: settings.clone() })
    }

    /// The server for people: what it is, and its address.
    pub fn server(&self) -> String {
        format!("elasticsearch {}", self.settings.url.trim_end_matches('/'))
    }

    /// Who the server is.
    pub fn info(&self) -> Result<Info, SourceError> {
        let answer = self.ask(&Call::get(&[]))?;
        Ok(Info {
            version: self.text(&answer, "/version/number")?,
            cluster_name: self.text(&answer, "/cluster_name")?,
            cluster_uuid: self.text(&answer, "/cluster_uuid")?,
        })
    }

    /// How the cluster is.
    pub fn health(&self) -> Result<Health, SourceError> {
        let answer = self.ask(&Call::get(&["_cluster", "health"]))?;
        let status = self.text(&answer, "/status")?;
        let level = level(&status).ok_or_else(|| self.unclear(format!("its health is {status:?}")))?;
        Ok(Health {
            level,
            nodes: self.number(&answer, "/number_of_nodes")?,
            unassigned_shards: self.number(&answer, "/unassigned_shards")?,
            moving_shards: self.number(&answer, "/initializing_shards")?
                + self.number(&answer, "/relocating_shards")?,
            pending_tasks: self.number(&answer, "/number_of_pending_tasks")?,
        })
    }

    /// Waits until the cluster is at least so well. A server that does not answer yet is waited for, too.
    pub fn wait_for_health(
        &self,
        wanted: Level,
        limit: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Health, SourceError> {
        let started = Instant::now();
        loop {
            let seen = match self.attended(limit.saturating_sub(started.elapsed()), stop, Client::health) {
                Ok(health) if health.level >= wanted => return Ok(health),
                Ok(health) => format!("it is {}, {} shards unassigned", health.level, health.unassigned_shards),
                Err(SourceError::Interrupted) => return Err(SourceError::Interrupted),
                Err(error) => chain(&error),
            };
            if started.elapsed() >= limit {
                let what = format!("{}: its health did not reach {wanted} ({seen})", self.server());
                return Err(SourceError::Timeout { what, limit });
            }
            wait::pause(POLL, stop)?;
        }
    }

    /// All indices, hidden and closed ones included, by name.
    pub fn indices(&self) -> Result<Vec<Index>, SourceError> {
        let query = [
            ("format", "json"),
            ("expand_wildcards", "all"),
            ("bytes", "b"),
            ("h", "index,status,health,docs.count,pri.store.size"),
        ];
        let answer = self.ask(&Call::get(&["_cat", "indices"]).query(&query))?;
        let rows = answer.as_array().ok_or_else(|| self.unclear("its list of indices is no list".to_owned()))?;
        let mut indices = Vec::new();
        for row in rows {
            let number = |field: &str| row.get(field)?.as_str()?.parse().ok();
            indices.push(Index {
                name: self.text(row, "/index")?,
                open: row.get("status").and_then(Value::as_str) == Some("open"),
                health: row.get("health").and_then(Value::as_str).and_then(level),
                documents: number("docs.count"),
                bytes: number("pri.store.size"),
            });
        }
        indices.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(indices)
    }

    /// Bytes of the primary shards of what a snapshot would hold: the most that it can write.
    pub fn stored_bytes(&self) -> Result<u64, SourceError> {
        let indices = match self.settings.indices.is_empty() {
            true => "_all".to_owned(),
            false => self.settings.indices.join(","),
        };
        let query = [
            ("expand_wildcards", "all"),
            ("forbid_closed_indices", "false"),
            ("filter_path", "_shards.total,_all.primaries.store.size_in_bytes"),
        ];
        let path = [indices.as_str(), "_stats", "store"];
        let answer = self.ask(&Call::get(&path).query(&query))?;
        // A server without indices counts nothing.
        match answer.pointer("/_shards/total").and_then(Value::as_u64) {
            Some(0) => Ok(0),
            _ => self.number(&answer, "/_all/primaries/store/size_in_bytes"),
        }
    }

    /// What the server says to a request that must not be refused.
    pub(super) fn ask(&self, call: &Call<'_>) -> Result<Value, SourceError> {
        match self.send(call)? {
            Answer::Done(value) => Ok(value),
            Answer::Refused(refusal) => Err(self.refused(call.to_string(), refusal)),
        }
    }

    /// The error for a refusal that ends what was to be done.
    pub(super) fn refused(&self, action: String, refusal: Refusal) -> SourceError {
        SourceError::Server { server: self.server(), action, source: Box::new(refusal) }
    }

    /// Sends a request.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, SourceError> {
        let limit = call.limit.unwrap_or(self.settings.request_timeout());
        let deadline = wait::deadline(limit);
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut request = self.http.request(call.method.clone(), url).timeout(limit);
        if let Some((user, password)) = &self.credentials {
            request = request.basic_auth(user, Some(password.expose()));
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let late = || SourceError::Timeout { what: format!("{} did not answer {call}", self.server()), limit };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SourceError::Server {
            server: self.server(),
            action: call.to_string(),
            source,
        };
        let response = request.send().map_err(|error| match error.is_timeout() && !error.is_connect() {
            true => late(),
            false => failed(Box::new(error.without_url())),
        })?;
        let status = response.status();
        let bytes = read(response, deadline).map_err(|lost| match lost {
            Lost::Late => late(),
            Lost::TooLong => self.unclear(format!("its answer to {call} is longer than {MAX_ANSWER} bytes")),
            Lost::Broken(error) => failed(Box::new(error)),
        })?;
        let value = serde_json::from_slice(&bytes);
        if status.is_success() {
            let unclear = |_| self.unclear(format!("its answer to {call} is not JSON; is this Elasticsearch?"));
            return value.map(Answer::Done).map_err(unclear);
        }
        Ok(Answer::Refused(refusal(status.as_u16(), value.ok().as_ref(), &bytes)))
    }

    /// Does something on a thread of its own, so that a stop need not wait for the server.
    pub(super) fn attended<T: Send + 'static>(
        &self,
        limit: Duration,
        stop: &dyn Fn() -> bool,
        work: impl FnOnce(&Client) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let client = self.clone();
        wait::attended(&format!("{} did not answer", self.server()), limit, stop, move || work(&client))?
    }

    /// An answer that cannot be used.
    pub(super) fn unclear(&self, what: String) -> SourceError {
        SourceError::Answer { server: self.server(), what }
    }

    pub(super) fn text(&self, answer: &Value, pointer: &str) -> Result<String, SourceError> {
        let text = answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| self.unclear(format!("its answer lacks {pointer}; is this Elasticsearch 7?")))
    }

    pub(super) fn number(&self, answer: &Value, pointer: &str) -> Result<u64, SourceError> {
        let number = answer.pointer(pointer).and_then(Value::as_u64);
        number.ok_or_else(|| self.unclear(format!("its answer lacks {pointer}; is this Elasticsearch 7?")))
    }
}

fn address(url: &str) -> Result<Url, SourceError> {
    let wrong = |why: &str| SourceError::Setting { setting: "url".to_owned(), why: why.to_owned() };
    let base = Url::parse(url).map_err(|error| wrong(&format!("{url:?} is no address: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
        return Err(wrong(&format!("{url:?} does not begin with http:// or https://")));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong("it holds credentials; use the settings user and password-file instead"));
    }
    Ok(base)
}

fn credentials(settings: &ElasticsearchSettings) -> Result<Option<(String, Arc<Secret>)>, SourceError> {
    let half = |setting: &str, why: &str| SourceError::Setting { setting: setting.to_owned(), why: why.to_owned() };
    match (&settings.user, settings.password()?) {
        (None, None) => Ok(None),
        (Some(user), Some(source)) => Ok(Some((user.clone(), Arc::new(source.read()?)))),
        (Some(_), None) => Err(half("password-file", "a user is set, but no place of a password")),
        (None, Some(_)) => Err(half("user", "a place of a password is set, but no user")),
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<Certificate>, SourceError> {
    let shown = escape_path(path);
    let unreadable = |source| SourceError::at("read certificates in", path, source);
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(16 << 20).read_to_end(&mut pem).map_err(unreadable)?;
    let wrong = |why: String| SourceError::Setting { setting: "ca-file".to_owned(), why: format!("{shown}: {why}") };
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(wrong("it holds no certificate".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(chain(&error))),
    }
}

enum Lost {
    Late,
    TooLong,
    Broken(std::io::Error),
}

/// The body, within bounds: the client's own time limit begins anew with each piece.
fn read(mut response: Response, deadline: Instant) -> Result<Vec<u8>, Lost> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        if Instant::now() >= deadline {
            return Err(Lost::Late);
        }
        match response.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(count) if bytes.len() + count > MAX_ANSWER => return Err(Lost::TooLong),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if timed_out(&error) => return Err(Lost::Late),
            Err(error) => return Err(Lost::Broken(error)),
        }
    }
}

/// The library hides its own error, which alone says so, in one of the system's.
fn timed_out(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    error.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout)
}

fn refusal(status: u16, answer: Option<&Value>, bytes: &[u8]) -> Refusal {
    let error = answer.and_then(|answer| answer.get("error"));
    let kind = error.and_then(|error| error.get("type")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut reasons: Vec<&str> = Vec::new();
    let mut cause = error;
    // A chain of causes is short in practice; an endless one would have to be an endless answer.
    while let Some(error) = cause {
        if let Some(reason) = error.get("reason").and_then(Value::as_str).or(error.as_str())
            && !reasons.contains(&reason)
        {
            reasons.push(reason);
        }
        cause = error.get("caused_by");
    }
    let reason = match reasons.is_empty() {
        true => String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_REASON)]).into_owned(),
        false => reasons.join(": "),
    };
    Refusal { status, kind, reason: reason.chars().take(MAX_REASON).collect() }
}

fn level(name: &str) -> Option<Level> {
    match name {
        "red" => Some(Level::Red),
        "yellow" => Some(Level::Yellow),
        "green" => Some(Level::Green),
        _ => None,
    }
}
