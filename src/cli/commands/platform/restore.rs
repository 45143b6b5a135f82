//! `cairn platform restore`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::args::platform::{ComponentsArgs, PointArgs, RestoreArgs};
use crate::cli::commands::platform::restore_page::Page;
use crate::cli::commands::platform::{diff, lock, plan as steps, profile, undo_first, wanted, watch};
use crate::cli::commands::{Context, open};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::{Output, bytes, time};
use crate::cli::report::restored::state;
use crate::cli::settings;
use crate::format::codec::escape;
use crate::orchestrate::platform::aim::Aim;
use crate::orchestrate::platform::aim::archived::choose_and_aim;
use crate::orchestrate::platform::choose::{Choice, Flaw, Known, Passed, Point, Wish, choose, words};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::restore::plan::{Look, RestorePlan, plan};
use crate::orchestrate::platform::restore::recovery::Goal;
use crate::orchestrate::platform::restore::{Existing, Options, Order, Outcome, State, restore, spares_the_platform};
use crate::orchestrate::platform::state::StateDir;
use crate::orchestrate::select::parse_time;
use crate::progress::Notice;
use crate::repo::sets::SetInfo;
use crate::repo::{Repository, chain};
use crate::source::files::absolute_root;

pub fn run(global: &Global, args: RestoreArgs, context: &Context<'_>) -> Result<Exit> {
    let mut profile = profile::load(&args.profile.profile)?;
    let wanted = wanted(&profile, &args.components)?;
    let mut options = options(&args, &wanted)?;
    if options.elsewhere {
        // Neither does it wait for a run on the platform, nor does one wait for it.
        profile.state.directory = StateDir::beneath(&profile.state.directory);
    }
    let repository = &open(global, context)?;
    // First: a backup that is waited for makes a newer set.
    let locked = if args.diff { None } else { Some(lock(&profile, args.wait, context)?) };
    let choice = match goes_to_time(&profile, &args, &wanted)? {
        None => chosen(repository, &profile, &args.point, judged(&wanted, &args.components), context)?,
        Some(time) => {
            let fetch = fetch(global, &profile)?;
            let (choice, aim) = aimed(repository, &profile, &args, (time, &wanted), context)?;
            options.goal = Some(Goal { aim, fetch });
            choice
        }
    };
    let Some((state, _lock)) = locked else {
        return diff::show(repository, &profile, &options, &choice, context);
    };
    let snapshots = repository.readable_snapshots()?.found;
    // Two that go elsewhere may well be of one second.
    let mark = Timestamp::now().strftime("%Y%m%d%H%M%S%3f").to_string();
    let stop = || context.monitor.interrupted();
    let look =
        Look { repository, profile: &profile, options: &options, snapshots: &snapshots, mark: &mark, stop: &stop };
    let plan = plan(&look, choice, &wanted)?;
    show(&plan, context.output)?;
    if args.dry_run {
        show_steps(&plan, context.output)?;
    }
    let page = Page::new(args.report.as_deref(), &plan);
    if !plan.obstacles.is_empty() {
        page.not_begun()?;
        for obstacle in &plan.obstacles {
            context.output.error(obstacle, Exit::Failed as u8);
        }
        let summary = json!({ "set": plan.choice.set, "exit": Exit::Failed as u8, "obstacles": plan.obstacles });
        context.output.summary("nothing was changed: first see to what is in the way", summary)?;
        return Ok(Exit::Failed);
    }
    if args.dry_run {
        context.output.summary("nothing was changed", json!({ "set": plan.choice.set, "dry_run": true }))?;
        return Ok(Exit::Done);
    }
    if !args.yes {
        confirmed(context.output)?;
    }
    // One that cannot be written is known before anything is changed.
    page.under_way()?;
    let live = watch(context)?;
    undo_first(context)?;
    let order = Order { repository, profile: &profile, plan: &plan, options: &options, state: &state, monitor: &live };
    let outcome = restore(&order)?;
    live.finish("");
    let written = page.ended(&outcome, exit(&outcome));
    let exit = tell(&plan, &outcome, context)?;
    written.map(|()| exit)
}

fn options(args: &RestoreArgs, wanted: &[Component]) -> Result<Options> {
    let existing = match (&args.rename, args.close_existing) {
        (Some(prefix), _) => Existing::Prefix(prefix.clone()),
        (None, true) => Existing::Close,
        (None, false) => Existing::Refuse,
    };
    let target_root = absolute_root(&args.target_root)?;
    Ok(Options {
        elsewhere: spares_the_platform(&target_root, wanted)?,
        existing,
        new_cluster: args.new_cluster.clone(),
        requeue: args.requeue,
        target_root,
        discard_old: args.discard_old,
        goal: None,
    })
}

