//! `cairn platform backup`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::BackupArgs;
use crate::cli::commands::platform::page::Page;
use crate::cli::commands::platform::preflight::allowed;
use crate::cli::commands::platform::{asked, lock, plan as show, undo_first, watch};
use crate::cli::commands::{Context, open};
use crate::cli::exit::{self, Exit, Usage};
use crate::cli::report;
use crate::format::set::{BackupSet, Status};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::backup::{Options, Order, Outcome, backup, failures};
use crate::orchestrate::platform::discover::discover;
use crate::orchestrate::platform::files::Files;
use crate::orchestrate::platform::metrics::{self, RunFigures};
use crate::orchestrate::platform::plan::{Plan, Request, plan};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::progress::Notice;
use crate::repo::Repository;

pub fn run(global: &Global, args: BackupArgs, context: &Context<'_>) -> Result<Exit> {
    if args.dry_run {
        let (profile, request) = asked(&args.profile, args.selection)?;
        allowed(&args.allow)?;
        return show::show_all(&planned(&profile, &request)?, context.output);
    }
    let mut page = Page::new(&args);
    let ended = begin(global, &args, &mut page, context);
    let html = match &ended {
        Ok(ended) => page.of(&ended.outcome, ended.exit),
        Err(error) => page.not_begun(error),
    };
    // Last: whatever becomes of the page, everything else was told.
    let written = page.write(&html);
    match ended {
        Ok(Ended { outcome: Outcome { set: Some(_), .. }, exit, told }) => told.and(written).map(|()| exit),
        without_set => {
            // That there is no page either is not what ended the run.
            if let Err(error) = written {
                let message = exit::message(&error);
                context.monitor.notice(Notice { subject: "report".to_owned(), message });
            }
            without_set.and_then(|ended| ended.told.map(|()| ended.exit))
        }
    }
}

/// What a run came to.
struct Ended {
    outcome: Outcome,
    exit: Exit,
    /// Whoever reads standard output may be gone; the run has ended all the same.
    told: Result<()>,
}

fn begin(global: &Global, args: &BackupArgs, page: &mut Page<'_>, context: &Context<'_>) -> Result<Ended> {
    let (profile, request) = asked(&args.profile, args.selection.clone())?;
    page.name(&profile.name);
    allowed(&args.allow)?;
    let without_redis = request.skip.contains(&Component::Redis)
        || !(request.only.is_empty() || request.only.contains(&Component::Redis));
    if args.purge_queues && without_redis {
        return Err(Usage("--purge-queues saves queues in the set, and redis is left out of it".to_owned()).into());
    }
    let ended = back_up(global, args, &profile, &request, page, context);
    if let (Err(error), Some(path)) = (&ended, &profile.metrics.textfile) {
        // A run that could not begin has ended, too, and is what an alert is for.
        told(metrics::write_failure(path, &profile.name, exit::of(error) as u8, Timestamp::now()), path, context);
    }
    ended
}

fn planned(profile: &Profile, request: &Request) -> Result<Plan> {
    let found = discover(profile, &Files::beneath("/".as_ref()));
    plan(profile, found, request).map_err(|error| Usage(error.to_string()).into())
}

fn back_up(
    global: &Global,
    args: &BackupArgs,
    profile: &Profile,
    request: &Request,
    page: &Page<'_>,
    context: &Context<'_>,
) -> Result<Ended> {
    let repository = &open(global, context)?;
    let (state, _lock) = lock(profile, args.wait, context)?;
    page.under_way();
    // Only now: another run may have been waited for, and files may have come and gone.
    let plan = planned(profile, request)?;
    let mut allow = args.allow.clone();
    // What the run is told to put right itself need not be so before.
    if args.configure_path_repo {
        allow.extend(["elasticsearch-path-repo", "elasticsearch-directory"].map(str::to_owned));
    }
    if args.purge_queues {
        allow.push("queues".to_owned());
    }
    let options = Options {
        allow,
        drain_timeout: args.drain_timeout.map(Duration::from_secs),
        purge_queues: args.purge_queues,
        configure_path_repo: args.configure_path_repo,
    };
    let live = watch(context)?;
    undo_first(context)?;
    let order = Order { repository, profile, plan: &plan, options: &options, state: &state, monitor: &live };
    let outcome = backup(&order)?;
    let exit = exit(&outcome);
    if let Some((id, set)) = &outcome.set {
        live.published(id, set);
    }
    let ended = outcome.set.as_ref().map(|(id, set)| report::sentence(id, set));
    live.finish(ended.as_deref().unwrap_or("no backup set was published"));
    write_metrics(profile, repository, &outcome, exit, context);
    let told = tell(&outcome, exit, context);
    Ok(Ended { outcome, exit, told })
}

/// 0 only for a set that is complete on a platform that is up again.
fn exit(outcome: &Outcome) -> Exit {
    match (&outcome.error, &outcome.set) {
        (Some(error), _) if error.is_interrupted() && outcome.stuck.is_empty() => Exit::Interrupted,
        (Some(_), _) | (None, None) => Exit::Failed,
        _ if !outcome.stuck.is_empty() => Exit::Failed,
        (None, Some((_, set))) if set.status != Status::Complete => Exit::Unread,
        (None, Some(_)) => Exit::Done,
    }
}

fn tell(outcome: &Outcome, exit: Exit, context: &Context<'_>) -> Result<()> {
    for failure in failures(outcome) {
        context.output.error(&failure, exit as u8);
    }
    if !outcome.stuck.is_empty() {
        let advice = "something is not as it was: see what is named above, then run `cairn platform resume`";
        context.output.error(advice, exit as u8);
    }
    let Some((id, set)) = &outcome.set else {
        let sentence = "no backup set was published";
        return context.output.summary(sentence, json!({ "set": null, "exit": exit as u8, "steps": outcome.steps }));
    };
    for line in report::terminal::text(id, set, None, report::terminal::columns()).lines() {
        context.output.line(line)?;
    }
    context.output.summary(&report::sentence(id, set), json!({ "set": id, "exit": exit as u8, "record": set }))
}

/// Figures for a monitoring system. That they cannot be written is told, and does not make the backup fail.
fn write_metrics(profile: &Profile, repository: &Repository, outcome: &Outcome, exit: Exit, context: &Context<'_>) {
    let Some(path) = &profile.metrics.textfile else { return };
    let sets: Vec<BackupSet> = match repository.readable_sets() {
        Ok((sets, _)) => sets.into_iter().map(|info| info.set).collect(),
        Err(_) => outcome.set.iter().map(|(_, set)| set.clone()).collect(),
    };
    let ours = |set: &&BackupSet| set.profile == profile.name && set.host == repository.host();
    let complete = |set: &&BackupSet| ours(set) && set.status == Status::Complete;
    let figures = RunFigures {
        set: outcome.set.as_ref().map(|(_, set)| set),
        last_complete: sets.iter().rev().find(complete),
        profile: &profile.name,
        exit_code: exit as u8,
        ended: Timestamp::now(),
    };
    told(metrics::write(path, &figures), path, context);
}

fn told(written: Result<(), OrchestrateError>, path: &Path, context: &Context<'_>) {
    if let Err(error) = written {
        let subject = path.display().to_string();
        context.monitor.notice(Notice { subject, message: crate::repo::chain(&error) });
    }
}
