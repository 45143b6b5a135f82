//! Memory of the real program, as the kernel saw its peak: bounded, and the same for a stream or a tree several times as
//! large.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use cairn::format::wal::SegmentName;

use super::Place;
use crate::support::machine::has_program_or_skip;
use crate::wal::{CLUSTER, control_file, segment};

const MIB: u64 = 1 << 20;
/// What the README promises.
const LIMIT: u64 = 200 * MIB;
/// How much of a difference is chance: threads, and how an allocator keeps what was freed. A large stream is 300 MiB
/// longer than a small one, so memory that grew with it would be far beyond; a large tree has 15,000 files more.
const CHANCE_OF_A_STREAM: u64 = 64 * MIB;
const CHANCE_OF_A_TREE: u64 = 24 * MIB;
/// A large segment has blocks of 2 MiB instead of one, a few of them in several copies, and 240 MiB more.
const CHANCE_OF_A_SEGMENT: u64 = 48 * MIB;

/// Runs a program on two processors, whatever the machine has, since there are as many workers as processors; and writes
/// its peak into a file. The standard library has no wait4.
const MEASURE: &str = r#"
import os, sys
pid = os.fork()
if pid == 0:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss * 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// Peak of the program in bytes. `input` is written to its standard input; what it prints goes nowhere.
fn peak(place: &Place, args: &[&str], input: impl FnOnce(&mut dyn Write)) -> u64 {
    let (program, file) = (place.command(), place.path().join("peak"));
    let mut command = Command::new("python3");
    command.args(["-c", MEASURE]).arg(&file).arg(program.get_program()).args(program.get_args()).args(args);
    // What is freed goes back at once: how a heap of many threads looks like is chance, and no promise of the program.
    command.env_clear().env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072");
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    input(&mut child.stdin.take().unwrap());
    assert!(child.wait().unwrap().success());
    fs::read_to_string(file).unwrap().parse().unwrap()
}

fn nothing(_: &mut dyn Write) {}

/// A dump of a table: rows that are all different, and of which a later day has a few others.
fn write_dump(output: &mut dyn Write, bytes: u64, day: u64) {
    let mut state = 7u64;
    let mut block = Vec::with_capacity(1 << 16);
    let (mut written, mut row) = (0, 0u64);
    while written < bytes {
        block.clear();
        while block.len() < 60_000 {
            row += 1;
            block.extend_from_slice(row.to_string().as_bytes());
            block.extend_from_slice(b"\tindicator--");
            let changed = if row.is_multiple_of(1009) { day } else { 0 };
            for _ in 0..2 {
                // splitmix64
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = state ^ changed;
                word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                block.extend((0..16).map(|digit| b"0123456789abcdef"[(word >> (4 * digit)) as usize & 15]));
            }
            block.extend_from_slice(b"\t{\"type\": \"indicator\", \"revoked\": false}\n");
        }
        output.write_all(&block).unwrap();
        written += block.len() as u64;
    }
}

const BACKUPS: [&str; 4] = ["first backup", "next backup", "restore", "check"];
const ARCHIVING: [&str; 4] = ["first push", "next push", "fetch", "check"];

/// How often is measured: what chance adds on a busy machine is not there every time, and what grows with the input is.
const ATTEMPTS: usize = 3;

/// Fails unless, in one of a few attempts, each took less than the limit, and the large ones hardly more than the small.
fn assert_bounded(of: &str, operations: [&str; 4], chance: u64, measure: impl Fn() -> [[u64; 4]; 2]) {
    let mebibytes = |bytes: &[u64]| bytes.iter().map(|bytes| bytes / MIB).collect::<Vec<_>>();
    let mut figures = Vec::new();
    for _ in 0..ATTEMPTS {
        let [small, large] = measure();
        figures.push(format!("{operations:?} of {of}: {:?} and {:?} MiB", mebibytes(&small), mebibytes(&large)));
        println!("{figures:?}");
        let bounded = |(small, large): (&u64, &u64)| *small < LIMIT && *large < LIMIT && *large < small + chance;
        if small.iter().zip(&large).all(bounded) {
            return;
        }
    }
    panic!("{figures:#?}");
}

