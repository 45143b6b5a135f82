//! Choosing the recovery point: which backup set a restore or a drill takes, and which newer ones it passes over.
//!
//! Invariants: a set that is partial, online or never proven is not taken by its time unless somebody asked for that, one in
//! which a drill found a difference not even as the newest; a set of another profile is never taken, nor, where several
//! machines have stored sets, one of a machine that nobody named. Where single components are wanted, a set is judged by
//! these. What was passed over is told with the reason, so that
//! nobody takes an old state for the newest.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::set::{Consistency, Status};
use crate::orchestrate::platform::profile::Component;
use crate::repo::proven::SetProof;
use crate::repo::sets::SetInfo;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// The newest set.
    Latest,
    /// The newest that a drill has proven.
    LatestVerified,
    /// The newest proven one at or before a time.
    At(Timestamp),
    /// The one whose id begins so.
    Set(String),
}

/// Why a set is not taken without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Something is missing in it.
    Partial,
    /// Its components are not of one point in time.
    Online,
    /// No drill has restored it and found it equal to what was recorded.
    Unverified,
    /// A drill has found a component of it different from what was recorded, or could not restore it, and none later has
    /// found that equal.
    Different,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 4] = [Flaw::Partial, Flaw::Online, Flaw::Unverified, Flaw::Different];

    /// As options name it.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::Partial => "partial",
            Flaw::Online => "online",
            Flaw::Unverified => "unverified",
            Flaw::Different => "different",
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set, and what is known of the components that are wanted of it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The set.
    pub info: SetInfo,
    /// Whether something is missing in it.
    pub partial: bool,
    /// When a drill last found all of it equal to what was recorded.
    pub proven: Option<Timestamp>,
    /// When a drill last found that something of it is not, if none has found that equal since.
    pub different: Option<Timestamp>,
}

impl Known {
    /// Judges a set by all that is in it.
    pub fn whole(info: SetInfo, proof: Option<&SetProof>) -> Self {
        Known {
            partial: info.set.status != Status::Complete,
            proven: proof.and_then(|proof| proof.proven),
            different: proof.and_then(SetProof::last_different).map(|one| one.time),
            info,
        }
    }

    /// Judges a set by some of its components: what has become of the others is nothing to who wants these alone.
    pub fn of(info: SetInfo, proof: Option<&SetProof>, wanted: &[Component]) -> Self {
        let names: Vec<&str> = wanted.iter().map(|one| one.name()).collect();
        let is_whole = |name: &&str| {
            let mut of_name = info.set.components.iter().filter(|one| one.name == *name);
            of_name.next().is_some_and(|one| one.status == Status::Complete)
        };
        Known {
            partial: !names.iter().all(is_whole),
            proven: proof.and_then(|proof| proof.proven_of(&info.set, &names)),
            different: proof.and_then(|proof| proof.last_different_of(&names)).map(|one| one.time),
            info,
        }
    }

    /// What speaks against it.
    pub fn flaws(&self) -> BTreeSet<Flaw> {
        let set = &self.info.set;
        let has = |flaw: &Flaw| match flaw {
            Flaw::Partial => self.partial,
            Flaw::Online => set.consistency != Consistency::OnePointInTime,
            Flaw::Unverified => self.proven.is_none(),
            Flaw::Different => self.different.is_some(),
        };
        Flaw::ALL.into_iter().filter(has).collect()
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Of which profile.
    pub profile: &'a str,
    /// Of which machine; where sets of several are there, it must be named.
    pub host: Option<&'a str>,
    /// Which point.
    pub point: Point,
    /// What may be so in spite of all.
    pub allow: BTreeSet<Flaw>,
}

impl Wish<'_> {
    /// What is not asked about, because the point wanted includes it.
    pub fn tolerates(&self, flaw: Flaw) -> bool {
        match (&self.point, flaw) {
            (Point::Set(_), _) | (Point::Latest, Flaw::Unverified) => true,
            (Point::LatestVerified, Flaw::Unverified) => false,
            _ => self.allow.contains(&flaw),
        }
    }
}

/// A set that would have been taken but for its flaws.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Its id.
    pub id: ObjectId,
    /// The time that it stands for.
    pub time: Timestamp,
    /// What speaks against it.
    pub flaws: Vec<Flaw>,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The set.
    pub info: SetInfo,
    /// What speaks against it, and was asked for.
    pub flaws: Vec<Flaw>,
    /// When a drill last proved it.
    pub proven: Option<Timestamp>,
    /// Newer ones that were not taken, the newest first.
    pub passed: Vec<Passed>,
}

/// What a plan shows of the choice.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// The set.
    pub set: ObjectId,
    /// The time that it stands for.
    pub time: Timestamp,
    /// The machine that it is of.
    pub host: String,
    /// What speaks against the set, and was asked for.
    pub flaws: Vec<Flaw>,
    /// When a drill last proved it.
    pub proven: Option<Timestamp>,
    /// Newer sets that were not taken.
    pub passed: Vec<Passed>,
}

