//! What things cost: which objects a command reads, and how little a small change stores.

use std::sync::Arc;

use cairn::backend::Backend;
use cairn::format::Kind;
use cairn::format::record::SnapshotKind;
use cairn::orchestrate::backup::{self, TreeOptions};
use cairn::progress::Silent;
use cairn::repo::gc::{self, GcOptions};
use cairn::repo::writer::group::BASE_WORK_KIB;
use cairn::repo::{Repository, SnapshotInfo};

use crate::support::faulty::Operation;
use crate::support::memory::Memory;
use crate::support::recording::Recording;
use crate::support::{init, noise, open_with, options, rows, store};

struct World {
    recording: Arc<Recording>,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let memory = Memory::new();
        init(memory.as_ref());
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        World { recording: Recording::new(memory), directory }
    }

    /// With the cache of this machine.
    fn open(&self) -> Repository {
        let backend: Arc<dyn Backend> = self.recording.clone();
        open_with(&backend, Some(self.directory.path().join("cache"))).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.directory.path().join("tree").join(name), bytes).unwrap();
    }

    /// Saves the tree; new raw bytes, and bytes written to data packs.
    fn save_tree(&self) -> (u64, u64) {
        self.save_tree_with(None)
    }

    /// The same, with bases that cost a reader at most so much.
    fn save_tree_with(&self, max_base_work_kib: Option<u32>) -> (u64, u64) {
        let repository = self.open();
        self.recording.take();
        let roots = vec![self.directory.path().join("tree")];
        let tree = TreeOptions { roots, max_base_work_kib, ..TreeOptions::default() };
        let outcome = backup::tree(&repository, tree, &options("tree"), &Silent).unwrap();
        (outcome.summary.new_bytes, self.recording.tally(Operation::Write, Kind::DataPack).amount)
    }

    /// Bytes written to packs by saving a stream: data, and metadata.
    fn save_stream(&self, bytes: &[u8]) -> (u64, u64) {
        let repository = self.open();
        self.recording.take();
        store(&repository, "stream", bytes).unwrap();
        let written = |kind| self.recording.tally(Operation::Write, kind).amount;
        (written(Kind::DataPack), written(Kind::MetaPack))
    }
}

#[test]
fn an_unchanged_region_of_a_changed_stream_shares_its_list_nodes() {
    let world = World::new();
    let mut stream = rows(1, 60_000);
    let (_, whole) = world.save_stream(&stream);
    let repository = world.open();
    let snapshots = repository.snapshots().unwrap();
    assert!(snapshots[0].snapshot.content.levels >= 2, "{:?}", snapshots[0].snapshot.content);
    assert!(whole > 20_000, "the list of the whole stream takes {whole} bytes only");
    let middle = stream.len() / 2;
    stream[middle..middle + 9].copy_from_slice(b"something");
    let (data, metadata) = world.save_stream(&stream);
    assert!(metadata > 0 && metadata < whole / 4, "{metadata} bytes of metadata, of {whole} for the whole stream");
    assert!(data < 2000, "{data} bytes for one changed row");
    // What is inserted moves everything after it, and the cuts between nodes with it.
    stream.splice(middle / 2..middle / 2, rows(9, 400));
    let (_, metadata) = world.save_stream(&stream);
    assert!(metadata > 0 && metadata < whole / 4, "{metadata} bytes of metadata, of {whole} for the whole stream");
}

#[test]
fn a_file_of_a_tree_that_changed_in_one_row_is_stored_as_a_difference_to_the_same_path() {
    let world = World::new();
    // Every file has its own bytes, and none of them shrink: what is stored shows what was not a difference.
    for number in 0..8 {
        world.write(&number.to_string(), &noise(&number.to_string(), 300_000));
    }
    let (new, stored) = world.save_tree();
    assert!(new >= 2_400_000 && stored >= 2_400_000, "{new} new, {stored} stored");
    let mut changed = noise("5", 300_000);
    changed[150_000..150_009].copy_from_slice(b"something");
    world.write("5", &changed);
    // What this machine remembers of similar chunks is gone, so only the parent's path can tell what to compare with.
    std::fs::remove_dir_all(world.directory.path().join("cache")).unwrap();
    let (new, stored) = world.save_tree();
    assert!((1..20_000).contains(&new), "{new} new bytes: the unchanged chunks of the file are there");
    assert!(stored < 1000, "{stored} bytes stored for nine that changed");
}

#[test]
fn a_tree_that_asks_for_bases_of_little_work_gets_no_others() {
    // Each version is a difference to the one before: its bases cost 293 KiB more than those did, so those of the third would
    // cost too much.
    for limit in [None, Some(700)] {
        let world = World::new();
        let mut content = noise("one", 300_000);
        let mut most = 0;
        for version in 0..8 {
            content[150_000 + version] = b'!';
            content[150_100 + version] ^= 0xFF;
            world.write("file", &content);
            // Without what this machine remembers of similar chunks only the version before serves as base.
            let cache = world.directory.path().join("cache");
            let _ = std::fs::remove_dir_all(&cache);
            world.save_tree_with(limit);
            most = base_work_kib(&cache).max(most);
        }
        let as_expected = if limit.is_some() { (290..=700).contains(&most) } else { most > 1500 };
        assert!(as_expected, "{limit:?}: bases cost {most} KiB");
    }
}

