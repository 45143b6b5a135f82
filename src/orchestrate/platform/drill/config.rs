//! Configuration and keys: all of it written, read back and compared; and the keys that configuration names are in it.

use std::path::Path;

use crate::format::codec::escape;
use crate::format::set::{Component, Facts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::exists;
use crate::orchestrate::platform::drill::bench::{Bench, Finding};
use crate::orchestrate::platform::drill::plan::{COMPARE_CONFIG, RESTORE_CONFIG};
use crate::orchestrate::platform::restore::plan::part;
use crate::orchestrate::platform::restore::trees;
use crate::orchestrate::platform::store::Role;

pub fn drill(bench: &Bench<'_>, held: &Component) -> Result<Finding, OrchestrateError> {
    let stored = part(&held.parts, Role::TREE)?;
    let directory = bench.scratch().directory("config", None)?;
    let report = bench.executor.step(RESTORE_CONFIG, None, || {
        let report = bench.write(RESTORE_CONFIG, stored, Path::new("/"), &directory.join("tree"))?;
        Ok((format!("{} files, {} bytes", report.files, report.bytes), report))
    })?;
    bench.compare(COMPARE_CONFIG, || {
        let mut differences = Vec::new();
        let mut keys = 0;
        if let Some(Facts::Config(facts)) = &held.facts {
            let info = bench.snapshot(stored)?;
            for key in facts.keys.iter().filter(|key| key.present) {
                keys += 1;
                if !exists(bench.order.repository, &info.snapshot, trees::inner(&trees::path(&key.path)))? {
                    differences.push(format!("the key file {} was there, and is not in the set", escape(&key.path.0)));
                }
            }
        }
        let files = report.verified_files;
        Ok(Finding::of(
            format!("{files} files read back and equal, among them {keys} keys that were there"),
            differences,
        ))
    })
}
