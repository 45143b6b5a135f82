//! `cairn ls`, `find` and `diff`: looking into trees without reading data packs.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::args::{DiffArgs, FindArgs, Global, LsArgs};
use crate::cli::commands::{Context, open, select_one, snapshots, tree_path};
use crate::cli::exit::{Exit, Usage};
use crate::cli::render::time;
use crate::format::codec::escape;
use crate::format::record::SnapshotKind;
use crate::format::tree::{Entry, Node, compare_paths};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::locate;
use crate::progress::{Notice, Phase};
use crate::repo::reader::TreeReader;
use crate::repo::records::DamagedSnapshot;
use crate::repo::{RepoError, Repository, SnapshotInfo, chain};
use crate::source::files::Patterns;

pub fn ls(global: &Global, args: LsArgs, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    context.interrupts.only_reading();
    let all = snapshots(&repository, context)?;
    let info = select_one(&all, &args.snap, context)?;
    if info.snapshot.kind == SnapshotKind::Stream {
        let size = info.snapshot.content.bytes;
        context.output.object("entry", json!({ "path": info.snapshot.name, "kind": "stream", "size": size }))?;
        context.output.line(&format!("stream {size:>14} {}", info.snapshot.name))?;
        context.output.summary("", json!({ "entries": 1 }))?;
        return Ok(Exit::Done);
    }
    let path = args.path.as_deref().map(tree_path).unwrap_or_default();
    let path = locate(&repository, &info.snapshot, &path)?;
    let mut tree = repository.tree(&info.snapshot.content)?;
    tree.seek(&path)?;
    let mut entries = 0u64;
    for entry in tree {
        let entry = entry?;
        if !is_at_or_below(&entry.path, &path) {
            break;
        }
        entries += 1;
        context.output.object("entry", entry_json(&entry))?;
        context.output.line(&entry_line(&entry))?;
    }
    if entries == 0 && !path.is_empty() {
        let path = format!("/{}", escape(&path));
        return Err(OrchestrateError::NoPath { snapshot: info.id.short(), path }.into());
    }
    context.output.summary("", json!({ "entries": entries }))?;
    Ok(Exit::Done)
}

pub fn find(global: &Global, args: FindArgs, context: &Context<'_>) -> Result<Exit> {
    let patterns = Patterns::new([args.glob.as_bytes()]).map_err(|error| Usage(error.to_string()))?;
    let repository = open(global, context)?;
    context.interrupts.only_reading();
    let all = snapshots(&repository, context)?;
    let mut matches = 0u64;
    let wanted = |info: &&SnapshotInfo| {
        info.snapshot.kind == SnapshotKind::Tree && args.name.as_ref().is_none_or(|name| *name == info.snapshot.name)
    };
    let mut failed = 0;
    context.monitor.begin(Phase::Search, Some(all.found.iter().filter(wanted).map(entries).sum()));
    for info in all.found.iter().filter(wanted) {
        context.monitor.item(&format!("{} {}", info.id.short(), info.snapshot.name));
        for entry in repository.tree(&info.snapshot.content)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    failed += 1;
                    let subject = format!("snapshot {}", info.id.short());
                    let message = format!("the rest of it was not searched: {}", chain(&error));
                    context.monitor.notice(Notice { subject, message });
                    break;
                }
            };
            step(context)?;
            if patterns.matches(&entry.path, matches!(entry.node, Node::Directory)) {
                matches += 1;
                let mut object = entry_json(&entry);
                object["snapshot"] = json!(info.id);
                context.output.object("match", object)?;
                let series = escape(info.snapshot.name.as_bytes());
                let line = format!("{} {series} {}", info.id.short(), entry_line(&entry));
                context.bars.suspended(|| context.output.line(&line))?;
            }
        }
    }
    context.monitor.end();
    context.output.summary(&format!("{matches} matches"), json!({ "matches": matches }))?;
    let may_fit = |damaged: &&DamagedSnapshot| {
        let named = |name: &String| damaged.name.as_ref().is_none_or(|other| other == name);
        args.name.as_ref().is_none_or(named)
    };
    let unread = all.damaged.iter().filter(may_fit).count();
    if failed + unread > 0 {
        return Err(anyhow::anyhow!("{} snapshots could not be searched; each is named above", failed + unread));
    }
    Ok(Exit::Done)
}

/// Counts an entry that was looked at.
fn step(context: &Context<'_>) -> Result<()> {
    context.monitor.advance(1);
    if context.monitor.interrupted() { Err(RepoError::Interrupted.into()) } else { Ok(()) }
}

/// How many entries a tree has, as its backup counted.
fn entries(info: &SnapshotInfo) -> u64 {
    let summary = &info.snapshot.summary;
    summary.files + summary.directories + summary.others
}

