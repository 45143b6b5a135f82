//! The journal of a run: one line of JSON an entry, each durable before what it announces is begun.
//!
//! Invariant: whatever a run has changed, an entry with its undoing was durable before. A crash can cut the last line;
//! what it announced was not begun then, because its writing had not returned. Every other line that cannot be read is
//! damage: it is told, and what the readable lines name is undone all the same, since a platform that is down matters
//! more than a tidy journal.
//!
//! The header carries the profile, so that `resume` needs neither the profile's file nor the repository.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::format::codec::escape_path;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::state::{JournalFile, StateDir};
use crate::source::files::keep::Kept;
use crate::source::files::swap::Swap;

/// How something is undone. Each is idempotent: done twice, it changes nothing the second time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Undo {
    /// Start these units, in this order: they were running before.
    StartUnits {
        /// The units.
        units: Vec<String>,
        /// Units that were down before and stay down, also if systemd starts them along with those (`Wants=`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        down: Vec<String>,
    },
    /// Put back elements that were taken out of queues: each queue, and the key that they were moved to.
    MergeQueues {
        /// Pairs of queue and key.
        queues: Vec<(String, String)>,
    },
    /// Put an edited file back as it was, and restart the unit that reads it.
    RestoreFile {
        /// The file.
        path: String,
        /// The copy of what it was.
        copy: String,
        /// The unit.
        unit: String,
    },
    /// End a snapshot of Elasticsearch that is still being taken, and delete it unless it is whole.
    DeleteUnfinishedSnapshot {
        /// Its name.
        name: String,
    },
    /// Let Elasticsearch write to its snapshot repository again.
    MakeRepositoryWritable,
    /// Remove replacements that did not come into their places.
    DiscardStaged {
        /// The replacements.
        swaps: Vec<Swap>,
    },
    /// Put back what was moved aside, and remove what took its place.
    TakeBack {
        /// The exchanges, in the order in which they were made.
        swaps: Vec<Swap>,
        /// The unit that works there.
        unit: String,
        /// Whether it ran before.
        start: bool,
    },
    /// Put back files that were written over.
    PutBackFiles {
        /// Where they are.
        kept: Kept,
    },
    /// Take away a registration that was made for a restore, and its directory.
    ForgetRepository {
        /// Its name.
        name: String,
        /// The directory.
        directory: String,
    },
    /// End the servers that work in a directory of a drill, and remove it.
    EndScratch {
        /// The directory.
        directory: String,
    },
    /// Delete indices that a restore has made, and bring back those that it has replaced.
    PutBackIndices {
        /// Those that were not there before.
        made: Vec<String>,
        /// The snapshot of those that were, in the platform's own repository.
        snapshot: Option<String>,
        /// Those.
        replaced: Vec<String>,
        /// Of those the ones that were closed.
        #[serde(default)]
        closed: Vec<String>,
    },
}

impl Undo {
    /// True for what is done at the end of every run, also one that went well; the others only undo a failed one.
    pub fn belongs_to_every_end(&self) -> bool {
        matches!(
            self,
            Undo::StartUnits { .. }
                | Undo::MakeRepositoryWritable
                | Undo::DiscardStaged { .. }
                | Undo::ForgetRepository { .. }
                | Undo::EndScratch { .. }
        )
    }
}

/// What a run says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The journal's version; 1.
    pub version: u32,
    /// `backup`.
    pub operation: String,
    /// When it began.
    pub time: Timestamp,
    /// The profile, whole, as TOML. It names files with secrets and holds none.
    pub profile: String,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    /// The first.
    Run(Header),
    /// A step is about to begin.
    Begin {
        /// The step.
        step: String,
        /// What it does, for people.
        title: String,
        /// When.
        time: Timestamp,
        /// What will have to be undone; none when it changes nothing.
        undo: Option<Undo>,
    },
    /// A step has ended well.
    Done {
        /// The step.
        step: String,
        /// When.
        time: Timestamp,
    },
    /// A step has been undone, or needs no undoing any more.
    Undone {
        /// The step.
        step: String,
        /// When.
        time: Timestamp,
    },
    /// All that a stop on purpose had to stop is stopped, and shall stay so.
    AtRest {
        /// When.
        time: Timestamp,
    },
}

/// A step whose undoing is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The step.
    pub step: String,
    /// What it does, for people.
    pub title: String,
    /// How it is undone.
    pub undo: Undo,
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    state: StateDir,
    file: JournalFile,
}

impl Journal {
    /// Begins a journal. An unfinished one is an error: what it stopped has to be started first.
    pub fn create(state: &StateDir, header: Header) -> Result<Self, OrchestrateError> {
        if let Some(found) = Found::read(state)? {
            let journal = escape_path(&state.journal());
            if found.at_rest {
                return Err(OrchestrateError::AtRest { journal });
            }
            if found.is_cut_off() {
                return Err(OrchestrateError::Unfinished { journal });
            }
            state.retire_journal()?;
        }
        let mut journal = Journal { state: state.clone(), file: state.create_journal()? };
        journal.append(&Entry::Run(header))?;
        Ok(journal)
    }

    /// Adds an entry and makes it durable.
    pub fn append(&mut self, entry: &Entry) -> Result<(), OrchestrateError> {
        let mut line = serde_json::to_vec(entry).map_err(|error| self.state.failed_journal(error.into()))?;
        line.push(b'\n');
        self.file.append(&line).map_err(|source| self.state.failed_journal(source))
    }

    /// Ends the journal. To be called when nothing is due any more.
    pub fn finish(self) -> Result<(), OrchestrateError> {
        self.state.retire_journal()
    }
}

/// A journal that was found.
#[derive(Debug)]
pub struct Found {
    /// What its run says of itself; none when the crash came before that was written.
    pub header: Option<Header>,
    /// What is to be undone, in this order.
    pub due: Vec<Due>,
    /// Whether what is due was stopped on purpose, and nobody has begun to start it again.
    pub at_rest: bool,
    /// Lines that cannot be read.
    pub damaged: usize,
    /// Bytes up to the end of the last whole line.
    whole: u64,
}

impl Found {
    /// Reads the journal in a state directory; `None` when there is none.
    pub fn read(state: &StateDir) -> Result<Option<Found>, OrchestrateError> {
        Ok(state.read_journal()?.map(|bytes| Found::parse(&bytes)))
    }

    /// Reads a journal's bytes, whatever they are.
    pub fn parse(bytes: &[u8]) -> Found {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut found = Found { header: None, due: Vec::new(), at_rest: false, damaged: 0, whole: whole as u64 };
        let mut undone = BTreeSet::new();
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Entry::Run(header)) => found.header = Some(header),
                Ok(Entry::Begin { step, title, undo: Some(undo), .. }) => found.due.push(Due { step, title, undo }),
                Ok(Entry::Undone { step, .. }) => {
                    undone.insert(step);
                    found.at_rest = false;
                }
                Ok(Entry::AtRest { .. }) => found.at_rest = true,
                Ok(Entry::Begin { .. } | Entry::Done { .. }) => {}
                Err(_) => found.damaged += 1,
            }
        }
        found.due.retain(|due| !undone.contains(&due.step));
        found.due.reverse();
        found
    }

    /// Whether something is left to undo, or nobody knows what is, and not because it was stopped on purpose.
    pub fn is_cut_off(&self) -> bool {
        !self.at_rest && (!self.due.is_empty() || self.damaged > 0)
    }

    /// Goes on writing the journal that was found.
    pub fn resume(&self, state: &StateDir) -> Result<Journal, OrchestrateError> {
        Ok(Journal { state: state.clone(), file: state.open_journal(self.whole)? })
    }
}
