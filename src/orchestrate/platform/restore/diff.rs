//! What restoring the configuration would change, file by file, to be looked at before it is done.
//!
//! Invariants: nothing is changed to find out. What looks secret is not shown (`diff/secret.rs`): of a file that is known
//! to be a key only that it differs, of other files the lines without what may be a password.

mod lines;
mod secret;

use std::io::Read;

use serde::Serialize;

use crate::format::codec::{escape, escape_path};
use crate::format::set::{self, Facts};
use crate::format::tree::{Entry, Node};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::restore::config::{Place, Scope};
use crate::orchestrate::platform::restore::diff::secret::{Secrets, holds_key};
use crate::orchestrate::platform::restore::plan::{Look, part};
use crate::orchestrate::platform::store::Role;
use crate::orchestrate::restore::stream::EntryReader;
use crate::repo::SnapshotInfo;
use crate::source::SourceError;
use crate::source::files::{Overwrite, OwnerLookup, Target, TargetOptions};

pub use lines::MAX_TEXT;

/// What a restore does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is not there, and comes back.
    Added,
    /// It is there, and is replaced, or gets another owner or mode.
    Changed,
}

/// What an entry is, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// `file`, `directory`, `link` and the like.
    pub kind: &'static str,
    /// Its mode in octal digits; of a link it means nothing.
    pub mode: String,
    /// Its user: a name, or a number that has none.
    pub user: String,
    /// Its group.
    pub group: String,
    /// The length of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// How the content differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Content {
    /// It is equal, or there is none to compare.
    Same,
    /// It differs and is secret.
    Secret,
    /// Lines of a unified diff.
    Text {
        /// The lines, each with its sign.
        diff: Vec<String>,
        /// How many of them are not shown because they look secret.
        hidden: usize,
    },
    /// It is no text, or long.
    Sums {
        /// The BLAKE3 of what is there.
        is: String,
        /// The BLAKE3 of what comes back.
        becomes: String,
    },
}

/// An entry that would change.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Its path on this machine.
    pub path: String,
    /// What would become of it.
    pub change: Change,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<Shape>,
    /// What comes back.
    pub becomes: Shape,
    /// How the content differs.
    pub content: Content,
}

/// How much there was to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Entries that are not there.
    pub added: u64,
    /// Entries that differ.
    pub changed: u64,
    /// Entries that are equal.
    pub equal: u64,
    /// Entries that could not be compared.
    pub unread: u64,
}

/// What is told while it is looked for.
pub enum Told<'a> {
    /// An entry that differs.
    Difference(&'a Difference),
    /// One that cannot be compared, and why.
    Unread(String, OrchestrateError),
}

/// Hears what is found; its error ends the search.
pub type Hear<'h, E> = &'h mut dyn FnMut(Told<'_>) -> Result<(), E>;

/// Compares what a set holds of the configuration with what is on this machine.
pub fn differences<E: From<OrchestrateError>>(
    look: &Look<'_>,
    found: &set::Component,
    hear: Hear<'_, E>,
) -> Result<Totals, E> {
    let info = look.snapshot(part(&found.parts, Role::TREE)?)?;
    let scope = Scope::new(look, info)?;
    let keys = match &found.facts {
        Some(Facts::Config(facts)) => facts.keys.as_slice(),
        _ => &[],
    };
    let compare = Compare { look, info, scope: &scope, secrets: Secrets::new(keys) };
    let mut totals = Totals::default();
    for place in &scope.places {
        compare.place(place, &mut totals, hear)?;
    }
    Ok(totals)
}

struct Compare<'a> {
    look: &'a Look<'a>,
    info: &'a SnapshotInfo,
    scope: &'a Scope,
    secrets: Secrets,
}

