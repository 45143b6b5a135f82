//! A real Neo4j.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn::source::neo4j::session::{Connected, Session};
use cairn::source::neo4j::{Neo4jSettings, configuration};
use neo4j::address::Address;
use neo4j::driver::{ConnectionConfig, Driver, DriverConfig};
use rustix::process::Pid;
use tempfile::TempDir;

use super::{Java, PATIENCE, free_port, jars, skip};

const OPTIONS: [&str; 5] = [
    "-Xmx600m",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
];

/// A server with its home below a temporary directory.
pub struct Neo4j {
    java: Option<Java>,
    port: u16,
    jars: PathBuf,
    directory: TempDir,
}

impl Neo4j {
    /// Starts a server on an empty home. `None` if one cannot be had here.
    pub fn start() -> Option<Self> {
        let mut server = Neo4j::prepare()?;
        server.begin();
        Some(server)
    }

    /// Makes an empty home, without a server on it yet.
    pub fn prepare() -> Option<Self> {
        let jars = match jars("neo4j") {
            Ok(jars) => jars,
            Err(why) => {
                skip(&format!("no Neo4j: {why}"));
                return None;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("home")).unwrap();
        let server = Neo4j { java: None, port: free_port(), jars, directory };
        let text = format!("# for the test\ndbms.directories.neo4j_home={}\n", server.home().display());
        std::fs::write(server.settings().configuration_file, text).unwrap();
        Some(server)
    }

    /// Starts the server on what is in its home.
    pub fn begin(&mut self) {
        let arguments = [self.home().to_str().unwrap().to_owned(), self.port.to_string()];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut java = Java::start(&self.jars, &OPTIONS, "Neo", &arguments, &self.directory.path().join("log"));
        if let Err(error) = Session::wait(&self.settings(), PATIENCE, &|| false) {
            panic!("{error}\n{}", java.log());
        }
        java.must_run();
        self.java = Some(java);
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.java.take().unwrap().stop();
    }

    /// Lets the process stand still.
    pub fn freeze(&self) {
        self.java.as_ref().unwrap().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.java.as_ref().unwrap().thaw();
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.java.as_ref().unwrap().pid()
    }

    /// Its home.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Settings that reach it.
    pub fn settings(&self) -> Neo4jSettings {
        Neo4jSettings {
            configuration_file: self.directory.path().join("neo4j.conf"),
            address: format!("127.0.0.1:{}", self.port),
            ..Default::default()
        }
    }

    /// What its configuration says.
    pub fn configuration(&self) -> configuration::Configuration {
        configuration::read(&self.settings()).unwrap()
    }

    /// The driver under test.
    pub fn session(&self) -> Session {
        match Session::connect(&self.settings(), &|| false).unwrap() {
            Connected::Yes(session) => session,
            Connected::TooOld { why } => panic!("{why}"),
        }
    }

    /// A connection past the driver under test.
    pub fn driver(&self) -> Driver {
        let address = Address::from(self.settings().address.as_str());
        Driver::new(ConnectionConfig::new(address), DriverConfig::new())
    }

    /// A statement past the driver under test.
    pub fn run(&self, statement: &str) {
        self.driver().execute_query(statement).with_database(Arc::new("neo4j".to_owned())).run().unwrap();
    }
}

/// Copies a tree and keeps its holes.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let status = std::process::Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
