//! A real Redis, and real Celery workers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn::source::redis::{Client, RedisSettings};
use tempfile::TempDir;

use super::{PATIENCE, free_port, skip};

/// The tasks of the scenarios: `nap` takes as long as it is told.
const TASKS: &str = "
import sys, time
from celery import Celery
app = Celery('tasks', broker=open('broker').read())
app.conf.update(worker_prefetch_multiplier=2, broker_connection_retry_on_startup=True, task_ignore_result=True)
@app.task
def nap(seconds):
    time.sleep(seconds)
if __name__ == '__main__':
    queue, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    for number in range(count):
        options = {'priority': int(sys.argv[4])} if len(sys.argv) > 4 else {}
        nap.apply_async((seconds,), queue=queue, **options)
";

/// A server with its data below a temporary directory.
pub struct Redis {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Redis {
    /// Starts a server; `None` if it cannot be had here.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let spawned = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"])
            .arg(directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            skip("redis-server is not installed");
            return None;
        };
        let server = Redis { child, port, directory };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Settings that reach it.
    pub fn settings(&self) -> RedisSettings {
        RedisSettings { address: format!("127.0.0.1:{}", self.port), ..Default::default() }
    }

    /// The driver under test.
    pub fn client(&self) -> Client {
        Client::connect(&self.settings()).unwrap()
    }

    /// A connection past the driver.
    pub fn raw(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap().get_connection().unwrap()
    }

    /// Where it keeps its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lays out a Celery application for this server. `None` if Celery cannot be had here.
    pub fn celery(&self) -> Option<Celery> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live/fetch-celery");
        let output = Command::new(script).stdin(Stdio::null()).output().unwrap();
        if !output.status.success() {
            skip(&String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let environment = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tasks.py"), TASKS).unwrap();
        std::fs::write(directory.path().join("broker"), format!("redis://127.0.0.1:{}/0", self.port)).unwrap();
        Some(Celery { environment, directory })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Celery application.
pub struct Celery {
    environment: PathBuf,
    directory: TempDir,
}

/// A worker; it ends when it is dropped.
pub struct Worker(Child);

impl Celery {
    /// The program, to be run in [`Celery::directory`].
    pub fn program(&self, name: &str) -> PathBuf {
        self.environment.join("bin").join(name)
    }

    /// Where `tasks.py` is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts tasks into a queue.
    pub fn send(&self, queue: &str, count: usize, seconds: f64, priority: Option<u8>) {
        let mut command = Command::new(self.program("python"));
        command.arg("tasks.py").args([queue, &count.to_string(), &seconds.to_string()]);
        command.args(priority.map(|priority| priority.to_string()));
        assert!(command.current_dir(self.directory.path()).status().unwrap().success());
    }

    /// Starts a worker with one process.
    pub fn work(&self, queues: &str) -> Worker {
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = Command::new(self.program("celery"))
            .args(["-A", "tasks", "worker", "-P", "threads", "-c", "1", "-n", "worker@lab", "-Q", queues])
            .env("C_FORCE_ROOT", "1")
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Worker(child.unwrap())
    }
}

impl Worker {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
