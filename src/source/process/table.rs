//! Processes, read from `/proc`.
//!
//! Invariant: what is read of one process is of one process. `/proc/PID` is opened once and its files are read through
//! that directory, which belongs to the process and not to the number: if the process ends, reading fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use globset::{Glob, GlobMatcher};
use rustix::fs::{Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::process::ProcessRule;

/// How much is read of a process's arguments; rules look at no more.
const ARGUMENTS: u64 = 64 << 10;
/// How much is read of a process's state.
const STAT: u64 = 4 << 10;
/// So many steps lead from a process to the first one at most.
const ANCESTORS: usize = 1000;

/// A process, and no other that has its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started: clock ticks since the machine did.
    pub start: u64,
}

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one it is.
    pub id: ProcessId,
    /// Its parent's number.
    pub parent: u32,
    /// The user that it runs as.
    pub uid: u32,
    /// Its short name.
    pub name: String,
    /// Its arguments; none of a kernel thread and of a process that has ended and is not reaped.
    pub arguments: Vec<String>,
    /// Whether it has ended already, and only its parent has not noticed.
    pub ended: bool,
}

impl Process {
    /// The process that has this number now. `None` if there is none.
    pub fn read(pid: u32) -> io::Result<Option<Self>> {
        match read(pid) {
            Ok(process) => Ok(Some(process)),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The service of systemd in whose control group it is, if that can be told.
    pub fn unit(&self) -> Option<String> {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", self.id.pid)).ok()?;
        // `0::/...`, and on older machines also `1:name=systemd:/...`.
        let mut groups = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            fields.next().filter(|name| name.is_empty() || *name == "name=systemd").and(fields.next())
        });
        groups.find_map(unit_of).map(str::to_owned)
    }

    /// For people: number, user and arguments.
    pub fn shown(&self) -> String {
        let user = uzers::get_user_by_uid(self.uid)
            .map_or_else(|| self.uid.to_string(), |user| user.name().to_string_lossy().into_owned());
        let line = if self.arguments.is_empty() { self.name.clone() } else { without_secrets(&self.arguments) };
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        format!("process {} ({user}): {line}", self.id.pid)
    }
}

/// Arguments as they may be shown and stored: without the password of an address (`redis://user:password@host`), and
/// without the value of what is called a password, token, secret or key.
fn without_secrets(arguments: &[String]) -> String {
    let named = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.starts_with('-') && ["pass", "token", "secret", "key"].iter().any(|word| text.contains(word))
    };
    let mut shown: Vec<String> = Vec::with_capacity(arguments.len());
    let mut hide = false;
    for argument in arguments {
        let whole = std::mem::replace(&mut hide, named(argument) && !argument.contains('='));
        shown.push(match (whole, argument.split_once('=')) {
            (true, _) if !argument.starts_with('-') => "***".to_owned(),
            (_, Some((name, _))) if named(name) => format!("{name}=***"),
            _ => without_password(argument),
        });
    }
    shown.join(" ")
}

fn without_password(argument: &str) -> String {
    let Some((scheme, rest)) = argument.split_once("://") else { return argument.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => argument.to_owned(),
    }
}

/// The unit that a line of `/proc/PID/cgroup` names: below it may be groups of the unit's own. Units of a user's own
/// manager, and what is outside of this machine, are none of ours.
fn unit_of(group: &str) -> Option<&str> {
    if group.starts_with("/..") || group.starts_with("/user.slice/") {
        return None;
    }
    group.split('/').find(|part| part.ends_with(".service"))
}

