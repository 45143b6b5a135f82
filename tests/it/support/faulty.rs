//! A backend that fails as told. It wraps any other.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn::backend::{Backend, BackendError, ByteRange, Stat, Unfinished, Whole};
use cairn::format::{Kind, ObjectId};

/// A call of the backend trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `read`
    Read,
    /// `write_new`
    Write,
    /// `list`
    List,
    /// `stat`
    Stat,
    /// `remove`
    Remove,
    /// `sync`
    Sync,
    /// `remove_debris`
    RemoveDebris,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens, and the system reports an input/output error.
    Error,
    /// Nothing happens, and the storage says that it is full.
    Full,
    /// Half of the bytes are written to a place that is not listed, then there is an error. Writes only.
    ShortWrite,
    /// It happens, but an error is reported.
    LostAcknowledgement,
    /// The process dies before the call: this call and every later one fails.
    CrashBefore,
    /// The process dies after the call: it happens, but it and every later call fails.
    CrashAfter,
    /// One bit of what is read is wrong: this byte's lowest, counted from the start modulo the length. Reads only.
    FlipBit(usize),
    /// At most so many bytes are read. Reads only.
    Truncate(usize),
    /// The object is not there any more. Reads only.
    Vanished,
    /// One object, the last, is missing. Lists only.
    Stale,
}

/// When a fault happens: at calls of one operation, of one kind or of any.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    operation: Option<Operation>,
    kind: Option<Kind>,
    skip: u64,
    times: u64,
    fault: Fault,
}

impl Rule {
    /// At the next call of this operation, once.
    pub fn on(operation: Operation, fault: Fault) -> Rule {
        Rule { operation: Some(operation), kind: None, skip: 0, times: 1, fault }
    }

    /// At the next call that changes something, a write or a removal, once.
    pub fn on_change(fault: Fault) -> Rule {
        Rule { operation: None, kind: None, skip: 0, times: 1, fault }
    }

    /// Only at calls for this kind.
    pub fn kind(self, kind: Kind) -> Rule {
        Rule { kind: Some(kind), ..self }
    }

    /// After so many of these calls have gone well.
    pub fn after(self, calls: u64) -> Rule {
        Rule { skip: calls, ..self }
    }

    /// At every such call from then on.
    pub fn always(self) -> Rule {
        Rule { times: u64::MAX, ..self }
    }

    fn fits(&self, operation: Operation, kind: Option<Kind>) -> bool {
        let operation_fits = match self.operation {
            Some(wanted) => wanted == operation,
            None => matches!(operation, Operation::Write | Operation::Remove),
        };
        operation_fits && (self.kind.is_none() || self.kind == kind)
    }
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    calls: BTreeMap<Operation, u64>,
    debris: Vec<u64>,
    crashed: bool,
    struck: Vec<Option<Kind>>,
}

/// Wraps a backend, and fails by its rules. Without rules it does what the other one does.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    script: Mutex<Script>,
}

impl Faulty {
    /// Without faults so far.
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Faulty> {
        Arc::new(Faulty { inner, script: Mutex::default() })
    }

    /// Adds a rule. Of several that fit a call, the first added is used.
    pub fn add(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// Removes all rules, and revives a crashed backend.
    pub fn heal(&self) {
        let mut script = self.script();
        script.rules.clear();
        script.crashed = false;
    }

    /// How many calls of this operation there were, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script().calls.get(&operation).copied().unwrap_or(0)
    }

    /// How many calls there were that change something, failed ones included.
    pub fn changes(&self) -> u64 {
        self.calls(Operation::Write) + self.calls(Operation::Remove)
    }

    /// Whether a crash has happened.
    pub fn has_crashed(&self) -> bool {
        self.script().crashed
    }