impl Compare<'_> {
    fn place<E: From<OrchestrateError>>(&self, place: &Place, totals: &mut Totals, hear: Hear<'_, E>) -> Result<(), E> {
        let options =
            TargetOptions { overwrite: Overwrite::Never, owner_lookup: OwnerLookup::Name, ..TargetOptions::default() };
        let target = Target::open_existing(&place.directory, options).map_err(OrchestrateError::from)?;
        let mut tree = self.look.repository.tree(&self.info.snapshot.content).map_err(OrchestrateError::from)?;
        tree.seek(&place.root).map_err(OrchestrateError::from)?;
        while let Some(entry) = tree.next_entry().map_err(OrchestrateError::from)? {
            if (self.look.stop)() {
                return Err(OrchestrateError::Interrupted.into());
            }
            let Some(path) = place.beneath(&entry) else { break };
            let is_directory = entry.node == Node::Directory;
            if self.scope.exclude.covers(&path, is_directory) || matches!(entry.node, Node::Socket | Node::Unread) {
                continue;
            }
            let shown = escape_path(&place.path(&path));
            match self.entry(target.as_ref(), &entry, &path, &shown) {
                Ok(None) => totals.equal += 1,
                Ok(Some(difference)) => {
                    match difference.change {
                        Change::Added => totals.added += 1,
                        Change::Changed => totals.changed += 1,
                    }
                    hear(Told::Difference(&difference))?;
                }
                Err(error) => {
                    totals.unread += 1;
                    hear(Told::Unread(shown, error))?;
                }
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        target: Option<&Target>,
        entry: &Entry,
        path: &[u8],
        shown: &str,
    ) -> Result<Option<Difference>, OrchestrateError> {
        let there = target.map(|target| target.present(path)).transpose()?.flatten();
        let becomes = shape(entry);
        let (Some(target), Some(there)) = (target, there) else {
            let (path, change, content) = (shown.to_owned(), Change::Added, Content::Same);
            return Ok(Some(Difference { path, change, is: None, becomes, content }));
        };
        let is = shape(&there);
        let content = match (&entry.node, &there.node) {
            (Node::File { .. }, Node::File { .. }) => self.content(target, entry, &there, (path, shown))?,
            _ => Content::Same,
        };
        // Owners are compared as this machine knows them: the same name may have another number.
        let owners_differ = target.owner_here(&entry.owner) != (there.owner.uid, there.owner.gid);
        let shapes_differ = (is.kind, &is.target) != (becomes.kind, &becomes.target)
            || (is.mode != becomes.mode && !matches!(entry.node, Node::Symlink { .. }));
        let differs = content != Content::Same || owners_differ || shapes_differ;
        let change = Change::Changed;
        Ok(differs.then(|| Difference { path: shown.to_owned(), change, is: Some(is), becomes, content }))
    }

    fn content(
        &self,
        target: &Target,
        entry: &Entry,
        there: &Entry,
        (path, shown): (&[u8], &str),
    ) -> Result<Content, OrchestrateError> {
        let stored = EntryReader::open(self.look.repository, entry)?;
        // What grows all the while has an end, too.
        let file = target.read_back(path)?.take(length(there).saturating_add(1));
        let (is, becomes) = (read(file, shown)?, read(stored, shown)?);
        if is.sum == becomes.sum {
            return Ok(Content::Same);
        }
        let hold_key = [&is, &becomes].iter().any(|taken| holds_key(taken.text.as_deref()));
        if hold_key || self.secrets.is_key(&entry.path) || self.secrets.is_key(path) {
            return Ok(Content::Secret);
        }
        let texts = (is.text.as_deref().and_then(lines::text), becomes.text.as_deref().and_then(lines::text));
        Ok(match texts {
            (Some(old), Some(new)) => {
                let (diff, hidden) = lines::unified(old, new);
                Content::Text { diff, hidden }
            }
            _ => Content::Sums { is: is.sum.to_hex().to_string(), becomes: becomes.sum.to_hex().to_string() },
        })
    }
}

fn length(entry: &Entry) -> u64 {
    match entry.node {
        Node::File { size, .. } => size,
        _ => 0,
    }
}

/// A content: its sum, and itself if it is short.
struct Taken {
    sum: blake3::Hash,
    text: Option<Vec<u8>>,
}

fn read(mut from: impl Read, shown: &str) -> Result<Taken, OrchestrateError> {
    let (mut hasher, mut text, mut piece) = (blake3::Hasher::new(), Some(Vec::new()), vec![0; 64 << 10]);
    loop {
        let length = from.read(&mut piece).map_err(|source| {
            OrchestrateError::from(SourceError::Unreadable { action: "read", path: shown.to_owned(), source })
        })?;
        if length == 0 {
            return Ok(Taken { sum: hasher.finalize(), text });
        }
        hasher.update(&piece[..length]);
        match &mut text {
            Some(text) if text.len() + length <= MAX_TEXT => text.extend_from_slice(&piece[..length]),
            _ => text = None,
        }
    }
}

fn shape(entry: &Entry) -> Shape {
    let name = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { escape(name) };
    let kind = match entry.node {
        Node::Directory => "directory",
        Node::File { .. } => "file",
        Node::Symlink { .. } => "link",
        Node::Fifo => "fifo",
        Node::CharDevice { .. } | Node::BlockDevice { .. } => "device",
        Node::Socket => "socket",
        Node::Unread => "unknown",
    };
    Shape {
        kind,
        mode: format!("{:04o}", entry.mode),
        user: name(&entry.owner.user, entry.owner.uid),
        group: name(&entry.owner.group, entry.owner.gid),
        bytes: matches!(entry.node, Node::File { .. }).then(|| length(entry)),
        target: match &entry.node {
            Node::Symlink { target } => Some(escape(target)),
            _ => None,
        },
    }
}
