//! `cairn platform preflight`.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::PreflightArgs;
use crate::cli::commands::platform::asked;
use crate::cli::commands::{Context, open};
use crate::cli::exit::{self, Exit, Usage};
use crate::cli::render::{self, Output};
use crate::cli::settings;
use crate::format::codec::{escape, escape_path};
use crate::orchestrate::platform::plan::select;
use crate::orchestrate::platform::preflight::{self, Check, Look, Outcome, preflight};
use crate::source::process::machine::free_space;

pub fn run(global: &Global, args: PreflightArgs, context: &Context<'_>) -> Result<Exit> {
    let (profile, request) = asked(&args.profile, args.selection)?;
    allowed(&args.allow)?;
    let (components, _) = select(&profile, &request).map_err(|error| Usage(error.to_string()))?;
    // First, since a password may have to be typed.
    let repository = repository(global, context)?;
    let look = Look { profile: &profile, components: &components, mode: request.mode, monitor: context.monitor };
    let mut found = preflight(&look)?;
    found.checks.push(repository);
    let refusals: Vec<&str> = found.refusals(&args.allow).into_iter().map(|check| check.id.as_str()).collect();
    for check in &found.checks {
        let allowed = check.outcome != Outcome::Pass && !refusals.contains(&check.id.as_str());
        show(check, allowed, context.output)?;
    }
    let count = |outcome| found.checks.iter().filter(|check| check.outcome == outcome).count();
    let (passed, failed, unknown) = (count(Outcome::Pass), count(Outcome::Fail), count(Outcome::Unknown));
    let sentence = format!("{passed} passed, {failed} failed, {unknown} unknown; nothing was changed");
    let counts = json!({ "passed": passed, "failed": failed, "unknown": unknown, "refused_by": refusals });
    context.output.summary(&sentence, counts)?;
    if !refusals.is_empty() {
        bail!("a backup would not begin now: see {}; --allow CHECK goes on in spite of one", refusals.join(", "));
    }
    Ok(Exit::Done)
}

/// Refuses what is no check: a mistyped word would allow nothing, and be found out at night.
pub fn allowed(allow: &[String]) -> Result<()> {
    match allow.iter().find(|id| !preflight::is_check(id)) {
        None => Ok(()),
        Some(id) => {
            let known: Vec<&str> = preflight::ids().collect();
            Err(Usage(format!("--allow {id:?}: there is no such check; there are {}", known.join(", "))).into())
        }
    }
}

/// Whether the repository can be opened, and has a place for more. An error only if a stop was asked for.
pub fn repository(global: &Global, context: &Context<'_>) -> Result<Check> {
    let looked = || -> Result<String> {
        open(global, context)?;
        let path = settings::repository(global)?;
        let shown = escape_path(path);
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK)
            .map_err(|error| anyhow::anyhow!("{shown} cannot be written to: {error}"))?;
        let free = free_space(path)?.bytes;
        Ok(format!("{shown} opens; {} free", render::bytes(free)))
    };
    match looked() {
        Err(error) if exit::of(&error) == Exit::Interrupted => Err(error),
        looked => Ok(preflight::repository(looked.map_err(|error| exit::message(&error)))),
    }
}

/// A check, and whether the operator allows it to have come out as it has.
#[derive(Serialize)]
struct Shown<'c> {
    #[serde(flatten)]
    check: &'c Check,
    allowed: bool,
}

fn show(check: &Check, allowed: bool, output: Output) -> Result<()> {
    output.object("check", Shown { check, allowed })?;
    let word = match check.outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::Unknown => "unknown",
    };
    let (word, before) = if allowed { ("allowed", format!("{word}: ")) } else { (word, String::new()) };
    output.line(&format!("{word:8} {:25} {before}{}", check.id, escape(check.seen.as_bytes())))?;
    if !check.advice.is_empty() {
        output.line(&format!("{:35}-> {}", "", escape(check.advice.as_bytes())))?;
    }
    Ok(())
}
