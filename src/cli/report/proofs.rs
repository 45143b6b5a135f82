//! What drills have found of a set, component by component: what was compared, when, by whom, in which servers, how long it
//! took; or what was not equal.
//!
//! Invariant: a component of which no drill says anything is shown as just that.

use super::{Page, duration};
use crate::cli::render::time;
use crate::format::set::{BackupSet, Component, Status};
use crate::repo::proven::{ComponentProof, Difference, SetProof};

/// What drills have found of a component.
pub struct Row<'s> {
    /// Its name.
    pub component: &'s str,
    /// In a word.
    pub state: &'static str,
    /// When, and on which machine with which program.
    pub when: String,
    /// What was compared, or what was not equal.
    pub found: String,
    /// The servers that it was restored into.
    pub servers: String,
    /// How long restoring and comparing took.
    pub took: String,
}

/// Of each component that the set holds complete.
pub fn rows<'s>(set: &'s BackupSet, proof: Option<&SetProof>) -> Vec<Row<'s>> {
    let complete = set.components.iter().filter(|one| one.status == Status::Complete);
    let row = |one: &'s Component| {
        let proven = proof.and_then(|proof| proof.components.get(&one.name));
        let different = proof.and_then(|proof| proof.different.get(&one.name));
        match (different, proven) {
            (Some(found), _) => differs(&one.name, found),
            (None, Some(found)) => equal(&one.name, found),
            (None, None) => Row {
                component: &one.name,
                state: "unproven",
                when: String::new(),
                found: "no drill has looked at it".to_owned(),
                servers: String::new(),
                took: String::new(),
            },
        }
    };
    complete.map(row).collect()
}

fn equal<'s>(component: &'s str, found: &ComponentProof) -> Row<'s> {
    let (restored, compared) = (duration(found.restore_milliseconds), duration(found.compare_milliseconds));
    Row {
        component,
        state: "proven",
        when: format!("{}, on {} with {}", time(found.time), found.host, found.program),
        found: found.compared.clone(),
        servers: servers(found.versions.iter()),
        took: format!("{restored} + {compared}"),
    }
}

fn differs<'s>(component: &'s str, found: &Difference) -> Row<'s> {
    Row {
        component,
        state: found.word(),
        when: format!("{}, on {} with {}", time(found.time), found.host, found.program),
        found: found.differences.join("\n"),
        servers: servers(found.versions.iter()),
        took: String::new(),
    }
}

fn servers<'v>(versions: impl Iterator<Item = (&'v String, &'v String)>) -> String {
    versions.map(|(program, version)| format!("{program} {version}")).collect::<Vec<_>>().join(", ")
}

/// Since when the set is proven, or why it is not, in a few words.
pub fn since(proof: Option<&SetProof>) -> String {
    let Some(proof) = proof else { return "never".to_owned() };
    match (proof.last_different(), proof.proven) {
        (Some(found), _) => format!("no: {} {}", found.word(), time(found.time)),
        (None, Some(since)) => format!("{}, in {}", time(since), duration(proof.milliseconds())),
        (None, None) => "in part".to_owned(),
    }
}

/// Writes the table; nothing if no drill says anything of the set.
pub fn write(page: &mut Page, set: &BackupSet, proof: Option<&SetProof>) {
    if proof.is_none() {
        return;
    }
    page.raw("<h2>Drills</h2>\n");
    page.table(&["Component", "State", "Found", "When", "#Took"], |page| {
        for row in rows(set, proof) {
            let lines = [row.found.as_str(), &row.servers].into_iter().filter(|line| !line.is_empty());
            page.row(&[
                ("Component", row.component),
                ("State", row.state),
                ("Found", &lines.collect::<Vec<_>>().join("\n")),
                ("When", &row.when),
                ("#Took", &row.took),
            ]);
        }
    });
}