/// The time that PostgreSQL goes to by its log, if its log is archived.
fn goes_to_time(profile: &Profile, args: &RestoreArgs, wanted: &[Component]) -> Result<Option<Timestamp>> {
    let archived = profile.postgres.archive.enabled && wanted.contains(&Component::Postgres);
    match (&args.point.at, args.timeline) {
        (Some(at), _) if archived => Ok(Some(parse_time(at, &TimeZone::system())?)),
        (_, None) => Ok(None),
        (_, Some(_)) => {
            let why = "--timeline is for PostgreSQL whose log is archived: see postgres.archive.enabled of the profile";
            Err(Usage(why.to_owned()).into())
        }
    }
}

/// The base backup to begin with, and the way from it.
fn aimed(
    repository: &Repository,
    profile: &Profile,
    args: &RestoreArgs,
    (time, wanted): (Timestamp, &[Component]),
    context: &Context<'_>,
) -> Result<(Choice, Aim)> {
    let known = known(repository, judged(wanted, &args.components), context)?;
    let allow: BTreeSet<Flaw> = args.point.allow.iter().copied().collect();
    let wish = Wish { profile: &profile.name, host: args.point.host.as_deref(), point: Point::At(time), allow };
    let alone = wanted == [Component::Postgres];
    Ok(choose_and_aim(repository, &known, &wish, (time, args.timeline), alone, context.monitor)?)
}

/// `cairn wal fetch`, as the server's account runs it.
fn fetch(global: &Global, profile: &Profile) -> Result<Vec<OsString>> {
    let archive = &profile.postgres.archive;
    let ours = global.key_file.as_ref().map(|path| ("--key-file", path));
    let ours = ours.or(global.password_file.as_ref().map(|path| ("--password-file", path)));
    let named = archive.key_file.as_ref().map(|path| ("--key-file", path));
    let named = named.or(archive.password_file.as_ref().map(|path| ("--password-file", path)));
    let (option, secret) = named.or(ours).ok_or_else(|| {
        let why =
            "the server's account opens the repository for its log: name postgres.archive.key-file in the profile";
        Usage(why.to_owned())
    })?;
    let absolute = |path: &Path| std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()));
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let repository = absolute(settings::repository(global)?)?;
    let secret = absolute(secret)?;
    let words = ["--repo".into(), repository.into_os_string(), option.into(), secret.into_os_string()];
    Ok([program.into_os_string()].into_iter().chain(words).chain(["wal".into(), "fetch".into()]).collect())
}

/// The set that is meant, among those that can be read. One that cannot be read may be the newest: that is told.
pub fn chosen(
    repository: &Repository,
    profile: &Profile,
    point: &PointArgs,
    judged: Option<&[Component]>,
    context: &Context<'_>,
) -> Result<Choice> {
    let known = known(repository, judged, context)?;
    let wanted = match (&point.at, point.set.as_deref()) {
        (Some(at), _) => Point::At(parse_time(at, &TimeZone::system())?),
        (None, Some("latest")) => Point::Latest,
        (None, Some("latest-verified")) => Point::LatestVerified,
        (None, Some(prefix)) => Point::Set(prefix.to_owned()),
        (None, None) => {
            return Err(Usage("say which set: --at TIME, or --set ID|latest|latest-verified".to_owned()).into());
        }
    };
    let allow: BTreeSet<Flaw> = point.allow.iter().copied().collect();
    let wish = Wish { profile: &profile.name, host: point.host.as_deref(), point: wanted, allow };
    Ok(choose(&known, &wish).map_err(crate::orchestrate::OrchestrateError::from)?)
}

/// By which components sets are judged: by those that are wanted, if not all of them are; else by all that a set holds.
pub fn judged<'w>(wanted: &'w [Component], args: &ComponentsArgs) -> Option<&'w [Component]> {
    (!args.only.is_empty() || !args.skip.is_empty()).then_some(wanted)
}

/// The sets that can be read, judged by these components.
fn known(repository: &Repository, judged: Option<&[Component]>, context: &Context<'_>) -> Result<Vec<Known>> {
    let (sets, damaged) = repository.readable_sets()?;
    let snapshots = repository.readable_snapshots()?;
    let proofs = snapshots.proven(&sets);
    for record in damaged.into_iter().chain(snapshots.damaged_proofs) {
        let subject = format!("{} {}", record.kind, record.id);
        context.monitor.notice(Notice { subject, message: record.message() });
    }
    let known = |info: SetInfo| {
        let proof = proofs.get(&info.id);
        match judged {
            None => Known::whole(info, proof),
            Some(wanted) => Known::of(info, proof, wanted),
        }
    };
    Ok(sets.into_iter().map(known).collect())
}

