//! `cairn platform drill`.

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::DrillArgs;
use crate::cli::commands::platform::restore::{chosen, judged, show_passed};
use crate::cli::commands::platform::{lock, plan as steps, profile, undo_first, wanted, watch};
use crate::cli::commands::{Context, host, open};
use crate::cli::exit::Exit;
use crate::cli::render::{Output, bytes, time};
use crate::cli::report::drilled::{self, Drill};
use crate::cli::report::duration;
use crate::format::codec::{escape, escape_path};
use crate::orchestrate::platform::choose::{Flaw, words};
use crate::orchestrate::platform::drill::plan::{DrillPlan, Look, plan};
use crate::orchestrate::platform::drill::{OPERATION, Order, Outcome, State, drill};
use crate::orchestrate::platform::journal::Found;
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::resume::{Resumed, Wanted, resume};
use crate::orchestrate::platform::state::StateDir;
use crate::progress::{Monitor, Notice};
use crate::repo::chain;

pub fn run(global: &Global, mut args: DrillArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    let wanted = wanted(&profile, &args.components)?;
    if args.point.at.is_none() && args.point.set.is_none() {
        args.point.set = Some("latest".to_owned());
    }
    // That it is not proven yet, or differed the last time, is what a drill is for.
    args.point.allow.extend([Flaw::Unverified, Flaw::Different]);
    let repository = &open(global, context)?;
    // First: a backup that is waited for makes a newer set.
    let (state, _lock) = lock(&profile, args.wait, context)?;
    let choice = chosen(repository, &profile, &args.point, judged(&wanted, &args.components), context)?;
    if !args.dry_run {
        end_last(&state, &profile, context.monitor)?;
    }
    let snapshots = repository.readable_snapshots()?.found;
    // Drills of platforms with other state directories may begin in the same second.
    let mark = format!("{}-{}", Timestamp::now().strftime("%Y%m%d%H%M%S"), std::process::id());
    let stop = || context.monitor.interrupted();
    let beside = profile.state.directory.parent().unwrap_or(Path::new("/"));
    let parent = args.scratch.as_deref().or(profile.drill.directory.as_deref()).unwrap_or(beside);
    let parent = std::path::absolute(parent)?;
    let look = Look { profile: &profile, snapshots: &snapshots, parent: &parent, mark: &mark, stop: &stop };
    let plan = plan(&look, choice, &wanted)?;
    let host = host();
    let page = Drill { plan: &plan, host: &host, began: Timestamp::now(), outcome: None, exit: None };
    let report = args.report.as_deref().filter(|_| !args.dry_run);
    show(&plan, context.output)?;
    if args.dry_run {
        show_steps(&plan, context.output)?;
    }
    if !plan.obstacles.is_empty() {
        for obstacle in &plan.obstacles {
            context.output.error(obstacle, Exit::Failed as u8);
        }
        let summary = json!({ "set": plan.choice.set, "exit": Exit::Failed as u8, "obstacles": plan.obstacles });
        context.output.summary("nothing was begun: first see to what is in the way", summary)?;
        write(report, &Drill { exit: Some(Exit::Failed), ..page })?;
        return Ok(Exit::Failed);
    }
    if args.dry_run {
        context.output.summary("nothing was made", json!({ "set": plan.choice.set, "dry_run": true }))?;
        return Ok(Exit::Done);
    }
    let live = watch(context)?;
    undo_first(context)?;
    // From here on the file is about this drill. That it cannot be written is told at the end.
    let _ = write(report, &page);
    let order = Order { repository, profile: &profile, plan: &plan, state: &state, monitor: &live };
    let outcome = drill(&order)?;
    live.finish("");
    let exit = exit(&outcome);
    // Last: whatever becomes of the page, everything else was told.
    let told = tell(&plan, &outcome, exit, context);
    let written = write(report, &Drill { outcome: Some(&outcome), exit: Some(exit), ..page });
    told.and(written).map(|()| exit)
}

fn write(path: Option<&Path>, page: &Drill<'_>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, drilled::html(page))
        .with_context(|| format!("the drill has ended; cannot write its report to {}", escape_path(path)))
}

/// Ends what an earlier drill has left that was killed; nobody else needs it. What another run has left is for `resume`.
fn end_last(state: &StateDir, profile: &Profile, monitor: &dyn Monitor) -> Result<()> {
    let Some(found) = Found::read(state)? else { return Ok(()) };
    if found.damaged > 0 || found.header.as_ref().is_none_or(|header| header.operation != OPERATION) {
        return Ok(());
    }
    if let Resumed::Undone(outcome) = resume(state, profile, Wanted::CutOff, monitor)?
        && let Some(stuck) = outcome.stuck.into_iter().next()
    {
        return Err(stuck.into());
    }
    let message = "what it had left was ended and removed".to_owned();
    monitor.notice(Notice { subject: "a drill that did not end".to_owned(), message });
    Ok(())
}