pub fn diff(global: &Global, args: DiffArgs, context: &Context<'_>) -> Result<Exit> {
    let repository = open(global, context)?;
    context.interrupts.only_reading();
    let all = snapshots(&repository, context)?;
    let (old, new) = (select_one(&all, &args.old, context)?, select_one(&all, &args.new, context)?);
    if old.snapshot.kind == SnapshotKind::Stream || new.snapshot.kind == SnapshotKind::Stream {
        let equal = old.snapshot.content == new.snapshot.content;
        let word = if equal { "equal" } else { "different" };
        context.output.line(&format!("the contents are {word}"))?;
        context.output.summary("", json!({ "equal": equal }))?;
        return Ok(Exit::Done);
    }
    let counts = diff_trees(&repository, old, new, context)?;
    let [added, removed, changed] = counts;
    let sentence = format!("{added} added, {removed} removed, {changed} changed");
    context.output.summary(&sentence, json!({ "added": added, "removed": removed, "changed": changed }))?;
    Ok(Exit::Done)
}

fn diff_trees(
    repository: &Repository,
    old: &SnapshotInfo,
    new: &SnapshotInfo,
    context: &Context<'_>,
) -> Result<[u64; 3]> {
    context.monitor.begin(Phase::Compare, Some(entries(old).max(entries(new))));
    let mut old = repository.tree(&old.snapshot.content)?;
    let mut new = repository.tree(&new.snapshot.content)?;
    let (mut a, mut b) = (next(&mut old)?, next(&mut new)?);
    let mut counts = [0; 3];
    let mut say = |sign: char, index: usize, change: &str, path: &[u8]| {
        counts[index] += 1;
        context.output.object("difference", json!({ "change": change, "path": format!("/{}", escape(path)) }))?;
        context.bars.suspended(|| context.output.line(&format!("{sign} /{}", escape(path))))
    };
    loop {
        step(context)?;
        let order = match (&a, &b) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare_paths(&a.path, &b.path),
        };
        match (order, &a, &b) {
            (Ordering::Less, Some(entry), _) => {
                say('-', 1, "removed", &entry.path)?;
                a = next(&mut old)?;
            }
            (Ordering::Greater, _, Some(entry)) => {
                say('+', 0, "added", &entry.path)?;
                b = next(&mut new)?;
            }
            (_, Some(before), Some(after)) => {
                if differs(before, after) {
                    say('M', 2, "changed", &after.path)?;
                }
                (a, b) = (next(&mut old)?, next(&mut new)?);
            }
            _ => break,
        }
    }
    context.monitor.end();
    Ok(counts)
}

fn next(tree: &mut TreeReader) -> Result<Option<Entry>> {
    Ok(tree.next_entry()?)
}

/// Whether anything that a restore would bring back differs. A directory's time says only that its entries changed.
fn differs(a: &Entry, b: &Entry) -> bool {
    let is_directory = matches!(a.node, Node::Directory);
    let same = a.node == b.node
        && a.mode == b.mode
        && (a.owner.uid, a.owner.gid) == (b.owner.uid, b.owner.gid)
        && a.xattrs == b.xattrs;
    !same || (!is_directory && a.mtime != b.mtime)
}

fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn kind(node: &Node) -> (char, &'static str) {
    match node {
        Node::Directory => ('d', "directory"),
        Node::File { .. } => ('-', "file"),
        Node::Symlink { .. } => ('l', "symlink"),
        Node::Fifo => ('p', "fifo"),
        Node::CharDevice { .. } => ('c', "character device"),
        Node::BlockDevice { .. } => ('b', "block device"),
        Node::Socket => ('s', "socket"),
        Node::Unread => ('?', "unread"),
    }
}

fn modified(entry: &Entry) -> Option<Timestamp> {
    Timestamp::new(entry.mtime.seconds, entry.mtime.nanoseconds as i32).ok()
}

fn size(entry: &Entry) -> u64 {
    match entry.node {
        Node::File { size, .. } => size,
        _ => 0,
    }
}

fn entry_json(entry: &Entry) -> Value {
    let mut object = json!({
        "path": format!("/{}", escape(&entry.path)),
        "kind": kind(&entry.node).1,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.owner.uid,
        "gid": entry.owner.gid,
        "user": escape(&entry.owner.user),
        "group": escape(&entry.owner.group),
        "size": size(entry),
        "mtime": modified(entry),
    });
    if let Node::Symlink { target } = &entry.node {
        object["target"] = json!(escape(target));
    }
    object
}

fn entry_line(entry: &Entry) -> String {
    let name = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { escape(name) };
    let arrow = match &entry.node {
        Node::Symlink { target } => format!(" -> {}", escape(target)),
        _ => String::new(),
    };
    format!(
        "{}{:04o} {:>8} {:>8} {:>12} {} /{}{arrow}",
        kind(&entry.node).0,
        entry.mode,
        name(&entry.owner.user, entry.owner.uid),
        name(&entry.owner.group, entry.owner.gid),
        size(entry),
        modified(entry).map_or_else(|| "-".to_owned(), time),
        escape(&entry.path),
    )
}
