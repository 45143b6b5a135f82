//! `cairn forget`.

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::args::{ForgetArgs, Global};
use crate::cli::commands::{Context, open, select_one, snapshots};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::time;
use crate::format::ObjectId;
use crate::repo::SnapshotInfo;
use crate::retention::{self, Candidate, Policy};

pub fn run(global: &Global, args: ForgetArgs, context: &Context<'_>) -> Result<Exit> {
    let within_seconds = match args.keep_within.as_deref() {
        None => 0,
        Some(text) => retention::parse_duration(text)
            .ok_or_else(|| Usage(format!("--keep-within {text:?}: give a duration such as 36h, 7d, 2w, 6m or 1y")))?,
    };
    let policy = Policy {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
        within_seconds,
        unsafe_allow_remove_all: args.unsafe_allow_remove_all,
    };
    if args.snap.is_empty() && policy.is_empty() && !policy.unsafe_allow_remove_all {
        return Err(retention::RetentionError::EmptyPolicy.into());
    }
    let repository = open(global, context)?;
    let all = snapshots(&repository, context)?;
    let decisions = if args.snap.is_empty() {
        by_policy(&all, args.name.as_deref(), &policy)?
    } else {
        by_hand(&all, &args.snap, args.unsafe_allow_remove_all)?
    };
    let mut removals = Vec::new();
    for (info, kept_by) in decisions {
        let removed = kept_by.is_empty();
        let word = match (removed, args.dry_run) {
            (false, _) => "keep",
            (true, false) => "forget",
            (true, true) => "would forget",
        };
        let why = if removed { "no rule keeps it".to_owned() } else { kept_by.join(", ") };
        let (id, name, made) = (info.id.short(), &info.snapshot.name, time(info.snapshot.time));
        context.output.line(&format!("{word:12} {id}  {made}  {name}  ({why})"))?;
        let object =
            json!({ "snapshot": info.id, "name": name, "time": info.snapshot.time, "kept": !removed, "why": why });
        context.output.object("decision", object)?;
        if removed {
            removals.push((info.id, why));
        }
    }
    if !args.dry_run {
        repository.forget(&removals)?;
    }
    let count = removals.len();
    let kept = all.len() - count;
    let sentence = match (count, args.dry_run) {
        (_, true) => format!("{count} would be forgotten, {kept} kept"),
        (0, false) => format!("nothing forgotten, {kept} kept"),
        (_, false) => format!("{count} forgotten, {kept} kept; `cairn gc` reclaims the space"),
    };
    context.output.summary(&sentence, json!({ "forgotten": count, "kept": kept, "dry_run": args.dry_run }))?;
    Ok(Exit::Done)
}

type Decided<'s> = Vec<(&'s SnapshotInfo, Vec<String>)>;

fn by_policy<'s>(all: &'s [SnapshotInfo], name: Option<&str>, policy: &Policy) -> Result<Decided<'s>> {
    let chosen: Vec<&SnapshotInfo> =
        all.iter().filter(|info| name.is_none_or(|name| name == info.snapshot.name)).collect();
    if chosen.is_empty() && name.is_some() {
        return Err(Usage("no snapshot has the name given with --name: see `cairn snapshots`".to_owned()).into());
    }
    let candidate = |info: &&SnapshotInfo| Candidate {
        id: info.id,
        series: (info.snapshot.name.clone(), info.snapshot.host.clone()),
        time: info.snapshot.time,
        verified: info.proof.is_some(),
    };
    let candidates: Vec<Candidate> = chosen.iter().map(candidate).collect();
    let decisions = retention::decide(&candidates, policy, Timestamp::now(), &TimeZone::system())?;
    let words = |kept_by: Vec<&'static str>| kept_by.into_iter().map(str::to_owned).collect();
    Ok(chosen.into_iter().zip(decisions).map(|(info, decision)| (info, words(decision.kept_by))).collect())
}

/// Snapshots named one by one. The newest, and the newest verified one, of a series need more than a name.
fn by_hand<'s>(all: &'s [SnapshotInfo], words: &[String], allow_all: bool) -> Result<Decided<'s>> {
    let mut decided: Decided<'s> = Vec::new();
    for text in words {
        let info = select_one(all, text)?;
        if decided.iter().any(|(other, _)| other.id == info.id) {
            continue;
        }
        let series = |other: &&SnapshotInfo| {
            (&other.snapshot.name, &other.snapshot.host) == (&info.snapshot.name, &info.snapshot.host)
        };
        let is = |other: Option<&SnapshotInfo>| other.map(|other| other.id) == Some(info.id);
        let newest: Option<ObjectId> = all.iter().rfind(series).map(|other| other.id);
        let protected =
            newest == Some(info.id) || is(all.iter().rev().filter(series).find(|other| other.proof.is_some()));
        if protected && !allow_all {
            let name = &info.snapshot.name;
            let why = format!(
                "{text:?} is the newest, or the newest verified, snapshot of {name}: add --unsafe-allow-remove-all to let it go"
            );
            return Err(crate::repo::RepoError::Refused { why }.into());
        }
        decided.push((info, Vec::new()));
    }
    Ok(decided)
}
