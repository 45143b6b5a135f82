//! What runs on this machine beside us: leftover processes of the platform, their PID files, who is connected.
//!
//! * [`table`]: processes, by rules, from `/proc`.
//! * [`terminate`]: ending one of them, and no other.
//! * [`pidfile`]: PID files, and which of them are stale.
//! * [`machine`]: connections, logins, free space.
//! * [`celery`]: what workers say that they are doing.
//!
//! Invariant: a process is known by its number and its start time, so a number that was given to another process is
//! never signalled; and neither this process nor any of those that it was started by are ever found.

pub mod celery;
pub mod machine;
pub mod pidfile;
pub mod table;
pub mod terminate;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use celery::CelerySettings;
pub use table::{Process, ProcessId};

/// What belongs to the platform among the processes of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessSettings {
    /// A process that one of these fits is the platform's.
    pub rules: Vec<ProcessRule>,
    /// PID files of the platform: globs.
    pub pid_files: Vec<String>,
    /// The ports to which users connect.
    pub user_ports: Vec<u16>,
    /// How long a process may take to end after it was asked to.
    pub terminate_timeout_seconds: u64,
    /// How long a process may take to vanish once it was killed.
    pub kill_timeout_seconds: u64,
    /// The program that lists who is logged in.
    pub who: Vec<String>,
}

/// Which processes belong to the platform: those that fit everything that is given here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessRule {
    /// What they are, for people.
    pub name: String,
    /// They run as one of these users; as anyone if none is given.
    pub users: Vec<String>,
    /// For each of these globs they have an argument that it fits; the program is the first argument.
    pub arguments: Vec<String>,
}

impl ProcessRule {
    fn new(name: &str, users: &[&str], arguments: &[&str]) -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ProcessRule { name: name.to_owned(), users: texts(users), arguments: texts(arguments) }
    }
}

impl Default for ProcessSettings {
    fn default() -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ProcessSettings {
            rules: vec![
                ProcessRule::new("platform", &[], &["/opt/eclecticiq-platform-backend/*"]),
                ProcessRule::new("beat", &["eclecticiq"], &["*celery*", "beat"]),
                ProcessRule::new("worker", &["eclecticiq"], &["*celery*", "worker"]),
            ],
            pid_files: texts(&["/var/run/eclecticiq*/*.pid", "/var/run/eclecticiq*.pid", "/var/run/celery*/*.pid"]),
            user_ports: vec![443, 80],
            terminate_timeout_seconds: 60,
            kill_timeout_seconds: 10,
            who: texts(&["who"]),
        }
    }
}

impl ProcessSettings {
    /// The two time limits of [`terminate`].
    pub fn patience(&self) -> terminate::Patience {
        terminate::Patience {
            terminate: Duration::from_secs(self.terminate_timeout_seconds),
            kill: Duration::from_secs(self.kill_timeout_seconds),
        }
    }
}