    /// The kinds of the calls that a rule made fail.
    pub fn struck(&self) -> Vec<Option<Kind>> {
        self.script().struck.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// The fault for this call.
    fn fault(&self, operation: Operation, kind: Option<Kind>) -> Option<Fault> {
        let mut script = self.script();
        *script.calls.entry(operation).or_default() += 1;
        if script.crashed {
            return Some(Fault::CrashBefore);
        }
        let mut found = None;
        for rule in script.rules.iter_mut().filter(|rule| rule.fits(operation, kind)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if found.is_none() && rule.times > 0 {
                rule.times -= 1;
                found = Some(rule.fault);
            }
        }
        if found.is_some() {
            script.struck.push(kind);
        }
        script.crashed = matches!(found, Some(Fault::CrashBefore | Fault::CrashAfter));
        found
    }

    fn error<T>(&self, action: &'static str, what: String) -> Result<T, BackendError> {
        let source = io::Error::other("injected fault");
        Err(BackendError::Io { action, what, location: self.location(), source })
    }

    /// Runs a call that has no bytes to spoil.
    fn run<T>(
        &self,
        fault: Option<Fault>,
        action: &'static str,
        what: String,
        call: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        match fault {
            None => call(),
            Some(Fault::Error | Fault::CrashBefore) => self.error(action, what),
            Some(Fault::LostAcknowledgement | Fault::CrashAfter) => {
                call()?;
                self.error(action, what)
            }
            Some(Fault::Full) => Err(BackendError::Full {
                what,
                location: self.location(),
                source: io::Error::from(io::ErrorKind::StorageFull),
            }),
            Some(other) => panic!("{other:?} makes no sense for `{action} {what}`"),
        }
    }
}

impl Backend for Faulty {
    fn read(&self, kind: Kind, id: &ObjectId, range: ByteRange) -> Result<Vec<u8>, BackendError> {
        let fault = self.fault(Operation::Read, Some(kind));
        match fault {
            Some(Fault::FlipBit(at)) => {
                let mut bytes = self.inner.read(kind, id, range)?;
                let len = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at % len) {
                    *byte ^= 1;
                }
                Ok(bytes)
            }
            Some(Fault::Truncate(len)) => {
                let mut bytes = self.inner.read(kind, id, range)?;
                bytes.truncate(len);
                Ok(bytes)
            }
            Some(Fault::Vanished) => Err(BackendError::NotFound { kind, id: *id, location: self.location() }),
            fault => self.run(fault, "read", format!("{kind} {id}"), || self.inner.read(kind, id, range)),
        }
    }

    fn write_new(&self, kind: Kind, id: &ObjectId, bytes: &[u8]) -> Result<(), BackendError> {
        let what = format!("{kind} {id}");
        match self.fault(Operation::Write, Some(kind)) {
            Some(Fault::ShortWrite) => {
                self.script().debris.push(bytes.len() as u64 / 2);
                self.error("write", what)
            }
            fault => self.run(fault, "write", what, || self.inner.write_new(kind, id, bytes)),
        }
    }

    fn begin_new(&self, kind: Kind, id: &ObjectId, head: usize) -> Result<Box<dyn Unfinished + '_>, BackendError> {
        Ok(Whole::begin(self, kind, id, head))
    }

    fn list(&self, kind: Kind, visit: &mut dyn FnMut(ObjectId, u64)) -> Result<(), BackendError> {
        match self.fault(Operation::List, Some(kind)) {
            Some(Fault::Stale) => {
                let mut all = Vec::new();
                self.inner.list(kind, &mut |id, len| all.push((id, len)))?;
                all.pop();
                all.into_iter().for_each(|(id, len)| visit(id, len));
                Ok(())
            }
            fault => self.run(fault, "list", format!("every {kind}"), || self.inner.list(kind, visit)),
        }
    }

    fn stat(&self, kind: Kind, id: &ObjectId) -> Result<Stat, BackendError> {
        let fault = self.fault(Operation::Stat, Some(kind));
        self.run(fault, "look up", format!("{kind} {id}"), || self.inner.stat(kind, id))
    }

    fn remove(&self, kind: Kind, id: &ObjectId) -> Result<(), BackendError> {
        let fault = self.fault(Operation::Remove, Some(kind));
        self.run(fault, "remove", format!("{kind} {id}"), || self.inner.remove(kind, id))
    }

    fn sync(&self) -> Result<(), BackendError> {
        let fault = self.fault(Operation::Sync, None);
        self.run(fault, "flush", "all".to_owned(), || self.inner.sync())
    }

    fn remove_debris(&self, age_seconds: u64, dry_run: bool) -> Result<(u64, u64), BackendError> {
        let fault = self.fault(Operation::RemoveDebris, None);
        let (pieces, bytes) =
            self.run(fault, "remove debris from", "all".to_owned(), || self.inner.remove_debris(age_seconds, dry_run))?;
        let mut script = self.script();
        let own = (script.debris.len() as u64, script.debris.iter().sum::<u64>());
        if !dry_run {
            script.debris.clear();
        }
        Ok((pieces + own.0, bytes + own.1))
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
