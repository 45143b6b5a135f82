//! Stop after every single change to storage: every published snapshot restores, the repository is sound, and work goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cairn::backend::{Backend, BackendError};
use cairn::format::ObjectId;
use cairn::progress::Silent;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::{RepoError, Repository};

use crate::support::memory::Memory;
use crate::support::nth::{ChangeFault, NthChange};
use crate::support::{assert_sound, fork, init, load, next_day, open, open_with, options, rows, store};

const NOW: GcOptions = GcOptions { grace: Some(Duration::ZERO), dry_run: false };

fn days() -> Vec<Vec<u8>> {
    let mut days = vec![rows(1, 2500)];
    for day in 2..6 {
        days.push(next_day(&days[days.len() - 1], day));
    }
    days
}

/// Backs up every day, forgets the first three, and collects garbage. Notes each published snapshot.
fn scenario(backend: &Arc<dyn Backend>, published: &mut HashMap<ObjectId, usize>) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| cairn::repo::chain(error);
    let repository = open_with(backend, None).map_err(|error| text(&error))?;
    for (day, bytes) in days().iter().enumerate() {
        let outcome = store(&repository, "dump", bytes).map_err(|error| text(&error))?;
        published.insert(outcome.id.unwrap(), day);
    }
    let old: Vec<(ObjectId, String)> = repository.snapshots().map_err(|error| text(&error))?[..3]
        .iter()
        .map(|info| (info.id, "old".to_owned()))
        .collect();
    for (id, _) in &old {
        published.remove(id);
    }
    repository.forget(&old).map_err(|error| text(&error))?;
    gc::run(&repository, &NOW, &Silent).map_err(|error| text(&error))?;
    Ok(())
}

fn assert_all_there(repository: &Repository, published: &HashMap<ObjectId, usize>) {
    let days = days();
    for (id, day) in published {
        assert!(load(repository, id).unwrap() == days[*day], "day {day} came back different");
    }
}

fn after(inner: Arc<Memory>, published: &HashMap<ObjectId, usize>) {
    // The process that "died" is this one and lives on, so its leases end only with their lifetime.
    inner.advance_clock(8 * 24 * 3600);
    let backend: Arc<dyn Backend> = inner;
    let repository = open(&backend);
    assert_all_there(&repository, published);
    assert_sound(&repository);
    let bytes = next_day(&days()[4], 77);
    let id = store(&repository, "dump", &bytes).unwrap().id.unwrap();
    gc::run(&repository, &NOW, &Silent).unwrap();
    let repository = open(&backend);
    assert_eq!(load(&repository, &id).unwrap(), bytes);
    assert_all_there(&repository, published);
    assert_sound(&repository);
}

#[test]
fn every_published_snapshot_survives_a_crash_after_any_change() {
    let start = Memory::new();
    init(start.as_ref());
    let counting = Arc::new(NthChange::new(fork(&start), ChangeFault::None));
    scenario(&(counting.clone() as Arc<dyn Backend>), &mut HashMap::new()).unwrap();
    let changes = counting.changes();
    assert!(changes > 30, "the scenario changes storage {changes} times only");
    for at in 0..changes {
        let inner = fork(&start);
        let backend: Arc<dyn Backend> = Arc::new(NthChange::new(inner.clone(), ChangeFault::Crash(at)));
        let mut published = HashMap::new();
        // Work may end quietly when only a lease's removal was lost.
        let _ = scenario(&backend, &mut published);
        after(fork(&inner), &published);
        // Not the process but the machine died: what was not synced is gone.
        after(Memory::with_state(inner.snapshot().after_power_loss()), &published);
    }
}

#[test]
fn errors_and_lost_acknowledgements_lose_nothing() {
    let start = Memory::new();
    init(start.as_ref());
    for fault in [ChangeFault::Fail, ChangeFault::Full, ChangeFault::LostAcknowledgement] {
        for at in [0, 1, 2, 3, 5, 8, 13, 21, 34, 41, 47, 53] {
            let inner = fork(&start);
            let backend: Arc<dyn Backend> = Arc::new(NthChange::new(inner.clone(), fault(at)));
            let mut published = HashMap::new();
            let _ = scenario(&backend, &mut published);
            // Forgetting may have been done although it was not acknowledged.
            let there: Vec<ObjectId> =
                open(&(fork(&inner) as Arc<dyn Backend>)).snapshots().unwrap().iter().map(|info| info.id).collect();
            assert!(published.keys().all(|id| there.contains(id)), "{:?}: a published snapshot is gone", fault(at));
            after(fork(&inner), &published);
        }
    }
}

/// Borg issue 9854: a full repository was taken for an unreadable source, and the backup "succeeded".
#[test]
fn a_full_repository_is_not_an_unread_source() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..20u64 {
        std::fs::write(source.path().join(format!("{number}")), rows(number, 300)).unwrap();
    }
    let start = Memory::new();
    init(start.as_ref());
    for at in 1..4 {
        let inner = fork(&start);
        let backend: Arc<dyn Backend> = Arc::new(NthChange::new(inner.clone(), ChangeFault::Full(at)));
        let repository = open(&backend);
        let tree =
            cairn::orchestrate::backup::TreeOptions { roots: vec![source.path().to_owned()], ..Default::default() };
        let error = cairn::orchestrate::backup::tree(&repository, tree, &options("tree"), &Silent).unwrap_err();
        let full =
            matches!(&error, cairn::orchestrate::OrchestrateError::Repo(RepoError::Backend(BackendError::Full { .. })));
        assert!(full, "change {at}: {error:?}");
        assert!(open(&(inner as Arc<dyn Backend>)).snapshots().unwrap().is_empty(), "something was published");
    }
}
