//! `cairn forget`.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::args::{ForgetArgs, Global};
use crate::cli::commands::{Context, open, select_one, select_set, snapshots};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::time;
use crate::format::ObjectId;
use crate::format::set::Status;
use crate::orchestrate::select;
use crate::repo::forget::Removals;
use crate::repo::proven::SetProof;
use crate::repo::records::{DamagedSnapshot, Snapshots};
use crate::repo::sets::SetInfo;
use crate::repo::{RepoError, Repository, SnapshotInfo};
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
    if args.snap.is_empty() && policy.is_empty() {
        return Err(retention::RetentionError::EmptyPolicy.into());
    }
    let repository = open(global, context)?;
    let all = snapshots(&repository, context)?;
    let sets = repository.sets()?;
    if let Some(damaged) = all.damaged.first() {
        return give_up(&repository, &all.damaged, damaged, &sets, &args, context);
    }
    if let Some(proof) = all.damaged_proofs.iter().find(|proof| !proof.is_broken())
        && !args.unsafe_allow_remove_all
    {
        // One that is broken for good proves nothing any more; this one may prove what is about to go.
        let (id, message) = (proof.id, proof.message());
        let why =
            format!("proof {id} cannot be read, so which snapshot is the newest verified one is not known: {message}");
        return Err(RepoError::Refused { why }.into());
    }
    let decided = if args.snap.is_empty() {
        by_policy(&all, &sets, args.name.as_deref(), &policy)?
    } else {
        by_hand(&all, &sets, &args.snap, args.unsafe_allow_remove_all, context)?
    };
    let removals = tell(&decided, args.dry_run, context)?;
    if !args.dry_run {
        repository.forget_all(&removals)?;
    }
    let (count, set_count) = (removals.snapshots.len(), removals.sets.len());
    let kept = all.found.len() - count;
    let with_sets = if set_count > 0 { format!(" with {set_count} backup sets") } else { String::new() };
    let sentence = match (count + set_count, args.dry_run) {
        (_, true) => format!("{count} would be forgotten{with_sets}, {kept} kept"),
        (0, false) => format!("nothing forgotten, {kept} kept"),
        (_, false) => format!("{count} forgotten{with_sets}, {kept} kept; `cairn gc` reclaims the space"),
    };
    context.output.summary(
        &sentence,
        json!({ "forgotten": count, "sets_forgotten": set_count, "kept": kept, "dry_run": args.dry_run }),
    )?;
    Ok(Exit::Done)
}

/// While a snapshot cannot be read, nothing is forgotten but what cannot be read, and the sets that need it, each by its
/// id: no rule can say whether it is the newest.
fn give_up(
    repository: &Repository,
    damaged: &[DamagedSnapshot],
    first: &DamagedSnapshot,
    sets: &[SetInfo],
    args: &ForgetArgs,
    context: &Context<'_>,
) -> Result<Exit> {
    let mut removals = Removals::default();
    let mut allowed = args.unsafe_allow_remove_all && !args.snap.is_empty();
    for text in &args.snap {
        match (select::damaged_by_id(damaged, text), select_set(sets, text)) {
            (Some(info), None) => removals.snapshots.push((info.id, "given up: it could not be read".to_owned())),
            (None, Some(info)) if info.snapshots().any(|id| damaged.iter().any(|other| other.id == id)) => {
                removals.sets.push((info.id, "given up: a snapshot of it could not be read".to_owned()));
            }
            _ => allowed = false,
        }
    }
    if !allowed {
        let why = format!("snapshot {} cannot be read, so no rule can be applied: {}", first.id, first.message);
        return Err(RepoError::Refused { why }.into());
    }
    let count = removals.snapshots.len();
    if !args.dry_run {
        repository.forget_all(&removals)?;
    }
    let sentence = format!("{count} given up{}", if args.dry_run { " if it were no dry run" } else { "" });
    let object = json!({ "forgotten": count, "sets_forgotten": removals.sets.len(), "dry_run": args.dry_run });
    context.output.summary(&sentence, object)?;
    Ok(Exit::Done)
}

/// What is decided about.
#[derive(Clone, Copy)]
enum Subject<'s> {
    Set(&'s SetInfo),
    Snapshot(&'s SnapshotInfo),
}

/// What is decided: what keeps it; if nothing does, it goes.
struct Decided<'s> {
    subject: Subject<'s>,
    kept_by: Vec<String>,
    /// Why it goes.
    reason: &'static str,
}

