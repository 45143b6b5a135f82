//! A terminal for a program under test: what it shows can be read, and what a user would type can be written.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

pub struct Terminal {
    master: File,
    slave: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let master = File::from(master);
        let (mut reader, kept) = (master.try_clone().unwrap(), shown.clone());
        // Read all the time: a terminal that nobody reads blocks whoever writes to it. Ends with the test's process.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut part) {
                kept.lock().unwrap().extend_from_slice(&part[..read]);
            }
        });
        let terminal = Terminal { master, slave, shown };
        terminal.resize(120, 24);
        terminal
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// This terminal as a stream of a program.
    pub fn stream(&self) -> Stdio {
        self.slave.try_clone().unwrap().into()
    }

    /// The command with this terminal as its controlling one. The process id stays that of the program.
    pub fn controlling(&self, command: &Command) -> Command {
        let mut inside = Command::new("setsid");
        inside.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.stdin(self.stream()).stderr(self.stream()).stdout(self.stream());
        inside
    }

    pub fn type_in(&self, keys: &[u8]) {
        (&self.master).write_all(keys).unwrap();
    }

    /// Shows something, as a program would.
    pub fn say(&self, words: &str) {
        (&self.slave).write_all(words.as_bytes()).unwrap();
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until the program has shown this.
    pub fn wait_for(&self, words: &str) {
        wait_until(&format!("{words:?} is shown"), || self.shown().contains(words));
    }

    pub fn echoes(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

/// Waits for something that another process does: long enough for any machine.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