impl From<Choice> for Chosen {
    fn from(choice: Choice) -> Self {
        let Choice { info, flaws, proven, passed } = choice;
        Chosen { set: info.id, time: info.set.time, host: info.set.host, flaws, proven, passed }
    }
}

/// Why nothing was chosen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChooseError {
    /// There is no set at all.
    #[error("the repository has no backup set of the profile {profile}{}: see `cairn platform sets`", of(host.as_ref()))]
    None {
        /// The profile.
        profile: String,
        /// The machine, if one was named.
        host: Option<String>,
    },
    /// An id that means no set, or several.
    #[error("no backup set, or more than one, has an id that begins with {prefix:?}: see `cairn platform sets`")]
    Prefix {
        /// What was given.
        prefix: String,
    },
    /// A set of something else.
    #[error(
        "backup set {id} is of the profile {found}, and {wanted} is to be restored: name its profile with --profile"
    )]
    Profile {
        /// The set, shortened.
        id: String,
        /// Its profile.
        found: String,
        /// The one asked for.
        wanted: String,
    },
    /// Sets of several machines.
    #[error("there are backup sets of several machines: {hosts}; name one with --host")]
    Hosts {
        /// Their names.
        hosts: String,
    },
    /// None that early.
    #[error("no backup set was made at or before {time}; the oldest is {oldest} of {oldest_time}")]
    TooEarly {
        /// The time wanted.
        time: Timestamp,
        /// The oldest set, shortened.
        oldest: String,
        /// Its time.
        oldest_time: Timestamp,
    },
    /// All of them have flaws.
    #[error(
        "no backup set that fits is without a flaw: {passed}; --allow takes one in spite of it, or name it with --set"
    )]
    Flawed {
        /// The newest of them, with their flaws.
        passed: String,
    },
}

fn of(host: Option<&String>) -> String {
    host.map_or_else(String::new, |host| format!(" from {host}"))
}

/// So many flawed sets are named in an error.
const NAMED: usize = 5;

/// Chooses among sets.
pub fn choose(known: &[Known], wish: &Wish<'_>) -> Result<Choice, ChooseError> {
    if let Point::Set(prefix) = &wish.point {
        return by_id(known, prefix, wish);
    }
    let mut candidates = candidates(known, wish)?;
    let none = || ChooseError::None { profile: wish.profile.to_owned(), host: wish.host.map(str::to_owned) };
    candidates.sort_by_key(|one| (one.info.set.time, one.info.id));
    let oldest = candidates.first().ok_or_else(none)?;
    if let Point::At(time) = wish.point {
        let (oldest, oldest_time) = (oldest.info.id.short(), oldest.info.set.time);
        candidates.retain(|one| one.info.set.time <= time);
        if candidates.is_empty() {
            return Err(ChooseError::TooEarly { time, oldest, oldest_time });
        }
    }
    let mut passed = Vec::new();
    for one in candidates.into_iter().rev() {
        let flaws = Vec::from_iter(one.flaws());
        if flaws.iter().all(|flaw| wish.tolerates(*flaw)) {
            return Ok(Choice { info: one.info.clone(), flaws, proven: one.proven, passed });
        }
        passed.push(Passed { id: one.info.id, time: one.info.set.time, flaws });
    }
    let shown = |one: &Passed| format!("{} of {} is {}", one.id.short(), one.time, words(&one.flaws));
    let named: Vec<String> = passed.iter().take(NAMED).map(shown).collect();
    Err(ChooseError::Flawed { passed: named.join("; ") })
}

/// The sets of the profile and the machine that are meant.
pub fn candidates<'k>(known: &'k [Known], wish: &Wish<'_>) -> Result<Vec<&'k Known>, ChooseError> {
    let is_meant =
        |one: &&Known| one.info.set.profile == wish.profile && wish.host.is_none_or(|host| host == one.info.set.host);
    let candidates: Vec<&Known> = known.iter().filter(is_meant).collect();
    let hosts: BTreeSet<&str> = candidates.iter().map(|one| one.info.set.host.as_str()).collect();
    match hosts.len() > 1 {
        true => Err(ChooseError::Hosts { hosts: Vec::from_iter(hosts).join(", ") }),
        false => Ok(candidates),
    }
}

fn by_id(known: &[Known], prefix: &str, wish: &Wish<'_>) -> Result<Choice, ChooseError> {
    let found: Vec<&Known> = known.iter().filter(|one| one.info.id.begins_with(prefix)).collect();
    let [one] = found.as_slice() else { return Err(ChooseError::Prefix { prefix: prefix.to_owned() }) };
    if one.info.set.profile != wish.profile {
        return Err(ChooseError::Profile {
            id: one.info.id.short(),
            found: one.info.set.profile.clone(),
            wanted: wish.profile.to_owned(),
        });
    }
    let flaws = Vec::from_iter(one.flaws());
    Ok(Choice { info: one.info.clone(), flaws, proven: one.proven, passed: Vec::new() })
}

/// Flaws for people.
pub fn words(flaws: &[Flaw]) -> String {
    flaws.iter().map(|flaw| flaw.name()).collect::<Vec<_>>().join(" and ")
}