const NO_RULE: &str = "no rule keeps it";
const BY_NAME: &str = "named to be forgotten";
const WITH_SET: &str = "its backup set goes";

/// Prints every decision; what goes.
fn tell(decided: &[Decided<'_>], dry_run: bool, context: &Context<'_>) -> Result<Removals> {
    let mut removals = Removals::default();
    for one in decided {
        let goes = one.kept_by.is_empty();
        let word = match (goes, dry_run) {
            (false, _) => "keep",
            (true, false) => "forget",
            (true, true) => "would forget",
        };
        let why = if goes { one.reason.to_owned() } else { one.kept_by.join(", ") };
        let (key, id, made, name, what, list) = match one.subject {
            Subject::Set(SetInfo { id, set }) => {
                ("set", *id, set.time, &set.profile, "  (backup set)", &mut removals.sets)
            }
            Subject::Snapshot(SnapshotInfo { id, snapshot, .. }) => {
                ("snapshot", *id, snapshot.time, &snapshot.name, "", &mut removals.snapshots)
            }
        };
        context.output.line(&format!("{word:12} {}  {}  {name}{what}  ({why})", id.short(), time(made)))?;
        let object = json!({ key: id, "name": name, "time": made, "kept": !goes, "why": why });
        context.output.object("decision", object)?;
        if goes {
            list.push((id, why));
        }
    }
    Ok(removals)
}

/// Sets are decided first, each as a whole; their snapshots go where they go. The other snapshots are decided by
/// themselves.
fn by_policy<'s>(
    snapshots: &'s Snapshots,
    sets: &'s [SetInfo],
    name: Option<&str>,
    policy: &Policy,
) -> Result<Vec<Decided<'s>>> {
    let all: &[SnapshotInfo] = &snapshots.found;
    let proven = snapshots.proven(sets);
    let wanted = |other: &str| name.is_none_or(|name| name == other);
    let sets_chosen: Vec<&SetInfo> = sets.iter().filter(|info| wanted(&info.set.profile)).collect();
    let chosen: Vec<&SnapshotInfo> = all.iter().filter(|info| wanted(&info.snapshot.name)).collect();
    if chosen.is_empty() && sets_chosen.is_empty() && name.is_some() {
        let missing = "no snapshot or backup set has the name given with --name: see `cairn snapshots`";
        return Err(Usage(missing.to_owned()).into());
    }
    let candidates: Vec<Candidate> = sets_chosen.iter().map(|info| set_candidate(info, &proven)).collect();
    let mut decided = Vec::new();
    // Every set that stays, also those that were not asked about.
    let mut staying: HashMap<ObjectId, Vec<String>> = HashMap::new();
    let decisions = retention::decide(&candidates, policy, Timestamp::now(), &TimeZone::system())?;
    let mut going: HashSet<ObjectId> = HashSet::new();
    for (info, decision) in sets_chosen.into_iter().zip(decisions) {
        let kept_by: Vec<String> = decision.kept_by.into_iter().map(str::to_owned).collect();
        if kept_by.is_empty() {
            going.insert(info.id);
        }
        decided.push(Decided { subject: Subject::Set(info), kept_by, reason: NO_RULE });
    }
    let mut leaving: HashSet<ObjectId> = HashSet::new();
    for info in sets {
        for snapshot in info.snapshots() {
            if going.contains(&info.id) {
                leaving.insert(snapshot);
            } else {
                staying.entry(snapshot).or_default().push(format!("part of backup set {}", info.id.short()));
            }
        }
    }
    let alone = |info: &&&SnapshotInfo| !staying.contains_key(&info.id) && !leaving.contains(&info.id);
    let candidates: Vec<Candidate> = chosen.iter().filter(alone).map(|info| candidate(info)).collect();
    let decisions = retention::decide(&candidates, policy, Timestamp::now(), &TimeZone::system())?;
    let mut by_rule: HashMap<ObjectId, Vec<String>> = decisions
        .into_iter()
        .map(|decision| (decision.id, decision.kept_by.into_iter().map(str::to_owned).collect()))
        .collect();
    for info in all {
        let (kept_by, reason) = match staying.remove(&info.id) {
            Some(sets) if wanted(&info.snapshot.name) => (sets, NO_RULE),
            Some(_) => continue,
            None if leaving.contains(&info.id) => (Vec::new(), WITH_SET),
            None => match by_rule.remove(&info.id) {
                Some(rules) => (rules, NO_RULE),
                None => continue,
            },
        };
        decided.push(Decided { subject: Subject::Snapshot(info), kept_by, reason });
    }
    Ok(decided)
}

