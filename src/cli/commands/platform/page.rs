//! The page of a run of `cairn platform backup --report FILE`.
//!
//! Invariant: from the moment that a run has the lock of this machine the file is about this run, however it ends, also
//! by SIGKILL: nobody takes the page of an earlier set for that of the last run.

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::cli::args::platform::BackupArgs;
use crate::cli::commands::host;
use crate::cli::exit::{self, Exit};
use crate::cli::report;
use crate::cli::report::unpublished::{End, Unpublished};
use crate::format::codec::escape_path;
use crate::format::set::StepRecord;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::backup::{Outcome, PREFLIGHT};
use crate::repo::chain;

/// A run that a page is to be about.
pub struct Page<'a> {
    path: Option<&'a Path>,
    profile: String,
    began: Timestamp,
}

impl<'a> Page<'a> {
    /// Of a run that begins now.
    pub fn new(args: &'a BackupArgs) -> Self {
        let profile = args.profile.profile.to_string_lossy().into_owned();
        Page { path: args.report.as_deref(), profile, began: Timestamp::now() }
    }

    /// What the platform calls itself, once its profile is read.
    pub fn name(&mut self, profile: &str) {
        self.profile = profile.to_owned();
    }

    /// Says that the run is under way. That this cannot be written is told at its end.
    pub fn under_way(&self) {
        let _ = self.write(&self.without_set(End::NotYet, None, Vec::new(), Vec::new(), &[]));
    }

    /// Of a run that could not begin, or was stopped before.
    pub fn not_begun(&self, error: &anyhow::Error) -> String {
        let exit = exit::of(error);
        let end = if exit == Exit::Interrupted { End::Interrupted } else { End::NotBegun };
        self.without_set(end, Some(exit), vec![exit::message(error)], Vec::new(), &[])
    }

    /// Of a run that has ended.
    pub fn of(&self, outcome: &Outcome, exit: Exit) -> String {
        if let Some((id, set)) = &outcome.set {
            return report::html(id, set, None);
        }
        let refused =
            |error: &OrchestrateError| matches!(error, OrchestrateError::Step { step, .. } if step == PREFLIGHT);
        let end = match exit {
            _ if !outcome.stuck.is_empty() => End::Stuck,
            Exit::Interrupted => End::Interrupted,
            _ if outcome.error.as_ref().is_some_and(refused) => End::NotBegun,
            _ => End::Failed,
        };
        let words = |error: &OrchestrateError| chain(error);
        let (failures, stuck) = (outcome.error.iter().map(words), outcome.stuck.iter().map(words));
        self.without_set(end, Some(exit), failures.collect(), stuck.collect(), &outcome.steps)
    }

    fn without_set(
        &self,
        end: End,
        exit: Option<Exit>,
        failures: Vec<String>,
        stuck: Vec<String>,
        steps: &[StepRecord],
    ) -> String {
        report::unpublished::html(&Unpublished {
            profile: &self.profile,
            host: &host(),
            began: self.began,
            now: Timestamp::now(),
            end,
            exit: exit.map(|exit| exit as u8),
            failures,
            stuck,
            steps,
        })
    }

    /// Writes the page where it is wanted, if anywhere.
    pub fn write(&self, html: &str) -> Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        std::fs::write(path, html)
            .with_context(|| format!("the run has ended; cannot write its report to {}", escape_path(path)))
    }
}
