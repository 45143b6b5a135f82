//! The page of a run of `cairn platform restore --report FILE`.
//!
//! Invariant: from the moment that there is a plan the file is about this run, however it ends, also by SIGKILL.

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::cli::commands::host;
use crate::cli::exit::Exit;
use crate::cli::report::restored::{End, Restoration, html};
use crate::cli::report::unpublished;
use crate::format::codec::escape_path;
use crate::orchestrate::platform::restore::Outcome;
use crate::orchestrate::platform::restore::plan::RestorePlan;
use crate::repo::chain;

/// A restore that a page is to be about.
pub struct Page<'a> {
    path: Option<&'a Path>,
    plan: &'a RestorePlan,
    began: Timestamp,
}

impl<'a> Page<'a> {
    /// Of a restore that begins now.
    pub fn new(path: Option<&'a Path>, plan: &'a RestorePlan) -> Self {
        Page { path, plan, began: Timestamp::now() }
    }

    /// Says that it is under way.
    pub fn under_way(&self) -> Result<()> {
        self.write(End::Without(unpublished::End::NotYet), None, None)
    }

    /// Says that something is in the way.
    pub fn not_begun(&self) -> Result<()> {
        self.write(End::Without(unpublished::End::NotBegun), None, Some(Exit::Failed))
    }

    /// Tells its end.
    pub fn ended(&self, outcome: &Outcome, exit: Exit) -> Result<()> {
        let end = match exit {
            _ if !outcome.stuck.is_empty() => End::Without(unpublished::End::Stuck),
            Exit::Done => End::Whole,
            Exit::Unread => End::Part,
            Exit::Interrupted => End::Without(unpublished::End::Interrupted),
            _ => End::Without(unpublished::End::Failed),
        };
        self.write(end, Some(outcome), Some(exit))
    }

    fn write(&self, end: End, outcome: Option<&Outcome>, exit: Option<Exit>) -> Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        let host = host();
        let page = html(&Restoration {
            plan: self.plan,
            host: &host,
            began: self.began,
            now: Timestamp::now(),
            end,
            exit: exit.map(|exit| exit as u8),
            components: outcome.map_or(&[], |outcome| outcome.components.as_slice()),
            failures: outcome
                .and_then(|outcome| outcome.error.as_ref())
                .map(|error| chain(error))
                .into_iter()
                .collect(),
            stuck: outcome.map(|outcome| outcome.stuck.iter().map(|error| chain(error)).collect()).unwrap_or_default(),
            steps: outcome.map_or(&[], |outcome| outcome.steps.as_slice()),
        });
        std::fs::write(path, page).with_context(|| format!("cannot write the report to {}", escape_path(path)))
    }
}
