//! Sources and targets, with real files and real programs.

mod command;
mod elasticsearch;
mod elasticsearch_http;
mod keep;
mod neo4j;
mod patterns;
mod process;
mod queues;
mod reader;
mod recovery;
mod roundtrip;
mod scratch;
mod secret;
mod swap;
mod target;
mod walk;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cairn::format::tree::{Entry, Node};
use cairn::source::TargetError;
use cairn::source::files::{Found, Missed, Patterns, Target, Walk, WalkOptions};

fn walk(roots: &[&Path], excludes: &[&str]) -> (Vec<Found>, Vec<Missed>) {
    let roots = roots.iter().map(|root| root.to_path_buf()).collect();
    let options = WalkOptions { roots, excludes: Patterns::new(excludes).unwrap(), one_file_system: false };
    let (mut found, mut missed) = (Vec::new(), Vec::new());
    for item in Walk::new(options).unwrap() {
        match item {
            Ok(item) => found.push(item),
            Err(item) => missed.push(*item),
        }
    }
    (found, missed)
}

/// The path of a root in a tree.
fn prefix(root: &Path) -> Vec<u8> {
    root.as_os_str().as_bytes()[1..].to_vec()
}

/// The path beneath a root; `None` for its parents.
fn relative<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(root)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// A tree in memory: its entries relative to the root, complete, with the files' data.
pub fn load(root: &Path) -> Vec<(Entry, Vec<u8>)> {
    let options = WalkOptions { roots: vec![root.to_path_buf()], ..WalkOptions::default() };
    let mut loaded = Vec::new();
    for item in Walk::new(options).unwrap() {
        let mut found = item.unwrap();
        let Some(path) = relative(&found.entry.path, &prefix(root)).map(<[u8]>::to_vec) else { continue };
        found.complete().unwrap();
        let mut data = Vec::new();
        if matches!(found.entry.node, Node::File { .. }) {
            let mut reader = found.open().unwrap();
            reader.read_to_end(&mut data).unwrap();
            let state = reader.finish().unwrap();
            let Node::File { size, extents, content } = &mut found.entry.node else { panic!() };
            (*size, *extents, content.bytes) = (state.size, state.extents, data.len() as u64);
        }
        loaded.push((Entry { path, ..found.entry.clone() }, data));
    }
    loaded
}

/// What must be the same after a restore.
pub fn essence(tree: &[(Entry, Vec<u8>)]) -> Vec<(Entry, Vec<u8>)> {
    let mut groups: HashMap<(u64, u64), u64> = HashMap::new();
    tree.iter()
        .enumerate()
        .map(|(index, (entry, data))| {
            let link = entry.link_device.map(|device| *groups.entry((device, entry.inode)).or_insert(index as u64));
            (Entry { ctime: Default::default(), inode: 0, link_device: link, ..entry.clone() }, data.clone())
        })
        .collect()
}

/// Restores a loaded tree; returns all complaints.
fn restore(tree: &[(Entry, Vec<u8>)], target: &Target) -> Vec<TargetError> {
    let mut complaints = Vec::new();
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for (entry, data) in tree {
        if let Some(device) = entry.link_device {
            if let Some(path) = first.get(&(device, entry.inode)) {
                complaints.extend(target.hard_link(entry, path).err());
                continue;
            }
            first.insert((device, entry.inode), entry.path.clone());
        }
        let outcome = match entry.node {
            Node::Directory => target.directory(entry).map(|()| Vec::new()),
            Node::File { .. } => write(target, entry, data),
            _ => target.special(entry),
        };
        complaints.extend(outcome.unwrap_or_else(|error| vec![error]));
    }
    for (entry, _) in tree.iter().rev().filter(|(entry, _)| entry.node == Node::Directory) {
        complaints.extend(target.finish_directory(entry).unwrap_or_else(|error| vec![error]));
    }
    complaints
}

fn write(target: &Target, entry: &Entry, data: &[u8]) -> Result<Vec<TargetError>, TargetError> {
    let mut writer = target.begin_file(entry)?;
    writer.write_all(data).map_err(|error| error.downcast::<TargetError>().unwrap())?;
    writer.finish(entry)
}

/// A plain file's entry.
fn file(path: &str, data: &[u8]) -> Entry {
    let content =
        cairn::format::content::Content { bytes: data.len() as u64, ..cairn::format::content::Content::EMPTY };
    entry(path, Node::File { size: data.len() as u64, extents: None, content })
}

fn entry(path: &str, node: Node) -> Entry {
    let mut owner = cairn::format::tree::Owner::default();
    (owner.uid, owner.gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Entry {
        path: path.as_bytes().to_vec(),
        node,
        mode: 0o755,
        owner,
        mtime: cairn::format::tree::FileTime { seconds: 1_000_000_000, nanoseconds: 123_456_789 },
        ctime: Default::default(),
        inode: 0,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    }
}