#[test]
fn memory_does_not_grow_with_a_stream() {
    if !has_program_or_skip("python3") {
        return;
    }
    let measured = |mib: u64| {
        let place = Place::new();
        let backup = ["-q", "backup", "--stdin", "--name", "db"];
        [
            peak(&place, &backup, |input| write_dump(input, mib * MIB, 0)),
            // With deltas: their bases are read back.
            peak(&place, &backup, |input| write_dump(input, mib * MIB, 1)),
            peak(&place, &["-q", "restore", "db", "--stdout"], nothing),
            peak(&place, &["-q", "check", "--read-data"], nothing),
        ]
    };
    assert_bounded("a stream", BACKUPS, CHANCE_OF_A_STREAM, || [150, 450].map(measured));
}

#[test]
fn memory_does_not_grow_with_a_segment_of_the_log() {
    if !has_program_or_skip("python3") {
        return;
    }
    let measured = |mib: u64| {
        let place = Place::new();
        let data = place.path().join("data");
        fs::create_dir_all(data.join("global")).unwrap();
        fs::write(data.join("global/pg_control"), control_file()).unwrap();
        let name = SegmentName::holding(1, mib * MIB, mib * MIB);
        let (path, got) = (data.join(name.to_string()), data.join("got"));
        // Noise and nothing by turns, so that about half of it is stored.
        let mut content = segment(CLUSTER, name, mib * MIB, 1);
        let quarter = content.len() / 4;
        content.copy_within(..quarter, 2 * quarter);
        fs::write(&path, &content).unwrap();
        let (data, path, name) = (data.to_str().unwrap(), path.to_str().unwrap(), name.to_string());
        let push = ["-q", "wal", "push", "--pgdata", data, path];
        let fetch = ["-q", "wal", "fetch", "--no-ahead", "--pgdata", data, &name, got.to_str().unwrap()];
        let peaks = [
            peak(&place, &push, nothing),
            peak(&place, &push, nothing),
            peak(&place, &fetch, nothing),
            peak(&place, &["-q", "check", "--read-data"], nothing),
        ];
        assert!(fs::read(&got).unwrap() == content, "{mib} MiB came back otherwise");
        peaks
    };
    assert_bounded("a segment", ARCHIVING, CHANCE_OF_A_SEGMENT, || [16, 256].map(measured));
}

fn make_tree(root: &Path, files: usize) {
    for number in 0..files {
        let directory = root.join(format!("{}", number / 500));
        if number.is_multiple_of(500) {
            fs::create_dir_all(&directory).unwrap();
        }
        let value = number * 7919;
        let text = format!("{{\"id\": {number}, \"type\": \"indicator\", \"value\": \"{value}\"}}\n");
        fs::write(directory.join(number.to_string()), text).unwrap();
    }
}

#[test]
fn memory_does_not_grow_with_a_tree() {
    if !has_program_or_skip("python3") {
        return;
    }
    let measured = |files: usize| {
        let place = Place::new();
        let (tree, target) = (place.path().join("tree"), place.path().join("target"));
        make_tree(&tree, files);
        let (tree, target) = (tree.to_str().unwrap(), target.to_str().unwrap());
        [
            peak(&place, &["-q", "backup", "--name", "t", tree], nothing),
            peak(&place, &["-q", "backup", "--name", "t", tree], nothing),
            peak(&place, &["-q", "restore", "t", "--target", target], nothing),
            peak(&place, &["-q", "check", "--read-data"], nothing),
        ]
    };
    assert_bounded("a tree", BACKUPS, CHANCE_OF_A_TREE, || [5_000, 20_000].map(measured));
}
