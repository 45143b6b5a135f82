//! Reading files: their data and not their holes, also while they change.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cairn::format::tree::{Extent, MAX_EXTENTS, Node};
use cairn::source::SourceError;
use cairn::source::files::{FileReader, Found};

use super::{prefix, walk};
use crate::support::machine::{scratch, skip};

fn find(path: &Path) -> Found {
    let (found, _) = walk(&[path], &[]);
    found.into_iter().find(|found| found.entry.path == prefix(path)).unwrap()
}

fn open(path: &Path) -> FileReader {
    find(path).open().unwrap()
}

#[test]
fn a_file_that_does_not_change_is_stable() {
    let (_dir, root) = scratch();
    for size in [0usize, 1, 100_000] {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        fs::write(root.join("f"), &data).unwrap();
        let mut reader = open(&root.join("f"));
        assert_eq!(reader.data_bytes(), size as u64);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, data);
        let state = reader.finish().unwrap();
        assert_eq!((state.size, state.extents, state.stable), (size as u64, None, true));
    }
}

#[test]
fn holes_are_not_read() {
    let (_dir, root) = scratch();
    let (path, mib) = (root.join("sparse"), 1u64 << 20);
    let file = File::create(&path).unwrap();
    file.write_all_at(&[1; 4096], 4 * mib).unwrap();
    file.write_all_at(&[2; 4096], 8 * mib).unwrap();
    file.set_len(64 * mib).unwrap();
    let mut reader = open(&path);
    if reader.data_bytes() == 64 * mib {
        return skip("this file system does not tell where holes are");
    }
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, [[1; 4096], [2; 4096]].concat());
    let state = reader.finish().unwrap();
    let extents = vec![Extent { offset: 4 * mib, len: 4096 }, Extent { offset: 8 * mib, len: 4096 }];
    assert_eq!((state.size, state.extents, state.stable), (64 * mib, Some(extents), true));
    let empty = root.join("hole");
    File::create(&empty).unwrap().set_len(mib).unwrap();
    let reader = open(&empty);
    assert_eq!(reader.data_bytes(), 0);
    let state = reader.finish().unwrap();
    assert_eq!((state.size, state.extents, state.stable), (mib, Some(Vec::new()), true));
}

#[test]
fn more_extents_than_the_format_holds_are_merged_at_the_smallest_holes() {
    let (_dir, root) = scratch();
    let (path, block) = (root.join("sparse"), 4096u64);
    let file = File::create(&path).unwrap();
    let count = MAX_EXTENTS as u64 + 500;
    // Holes of two blocks, each tenth of one block: those are merged first.
    let mut offsets = Vec::new();
    let mut at = 0;
    for index in 0..count {
        file.write_all_at(&[index as u8 | 1; 4096], at).unwrap();
        offsets.push(at);
        at += if index % 8 == 7 { 2 * block } else { 3 * block };
    }
    let mut reader = open(&path);
    if reader.data_bytes() == at || count * block == at {
        return skip("this file system does not tell where holes are");
    }
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    let state = reader.finish().unwrap();
    let extents = state.extents.unwrap();
    assert_eq!(extents.len(), MAX_EXTENTS);
    assert_eq!(read.len() as u64, count * block + 500 * block, "500 holes of one block were read");
    assert!(extents.windows(2).all(|pair| pair[0].offset + pair[0].len < pair[1].offset));
    // What was read is the file.
    let mut whole = vec![0; state.size as usize];
    let mut rest = read.as_slice();
    for extent in &extents {
        let (data, behind) = rest.split_at(extent.len as usize);
        whole[extent.offset as usize..(extent.offset + extent.len) as usize].copy_from_slice(data);
        rest = behind;
    }
    assert!(rest.is_empty() && whole == fs::read(&path).unwrap());
}

#[test]
fn a_file_that_grows_is_read_up_to_its_first_size() {
    let (_dir, root) = scratch();
    let path = root.join("log");
    fs::write(&path, [7; 1000]).unwrap();
    let mut reader = open(&path);
    let mut read = vec![0; 500];
    reader.read_exact(&mut read).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&[8; 1000]).unwrap();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, [7; 1000]);
    let state = reader.finish().unwrap();
    assert_eq!((state.size, state.stable), (1000, false));
}

#[test]
fn a_file_that_shrinks_is_read_up_to_its_end() {
    let (_dir, root) = scratch();
    let path = root.join("f");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    let mut reader = open(&path);
    reader.read_exact(&mut [0; 1000]).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 4000);
    let state = reader.finish().unwrap();
    assert_eq!((state.size, state.extents, state.stable), (5000, None, false));
}

#[test]
fn a_sparse_file_that_shrinks_keeps_extents_that_fit_what_was_read() {
    let (_dir, root) = scratch();
    let (path, mib) = (root.join("f"), 1u64 << 20);
    let file = File::create(&path).unwrap();
    for at in [0, 4 * mib, 8 * mib] {
        file.write_all_at(&[1; 8192], at).unwrap();
    }
    file.set_len(9 * mib).unwrap();
    let mut reader = open(&path);
    if reader.data_bytes() != 3 * 8192 {
        return skip("this file system does not tell where holes are");
    }
    file.set_len(4 * mib + 100).unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    let state = reader.finish().unwrap();
    let extents = vec![Extent { offset: 0, len: 8192 }, Extent { offset: 4 * mib, len: 100 }];
    assert_eq!(read.len(), 8292);
    assert_eq!((state.size, state.extents, state.stable), (4 * mib + 100, Some(extents), false));
}

#[test]
fn a_change_of_the_same_size_is_noticed() {
    let (_dir, root) = scratch();
    let path = root.join("f");
    fs::write(&path, [1; 100]).unwrap();
    let mut reader = open(&path);
    reader.read_exact(&mut [0; 50]).unwrap();
    // Clocks of file systems tick slowly.
    std::thread::sleep(std::time::Duration::from_millis(20));
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[2], 99).unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert!(!reader.finish().unwrap().stable);
}

#[test]
fn what_takes_a_files_place_is_not_read() {
    let (_dir, root) = scratch();
    let path = root.join("f");
    let replace: [&dyn Fn(); 4] = [
        &|| fs::write(&path, "another file").unwrap(),
        &|| symlink("/etc/passwd", &path).unwrap(),
        &|| rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
        &|| fs::create_dir(&path).unwrap(),
    ];
    for replace in replace {
        fs::write(&path, "first").unwrap();
        let kept = root.join("keeps the inode");
        let mut found = find(&path);
        fs::rename(&path, &kept).unwrap();
        replace();
        assert!(matches!(found.open(), Err(SourceError::Changed { .. })));
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    fs::write(&path, "first").unwrap();
    let mut found = find(&path);
    fs::remove_file(&path).unwrap();
    assert!(matches!(found.open(), Err(SourceError::Vanished { .. })));
}

#[test]
fn an_opened_files_entry_is_as_it_is_now() {
    let (_dir, root) = scratch();
    let path = root.join("f");
    fs::write(&path, "first").unwrap();
    let mut found = find(&path);
    fs::write(&path, "second, longer").unwrap();
    let mut reader = found.open().unwrap();
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "second, longer");
    assert!(reader.finish().unwrap().stable);
    assert!(matches!(found.entry.node, Node::File { size: 14, .. }));
}