/// What is about to be done, for whoever has to say yes to it.
fn show(plan: &RestorePlan, output: Output) -> Result<()> {
    output.object("plan", plan)?;
    let flaws = if plan.choice.flaws.is_empty() { String::new() } else { format!(" ({})", words(&plan.choice.flaws)) };
    output.line(&format!(
        "backup set {} of {}, from {}{flaws}",
        plan.choice.set.short(),
        time(plan.choice.time),
        escape(plan.choice.host.as_bytes())
    ))?;
    show_passed(&plan.choice.passed, output)?;
    for intent in &plan.components {
        output.line(&format!("\n{}: {}", intent.component.name(), bytes(intent.bytes)))?;
        for place in &intent.into {
            output.line(&format!("    into {place}"))?;
        }
        for old in &intent.replaces {
            output.line(&format!("    moved aside: {old}"))?;
        }
        for note in &intent.notes {
            output.line(&format!("    {note}"))?;
        }
    }
    for apart in &plan.apart {
        let (name, when, seconds) = (apart.component.name(), time(apart.time), apart.seconds);
        output.line(&format!("\n{name} of this set is of {when}: {seconds} s before the time of PostgreSQL"))?;
    }
    for (component, why) in &plan.left_out {
        output.line(&format!("\n{} is left out: {why}", component.name()))?;
    }
    output.line("")?;
    for room in &plan.room {
        let (needed, free) = (bytes(room.needed_bytes), bytes(room.available_bytes));
        output.line(&format!("room: {needed} needed at {}, {free} are free", room.path))?;
    }
    output.line(&format!("it may take about {} s", plan.estimate_seconds))?;
    for obstacle in &plan.obstacles {
        output.line(&format!("\nIN THE WAY: {obstacle}"))?;
    }
    Ok(())
}

/// Sets that were not taken.
pub fn show_passed(passed: &[Passed], output: Output) -> Result<()> {
    for one in passed {
        let (id, when, why) = (one.id.short(), time(one.time), words(&one.flaws));
        output.line(&format!("  passed over: {id} of {when}: it is {why}"))?;
    }
    Ok(())
}

fn show_steps(plan: &RestorePlan, output: Output) -> Result<()> {
    output.line("\nSTEPS (! changes the platform)")?;
    for (at, step) in plan.run.steps.iter().enumerate() {
        steps::show_step(at + 1, step, output)?;
    }
    Ok(())
}

fn confirmed(output: Output) -> Result<()> {
    let unasked = || Usage("nothing was changed: look at the plan, then say --yes".to_owned());
    if output.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(unasked().into());
    }
    write!(std::io::stderr(), "Restore this? Type yes: ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(unasked().into()),
    }
}

/// 0 only if everything that was asked for is back and was compared, on a platform that is up.
fn exit(outcome: &Outcome) -> Exit {
    match &outcome.error {
        Some(error) if error.is_interrupted() && outcome.stuck.is_empty() => Exit::Interrupted,
        Some(_) => Exit::Failed,
        None if !outcome.stuck.is_empty() => Exit::Failed,
        None if outcome.components.iter().all(|one| one.state == State::Restored) => Exit::Done,
        None => Exit::Unread,
    }
}

fn tell(plan: &RestorePlan, outcome: &Outcome, context: &Context<'_>) -> Result<Exit> {
    let (exit, output) = (exit(outcome), context.output);
    for error in outcome.error.iter().chain(&outcome.stuck) {
        output.error(&chain(error), exit as u8);
    }
    if !outcome.stuck.is_empty() {
        let advice = "something is not as it was: see what is named above, then run `cairn platform resume`";
        output.error(advice, exit as u8);
    }
    for one in &outcome.components {
        output.line(&format!("{:14} {}: {}", one.component.name(), state(one.state), one.detail))?;
        let aside = one.aside.iter().map(ToString::to_string);
        for line in aside.chain(one.notes.iter().cloned()) {
            output.line(&format!("               {line}"))?;
        }
    }
    let sentence = match exit {
        Exit::Done => format!("backup set {} is back, and equal to what was recorded", plan.choice.set.short()),
        Exit::Unread => format!("backup set {} is back in part: see above", plan.choice.set.short()),
        _ => "the platform was not restored, and is as it was before but for what is named above".to_owned(),
    };
    let summary = json!({
        "set": plan.choice.set, "exit": exit as u8, "components": outcome.components, "steps": outcome.steps,
    });
    output.summary(&sentence, summary)?;
    Ok(exit)
}
