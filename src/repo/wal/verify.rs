//! Checking the log: every head, and with `--read-data` every byte.

use crate::progress::{Monitor, Phase};
use crate::repo::check::{CheckOptions, CheckReport, Problem};
use crate::repo::error::RepoError;
use crate::repo::wal::Archive;
use crate::repo::{Repository, chain};

impl Repository {
    /// Adds to a report what is wrong with the archive of PostgreSQL's log.
    pub(in crate::repo) fn check_log(
        &self,
        options: &CheckOptions,
        report: &mut CheckReport,
        monitor: &dyn Monitor,
    ) -> Result<(), RepoError> {
        let archive = Archive::of(self);
        let catalog = archive.catalog()?;
        report.log_files = (catalog.files.len() + catalog.damaged.len()) as u64;
        for damaged in &catalog.damaged {
            let subject = format!("{} {}", damaged.kind, damaged.id);
            report.problems.push(Problem { subject, message: damaged.message() });
        }
        let Some(percent) = options.read_data_percent else { return Ok(()) };
        let mut heads: Vec<_> = catalog.files.values().collect();
        if percent < 100.0 {
            let wanted = (heads.len() as f64 * percent / 100.0).ceil() as usize;
            let mut keyed = Vec::new();
            for head in heads {
                keyed.push((crate::format::crypto::random::<8>()?, head));
            }
            keyed.sort_by_key(|(key, _)| *key);
            heads = keyed.into_iter().take(wanted).map(|(_, head)| head).collect();
        }
        monitor.begin(Phase::ReadData, Some(heads.iter().map(|head| head.stored_len()).sum()));
        for head in heads {
            if monitor.interrupted() {
                return Err(RepoError::Interrupted);
            }
            match archive.fetch(&head.file(), &mut |_| Ok::<(), RepoError>(())) {
                Ok(Some(_)) => report.bytes_read += head.raw_len,
                // Removed meanwhile.
                Ok(None) => {}
                Err(error) => {
                    let subject = format!("{} of cluster {} ({})", head.name, head.system_id, head.id(self.keys()));
                    report.problems.push(Problem { subject, message: chain(&error) });
                }
            }
            report.log_files_read += 1;
            monitor.advance(head.stored_len());
        }
        monitor.end();
        Ok(())
    }
}