impl ProcessId {
    /// This process.
    pub fn ours() -> io::Result<Self> {
        read(std::process::id()).map(|process| process.id)
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> io::Result<bool> {
        let found = Process::read(self.pid)?;
        Ok(found.is_some_and(|process| process.id == *self && !process.ended))
    }
}

fn gone(error: &io::Error) -> bool {
    // ESRCH is what an open file of `/proc` says once its process is no more.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read(pid: u32) -> io::Result<Process> {
    let directory = File::open(format!("/proc/{pid}"))?;
    let part = |name: &str, most: u64| -> io::Result<Vec<u8>> {
        let file = File::from(openat(&directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let uid = fstat(&directory)?.st_uid;
    let stat = String::from_utf8_lossy(&part("stat", STAT)?).into_owned();
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood"));
    // The name stands in parentheses and may itself contain some, and spaces.
    let (head, tail) = stat.rsplit_once(')').ok_or_else(invalid)?;
    let name = head.split_once('(').map(|(_, name)| name.to_owned()).ok_or_else(invalid)?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).ok_or_else(invalid);
    let state = fields.first().copied().ok_or_else(invalid)?;
    let parent = u32::try_from(number(1)?).map_err(|_| invalid())?;
    let id = ProcessId { pid, start: number(19)? };
    let mut arguments: Vec<String> = part("cmdline", ARGUMENTS)?
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    // The last argument ends with a zero, too.
    arguments.pop_if(|last| last.is_empty());
    Ok(Process { id, parent, uid, name, arguments, ended: matches!(state, "Z" | "X" | "x") })
}

/// Rules that are ready to be applied.
pub struct Rules(Vec<Prepared>);

struct Prepared {
    name: String,
    users: Vec<u32>,
    anyone: bool,
    arguments: Vec<GlobMatcher>,
}

impl Rules {
    /// Prepares rules. One that would fit every process is refused; a user that this machine does not have has no
    /// processes.
    pub fn new(rules: &[ProcessRule]) -> Result<Self, SourceError> {
        let mut prepared = Vec::new();
        for rule in rules {
            if rule.users.is_empty() && rule.arguments.is_empty() {
                let setting = format!("the process rule {:?}", rule.name);
                let why = "it gives neither users nor arguments, so every process would fit".to_owned();
                return Err(SourceError::Setting { setting, why });
            }
            let mut arguments = Vec::new();
            for pattern in &rule.arguments {
                let invalid = |error: globset::Error| SourceError::Pattern {
                    pattern: pattern.clone(),
                    why: error.kind().to_string(),
                };
                arguments.push(Glob::new(pattern).map_err(invalid)?.compile_matcher());
            }
            let users = rule.users.iter().filter_map(|name| Some(uzers::get_user_by_name(name)?.uid()));
            let anyone = rule.users.is_empty();
            prepared.push(Prepared { name: rule.name.clone(), users: users.collect(), anyone, arguments });
        }
        Ok(Rules(prepared))
    }

    /// The name of the first rule that a process fits.
    pub fn fits(&self, process: &Process) -> Option<&str> {
        let fits = |rule: &&Prepared| {
            let user = rule.anyone || rule.users.contains(&process.uid);
            let argued = |glob: &GlobMatcher| process.arguments.iter().any(|argument| glob.is_match(argument));
            user && rule.arguments.iter().all(argued)
        };
        self.0.iter().find(fits).map(|rule| rule.name.as_str())
    }

    /// The running processes that fit, with the rule that they fit; never ourselves nor any that we descend from, and
    /// no kernel threads.
    pub fn find(&self) -> Result<Vec<(Process, String)>, SourceError> {
        let failed = |source| SourceError::Unreadable { action: "list", path: "/proc".to_owned(), source };
        let spared = lineage().map_err(failed)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == 1 || spared.contains(&pid) {
                continue;
            }
            let Some(process) = Process::read(pid).map_err(failed)? else { continue };
            if process.ended || process.arguments.is_empty() {
                continue;
            }
            if let Some(rule) = self.fits(&process) {
                found.push((process.clone(), rule.to_owned()));
            }
        }
        found.sort_by_key(|(process, _)| process.id);
        Ok(found)
    }
}

/// The terminals of this process and of those that it descends from: their device numbers.
pub(super) fn terminals() -> io::Result<BTreeSet<u64>> {
    let mut terminals = BTreeSet::new();
    for pid in lineage()? {
        let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
            Err(error) if gone(&error) => continue,
            stat => String::from_utf8_lossy(&stat?).into_owned(),
        };
        // Behind the name in parentheses: state, parent, group, session, terminal.
        let fields = stat.rsplit_once(')').map(|(_, tail)| tail).unwrap_or_default();
        let device = fields.split_whitespace().nth(4).and_then(|field| field.parse::<i64>().ok());
        terminals.extend(device.and_then(|device| u64::try_from(device).ok()).filter(|device| *device != 0));
    }
    Ok(terminals)
}

/// This process and those that it descends from.
fn lineage() -> io::Result<BTreeSet<u32>> {
    let mut lineage = BTreeSet::new();
    let mut pid = std::process::id();
    while pid != 0 && lineage.len() < ANCESTORS && lineage.insert(pid) {
        pid = Process::read(pid)?.map_or(0, |process| process.parent);
    }
    Ok(lineage)
}