fn show(plan: &DrillPlan, output: Output) -> Result<()> {
    output.object("plan", plan)?;
    let flaws = if plan.choice.flaws.is_empty() { String::new() } else { format!(" ({})", words(&plan.choice.flaws)) };
    let (id, host) = (plan.choice.set.short(), escape(plan.choice.host.as_bytes()));
    output.line(&format!("backup set {id} of {}, from {host}{flaws}", time(plan.choice.time)))?;
    show_passed(&plan.choice.passed, output)?;
    output.line(&format!("servers work in {}, and are ended with it", plan.directory))?;
    for intent in &plan.components {
        let trouble = intent.trouble.as_ref().map(|why| format!("; CANNOT BE PROVEN: {why}")).unwrap_or_default();
        output.line(&format!("{:14} {}{trouble}", intent.component.name(), bytes(intent.bytes)))?;
    }
    for (component, why) in &plan.left_out {
        output.line(&format!("{} is left out: {why}", component.name()))?;
    }
    let (needed, free) = (bytes(plan.room.needed_bytes), bytes(plan.room.available_bytes));
    output.line(&format!("room: {needed} needed at {}, {free} are free", plan.room.path))?;
    output.line(&format!("it may take about {} s", plan.estimate_seconds))?;
    for obstacle in &plan.obstacles {
        output.line(&format!("IN THE WAY: {obstacle}"))?;
    }
    Ok(())
}

fn show_steps(plan: &DrillPlan, output: Output) -> Result<()> {
    output.line("\nSTEPS (none changes the platform)")?;
    for (at, step) in plan.run.steps.iter().enumerate() {
        steps::show_step(at + 1, step, output)?;
    }
    Ok(())
}

/// 0 only if all that was asked for is equal, and its proofs are durable.
fn exit(outcome: &Outcome) -> Exit {
    let has = |state| outcome.components.iter().any(|one| one.state == state);
    match &outcome.error {
        Some(error) if error.is_interrupted() && outcome.stuck.is_empty() => Exit::Interrupted,
        Some(_) => Exit::Failed,
        None if !outcome.stuck.is_empty() || has(State::Different) || has(State::Failed) => Exit::Failed,
        None if !has(State::Proven) => Exit::Failed,
        None if outcome.components.iter().all(|one| one.state == State::Proven) => Exit::Done,
        None => Exit::Unread,
    }
}

fn tell(plan: &DrillPlan, outcome: &Outcome, exit: Exit, context: &Context<'_>) -> Result<()> {
    let output = context.output;
    for error in outcome.error.iter().chain(&outcome.stuck) {
        output.error(&chain(error), exit as u8);
    }
    if !outcome.stuck.is_empty() {
        let advice = "something is left: see what is named above, then run `cairn platform resume`";
        output.error(advice, exit as u8);
    }
    for one in &outcome.components {
        let state = drilled::state(one.state);
        let took = format!(
            "restored in {}, compared in {}",
            duration(one.restore_milliseconds),
            duration(one.compare_milliseconds)
        );
        let took = if one.state == State::Proven { format!(" ({took})") } else { String::new() };
        output.line(&format!("{:14} {state}: {}{took}", one.component.name(), one.detail))?;
        for line in one.differences.iter().chain(&one.notes) {
            output.line(&format!("               {line}"))?;
        }
        if matches!(one.state, State::Different | State::Failed) {
            let why = if one.differences.is_empty() { one.detail.clone() } else { one.differences.join("; ") };
            output.error(&format!("{}: {why}", one.component.name()), exit as u8);
        }
    }
    let total: u64 = outcome.components.iter().map(|one| one.restore_milliseconds + one.compare_milliseconds).sum();
    let id = plan.choice.set.short();
    let sentence = match exit {
        Exit::Done => format!("backup set {id}: all that was asked for is proven, in {}", duration(total)),
        Exit::Unread => format!("backup set {id} is proven in part: see above"),
        _ => format!("backup set {id} is not proven: see above"),
    };
    let summary = json!({
        "set": plan.choice.set, "exit": exit as u8, "components": outcome.components, "proofs": outcome.proofs,
        "findings": outcome.findings,
        "milliseconds": total, "steps": outcome.steps,
    });
    output.summary(&sentence, summary)
}