fn candidate(info: &SnapshotInfo) -> Candidate {
    let merits = Vec::from_iter(info.proof.is_some().then_some("newest verified"));
    let series = (info.snapshot.name.clone(), info.snapshot.host.clone());
    Candidate { id: info.id, series, time: info.snapshot.time, merits }
}

fn set_candidate(info: &SetInfo, proven: &HashMap<ObjectId, SetProof>) -> Candidate {
    let is_complete = info.set.status == Status::Complete;
    // Of a partial one the rest may be proven: it does not take the place of a whole one that is.
    let is_proven = is_complete && proven.get(&info.id).is_some_and(|proof| proof.proven.is_some());
    let merits = [(is_complete, "newest complete"), (is_proven, "newest proven")];
    let merits = merits.into_iter().filter(|(has, _)| *has).map(|(_, merit)| merit).collect();
    let series = (info.set.profile.clone(), info.set.host.clone());
    Candidate { id: info.id, series, time: info.set.time, merits }
}

/// Snapshots and sets named one by one. The newest, and the newest proven one, of a series need more than a name.
fn by_hand<'s>(
    snapshots: &'s Snapshots,
    sets: &'s [SetInfo],
    words: &[String],
    allow_all: bool,
    context: &Context<'_>,
) -> Result<Vec<Decided<'s>>> {
    let all: &[SnapshotInfo] = &snapshots.found;
    let proven = snapshots.proven(sets);
    let candidate_of = |info: &SetInfo| set_candidate(info, &proven);
    let mut decided: Vec<Decided<'s>> = Vec::new();
    for text in words {
        let info = match select_one(snapshots, text, context) {
            Err(error) => match select_set(sets, text) {
                Some(set) => {
                    protect(text, candidate_of(set), sets.iter().map(candidate_of), allow_all)?;
                    add_set(&mut decided, all, sets, set);
                    continue;
                }
                None => return Err(error),
            },
            Ok(info) => info,
        };
        if decided.iter().any(|other| matches!(other.subject, Subject::Snapshot(other) if other.id == info.id)) {
            continue;
        }
        protect(text, candidate(info), all.iter().map(candidate), allow_all)?;
        decided.push(Decided { subject: Subject::Snapshot(info), kept_by: Vec::new(), reason: BY_NAME });
    }
    Ok(decided)
}

/// A set goes with those of its snapshots that no other set needs.
fn add_set<'s>(decided: &mut Vec<Decided<'s>>, all: &'s [SnapshotInfo], sets: &[SetInfo], set: &'s SetInfo) {
    decided.push(Decided { subject: Subject::Set(set), kept_by: Vec::new(), reason: BY_NAME });
    let needed: HashSet<ObjectId> =
        sets.iter().filter(|other| other.id != set.id).flat_map(SetInfo::snapshots).collect();
    for id in set.snapshots().filter(|id| !needed.contains(id)) {
        if let Some(info) = all.iter().find(|info| info.id == id) {
            decided.push(Decided { subject: Subject::Snapshot(info), kept_by: Vec::new(), reason: WITH_SET });
        }
    }
}

fn protect(text: &str, one: Candidate, all: impl Iterator<Item = Candidate>, allow_all: bool) -> Result<()> {
    let mut series: Vec<Candidate> = all.filter(|other| other.series == one.series).collect();
    series.sort_by_key(|other| (other.time, other.id));
    let is = |other: Option<&Candidate>| other.map(|other| other.id) == Some(one.id);
    let newest_with = |merit: &&str| is(series.iter().rev().find(|other| other.merits.contains(merit)));
    let how = is(series.last()).then_some("newest").or_else(|| one.merits.iter().copied().find(newest_with));
    if let Some(how) = how.filter(|_| !allow_all) {
        let name = &one.series.0;
        let why = format!("{text:?} is the {how} one of {name}: add --unsafe-allow-remove-all to let it go");
        return Err(RepoError::Refused { why }.into());
    }
    Ok(())
}
