//! Commands that need only metadata work while no data pack can be read.

use std::fs;
use std::path::PathBuf;

use super::browse::{objects, words};
use super::{Place, assert_fails, snapshot_tree, text};

fn data_packs(place: &Place) -> Vec<PathBuf> {
    let folders = fs::read_dir(place.path().join("repo/data")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path()).collect()
}

#[test]
fn who_only_needs_metadata_never_reads_a_data_pack() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    fs::write(tree.join("new.txt"), "new").unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    place.store("db", b"some rows");
    place.store("db", b"other rows");
    place.ok(&["forget", "--keep-last", "1", "--name", "db"]);
    let ids = words(&objects(&place, "snapshot", &["snapshots", "--name", "t"]), "id");
    let commands: [&[&str]; 7] = [
        &["snapshots"],
        &["ls", "t"],
        &["find", "*.txt"],
        &["diff", &ids[0], &ids[1]],
        &["stats"],
        &["forget", "--dry-run", "--keep-last", "1"],
        &["gc", "--dry-run"],
    ];
    let answers = || commands.map(|args| text(&place.ok(&[&["--json"], args].concat()).stdout));
    let before = answers();
    for pack in data_packs(&place) {
        let len = fs::metadata(&pack).unwrap().len() as usize;
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, vec![0; len]).unwrap();
    }
    assert_eq!(answers(), before);
    // A mark that writes a tombstone as well; what has to be read is missed.
    let marked = super::summary(&place.ok(&["--json", "gc"]));
    assert!(!marked["planned"].as_array().unwrap().is_empty() && marked["waiting_until"].is_string(), "{marked}");
    assert_fails(place.run(&["cat", "db"]), 1, &["data pack"]);
}
