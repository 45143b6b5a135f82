//! What every component's drill is given, and what it comes to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::format::codec::escape_path;
use crate::format::set::Part;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::drill::Order;
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::profile::ScratchServer;
use crate::orchestrate::platform::restore::plan::snapshot;
use crate::orchestrate::platform::restore::told::Told;
use crate::orchestrate::platform::restore::trees;
use crate::orchestrate::restore::Report;
use crate::repo::{SnapshotInfo, chain};
use crate::source::SourceError;
use crate::source::command::{Account, Background, CommandSpec, find_program};
use crate::source::files::swap::available_bytes;
use crate::source::scratch::Scratch;

/// With less room than this nothing goes on: a segment of PostgreSQL's log, which it takes away again when it cannot
/// write it, has 16 MiB.
const FULL: u64 = 32 << 20;
/// So many differences are told one by one.
const MAX_DIFFERENCES: usize = 100;

/// What every component's drill is given.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// The run.
    pub executor: Executor<'a>,
    /// What is asked for.
    pub order: Order<'a>,
    /// Who hears of it.
    pub notes: &'a Notes<'a>,
}

/// What was found of a component.
#[derive(Debug, Default)]
pub struct Finding {
    /// What was compared; `None` if nothing was recorded.
    pub compared: Option<String>,
    /// What differs.
    pub differences: Vec<String>,
    /// The versions of the servers.
    pub versions: BTreeMap<String, String>,
    /// How long comparing took.
    pub compare_milliseconds: u64,
}

impl Finding {
    /// Compared, and equal but for these.
    pub fn of(compared: String, differences: Vec<String>) -> Self {
        Finding { compared: Some(compared), differences, ..Finding::default() }
    }

    /// The same, with the version of a server.
    pub fn with_version(mut self, server: &str, version: String) -> Self {
        self.versions.insert(server.to_owned(), version);
        self
    }
}

impl<'a> Bench<'a> {
    /// Where servers work.
    pub fn scratch(&self) -> &'a Scratch {
        &self.order.plan.scratch
    }

    /// How long a server may take to be ready.
    pub fn start_limit(&self) -> Duration {
        self.executor.profile.drill.start_timeout_seconds.duration()
    }

    /// A snapshot of the set.
    pub fn snapshot(&self, part: &Part) -> Result<&'a SnapshotInfo, OrchestrateError> {
        snapshot(&self.order.plan.snapshots, &part.snapshot)
    }

    /// A stream of the set.
    pub fn stream(&self, step: &'static str, part: &Part) -> Result<Told<'a>, OrchestrateError> {
        let stream = self.order.repository.stream(&self.snapshot(part)?.snapshot.content)?;
        Ok(Told::new(stream, step, part.bytes, self.notes))
    }

    /// Writes a root of a tree of the set, and reads it back.
    pub fn write(&self, step: &str, part: &Part, root: &Path, target: &Path) -> Result<Report, OrchestrateError> {
        trees::write_tree(self.order.repository, self.snapshot(part)?, step, root, target, self.notes)
    }

    /// The roots of a tree of the set.
    pub fn roots(&self, part: &Part) -> Result<Vec<PathBuf>, OrchestrateError> {
        Ok(self.snapshot(part)?.snapshot.paths.iter().map(trees::path).collect())
    }

    /// Says that there is no room left for servers; `None` if there is.
    pub fn full(&self) -> Option<String> {
        let path = self.scratch().path();
        let free = available_bytes(path).ok().filter(|free| *free < FULL)?;
        Some(format!("{} has {free} bytes free", escape_path(path)))
    }

    /// Starts a server on what was restored. Of one that ends by itself it is not known whether it cannot work here or
    /// refuses what it got. So it is started once more, on nothing: if it works then, it is what it got.
    pub fn start_on<T>(
        &self,
        start: impl FnOnce() -> Result<T, OrchestrateError>,
        on_nothing: impl FnOnce() -> Result<Background, OrchestrateError>,
    ) -> Result<T, OrchestrateError> {
        let error = match start() {
            Err(error @ OrchestrateError::Source(SourceError::Ended { .. })) if self.full().is_none() => error,
            ended => return ended,
        };
        match on_nothing() {
            Ok(server) => {
                drop(server);
                Err(OrchestrateError::RefusedByServer(Box::new(error)))
            }
            Err(failed) if failed.is_interrupted() => Err(failed),
            Err(_) => Err(error),
        }
    }

    /// Compares, in a step that fails if something differs.
    pub fn compare(
        &self,
        step: &str,
        look: impl FnOnce() -> Result<Finding, OrchestrateError>,
    ) -> Result<Finding, OrchestrateError> {
        let (began, mut kept) = (Instant::now(), None);
        let ended = self.executor.step(step, None, || {
            let mut finding = look()?;
            let more = finding.differences.len().saturating_sub(MAX_DIFFERENCES);
            finding.differences.truncate(MAX_DIFFERENCES);
            if more > 0 {
                finding.differences.push(format!("and {more} more"));
            }
            let (differs, told) = (!finding.differences.is_empty(), finding.differences.join("; "));
            let seen = finding.compared.clone().unwrap_or_else(|| "nothing was recorded".to_owned());
            kept = Some(finding);
            if differs { Err(OrchestrateError::Unfit(told)) } else { Ok((seen, ())) }
        });
        match (ended, kept) {
            (Err(error), _) if error.is_interrupted() => Err(error),
            (_, Some(finding)) => Ok(Finding { compare_milliseconds: began.elapsed().as_millis() as u64, ..finding }),
            (Err(error), None) => Err(error),
            (Ok(()), None) => Err(OrchestrateError::Unfit("nothing was looked at".to_owned())),
        }
    }

    /// Starts a server of the profile in its directory. `places` is what stands for what in its command.
    pub fn start(
        &self,
        server: &ScratchServer,
        account: &Account,
        directory: &Path,
        places: &[(&'static str, &str)],
    ) -> Result<Background, OrchestrateError> {
        let (argv, environment) = server.filled(places);
        let mut spec = CommandSpec::new(argv.words().iter().cloned()).user(account);
        for (name, value) in environment {
            spec = spec.env(name, value);
        }
        Ok(Background::start(&self.scratch().marked(spec, directory), &directory.join("log"))?)
    }
}

/// Why a server cannot be started; `None` if it most probably can. `usual` runs it, if the profile names nobody.
pub fn cannot_start(server: &ScratchServer, usual: Option<&str>, key: &str) -> Option<String> {
    let words = server.command.words();
    let Some(program) = words.first() else {
        return Some(format!("the profile does not say how a server is started for it: set drill.{key}.command"));
    };
    match find_program(program) {
        Some(_) => account(server, usual, key).err().map(|error| chain(&error)),
        None => Some(format!("there is no {program}, which drill.{key}.command names")),
    }
}

/// The account that runs a server.
pub fn account(server: &ScratchServer, usual: Option<&str>, key: &str) -> Result<Account, OrchestrateError> {
    let name = server.user.as_ref().map(|user| user.as_str()).or(usual).ok_or_else(|| {
        OrchestrateError::Unfit(format!("the profile does not say who runs it: set drill.{key}.user"))
    })?;
    Ok(Account::named(name)?)
}

/// A path as text, for a command or a configuration.
pub fn text(path: &Path) -> Result<&str, SourceError> {
    path.to_str().ok_or_else(|| SourceError::Setting {
        setting: path.display().to_string(),
        why: "the path is not UTF-8: name another place with --scratch".to_owned(),
    })
}
