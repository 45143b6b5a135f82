//! A real Elasticsearch node.

use std::path::PathBuf;

use cairn::source::elasticsearch::client::Level;
use cairn::source::elasticsearch::{Client, ElasticsearchSettings};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::{Java, PATIENCE, free_port, jars, skip};

/// A node with its data below a temporary directory.
pub struct Elasticsearch {
    java: Java,
    port: u16,
    jars: PathBuf,
    directory: TempDir,
    allowed: bool,
}

impl Elasticsearch {
    /// Starts a node; with `path.repo` naming [`Elasticsearch::location`] if that is to be allowed. `None` if a server
    /// cannot be had here.
    pub fn start(allowed: bool) -> Option<Self> {
        let jars = match jars("es") {
            Ok(jars) => jars,
            Err(why) => {
                skip(&format!("no Elasticsearch: {why}"));
                return None;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        for name in ["home/config", "repositories"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let port = free_port();
        let java = launch(&jars, &directory, port, allowed);
        let mut server = Elasticsearch { java, port, jars, directory, allowed };
        server.must_become_healthy();
        Some(server)
    }

    /// From its next start on, `path.repo` names [`Elasticsearch::location`].
    pub fn allow_location(&mut self) {
        self.allowed = true;
    }

    /// Stops the node and starts it again.
    pub fn restart(&mut self) {
        self.java.stop();
        self.java = launch(&self.jars, &self.directory, self.port, self.allowed);
        self.must_become_healthy();
    }

    /// Stops the node.
    pub fn stop(&mut self) {
        self.java.stop();
    }

    /// Lets the process stand still, so that it neither answers nor closes connections.
    pub fn freeze(&self) {
        self.java.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.java.thaw();
    }

    /// Where its snapshot repository may be.
    pub fn location(&self) -> PathBuf {
        self.directory.path().join("repositories/backup")
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("home/data")
    }

    /// Settings that reach it.
    pub fn settings(&self) -> ElasticsearchSettings {
        ElasticsearchSettings {
            url: format!("http://127.0.0.1:{}", self.port),
            location: self.location(),
            owner: uzers::get_current_username().unwrap().into_string().unwrap(),
            ..Default::default()
        }
    }

    /// The driver under test.
    pub fn client(&self) -> Client {
        Client::new(&self.settings()).unwrap()
    }

    /// A request past the driver; its answer must be good.
    pub fn send(&self, method: Method, path: &str, body: &str) -> Value {
        let request = reqwest::blocking::Client::new()
            .request(method, format!("http://127.0.0.1:{}/{path}", self.port))
            .header("content-type", "application/json")
            .body(body.to_owned());
        let response = request.send().unwrap();
        let status = response.status();
        let text = response.text().unwrap();
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Makes an index with documents in it, durable on disk.
    pub fn seed(&self, index: &str, documents: usize, settings: &str) {
        let body = format!(r#"{{"settings":{{"number_of_shards":1,"number_of_replicas":0{settings}}}}}"#);
        let request = reqwest::blocking::Client::new()
            .put(format!("http://127.0.0.1:{}/{index}", self.port))
            .header("content-type", "application/json")
            .body(body);
        let answer = request.send().unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().unwrap());
        if documents > 0 {
            self.add(index, documents);
        }
    }

    /// Adds documents to an index.
    pub fn add(&self, index: &str, documents: usize) {
        let lines: String = (0..documents)
            .map(|number| format!("{{\"index\":{{}}}}\n{{\"title\":\"document {number}\",\"n\":{number}}}\n"))
            .collect();
        let answer = self.send(Method::POST, &format!("{index}/_bulk?refresh=true"), &lines);
        assert_eq!(answer["errors"], false, "{answer}");
        self.send(Method::POST, &format!("{index}/_flush?force=true"), "");
    }

    fn must_become_healthy(&mut self) {
        let client = self.client();
        if let Err(error) = client.wait_for_health(Level::Yellow, PATIENCE, &|| false) {
            panic!("{error}\n{}", self.java.log());
        }
        self.java.must_run();
    }
}

fn launch(jars: &std::path::Path, directory: &TempDir, port: u16, allowed: bool) -> Java {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (port, home, repositories) = (port.to_string(), path("home"), path("repositories"));
    let mut arguments = vec![port.as_str(), home.as_str()];
    if allowed {
        arguments.push(&repositories);
    }
    Java::start(jars, &["-Xmx512m"], "EsNode", &arguments, &directory.path().join("log"))
}