/// What the bases of a frame cost at most, as the index of this cache has it of frames that its writer made.
fn base_work_kib(cache: &std::path::Path) -> u32 {
    let folder = std::fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let index = rusqlite::Connection::open(folder.join("index-1.sqlite")).unwrap();
    index.query_row("SELECT max(work) FROM frame", [], |row| row.get(0)).unwrap()
}

/// Pages of 4 KiB, each changed a little and all in another order, so that what a frame resembles lies in many others.
fn scattered(before: &[u8], version: u64) -> Vec<u8> {
    let mut pages: Vec<Vec<u8>> = before.chunks(4096).map(<[u8]>::to_vec).collect();
    let mut state = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for at in (1..pages.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pages.swap(at, (state % (at as u64 + 1)) as usize);
        let changed = pages[at].len() / 2;
        pages[at][changed] ^= version as u8 | 1;
    }
    pages.concat()
}

/// The sixth of six base backups took twenty times as long to restore as the first: each frame had bases in many others, and
/// those had too. One that could not be kept in memory took minutes.
#[test]
fn changes_all_over_made_each_level_of_deltas_multiply_what_a_restore_decodes() {
    let world = World::new();
    let mut bytes = noise("pages", 12 << 20);
    let (first, _) = world.save_stream(&bytes);
    let mut smaller = 0;
    for version in 1..=6 {
        bytes = scattered(&bytes, version);
        smaller += usize::from(world.save_stream(&bytes).0 < first / 2);
    }
    assert!(smaller >= 2, "only {smaller} of six versions were stored as deltas");
    let works = |repository: &Repository| {
        let packs = repository.index().packs().unwrap();
        let frames = packs.iter().flat_map(|pack| repository.index().frames_of_pack(pack.no).unwrap());
        let works = frames.map(|frame| {
            let bases = (frame.entry.depth, frame.entry.bases.clone());
            (frame.entry.chunks[0].id, bases, repository.index().work_kib(&Arc::new(frame)).unwrap())
        });
        let mut works: Vec<_> = works.collect();
        works.sort_by_key(|(id, ..)| *id);
        works
    };
    let noted = works(&world.open());
    let deepest = noted.iter().map(|(_, (depth, _), _)| *depth).max().unwrap();
    let most = noted.iter().map(|(.., work)| *work).max().unwrap();
    assert!(deepest >= 2 && most > BASE_WORK_KIB / 4, "depth {deepest} and {most} KiB: nothing was at stake");
    assert!(most <= BASE_WORK_KIB + (8 << 10), "reading one frame costs {most} KiB");
    // Another machine works out what this one noted.
    std::fs::remove_dir_all(world.directory.path().join("cache")).unwrap();
    assert!(works(&world.open()) == noted, "what was noted is not what follows from the packs");
}

#[test]
fn who_only_needs_metadata_never_reads_a_data_pack() {
    let world = World::new();
    for number in 0..20 {
        world.write(&number.to_string(), &rows(number, 100));
    }
    world.save_tree();
    world.save_stream(&rows(1, 3000));
    world.write("3", &rows(70, 90));
    world.write("new", &rows(71, 90));
    world.save_tree();
    world.save_stream(&rows(2, 3000));
    let first = world.open().snapshots().unwrap()[1].id;
    world.open().forget(&[(first, "a test".to_owned())]).unwrap();
    let entries =
        |repository: &Repository, info: &SnapshotInfo| repository.tree(&info.snapshot.content).unwrap().count();
    let trees = |repository: &Repository| {
        let all = repository.readable_snapshots().unwrap();
        all.found.into_iter().filter(|info| info.snapshot.kind == SnapshotKind::Tree).collect::<Vec<_>>()
    };
    let without_data = |what: &str, operation: &dyn Fn(&Repository)| {
        world.recording.take();
        operation(&world.open());
        let read = world.recording.tally(Operation::Read, Kind::DataPack);
        assert_eq!(read.calls, 0, "{what} read {} bytes of data packs", read.amount);
        world.recording.tally(Operation::Read, Kind::MetaPack).amount
    };
    without_data("listing snapshots", &|repository| {
        assert_eq!(repository.readable_snapshots().unwrap().found.len(), 3)
    });
    let read = without_data("walking trees, as ls, find and diff do", &|repository| {
        for info in trees(repository) {
            assert!(entries(repository, &info) >= 20);
        }
    });
    assert!(read > 0, "nothing was read at all");
    let read = without_data("a mark", &|repository| {
        let hour = GcOptions { grace: Some(std::time::Duration::from_secs(3600)), dry_run: false };
        let report = gc::run(repository, &hour, &Silent).unwrap();
        assert!(report.waiting_until.is_some() && !report.planned.is_empty(), "{report:?}");
    });
    assert!(read > 0, "nothing was read at all");
}
