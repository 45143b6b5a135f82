//! Writes the seeds of `fuzz/corpus`: for each target a few inputs that are accepted, made by the encoders, and a few
//! that are nearly accepted. `cargo run --manifest-path fuzz/Cargo.toml --example seed-corpus` from the project's directory.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use cairn::format::codec::{put_bytes, put_varint, put_zigzag};
use cairn::format::config::{ChunkSizes, Config};
use cairn::format::content::Content;
use cairn::format::crypto::{FOOTER_POSITION, MasterKey};
use cairn::format::frame::compress;
use cairn::format::key::{Credential, KeyObject, PasswordCost};
use cairn::format::list::{ListEntry, ListKind, begin_node, put_entry};
use cairn::format::pack::trailer;
use cairn::format::record::{
    self, CondemnedPack, DrillOutcome, Drilled, Forgotten, ForgottenSnapshot, Lease, PathText, Proof, Purpose, Snapshot,
    SnapshotKind, Summary, Tombstone,
};
use cairn::format::tree::{BlockEncoder, Entry, Extent, FileTime, Node, Owner};
use cairn::format::wal::{WalHead, WalName};
use cairn::format::{ChunkId, Kind, ObjectId, RepositoryId};
use cairn_fuzz::targets::{keys, seal};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let seeds: Vec<(&str, Seeds)> = vec![
        ("cursor", cursor()),
        ("escape", escape()),
        ("config", config()?),
        ("key", key()?),
        ("record", records()?),
        ("sealed", sealed()?),
        ("pack_footer", pack_footer()),
        ("list_node", list_node()),
        ("tree_block", tree_block()?),
        ("frame", frame()?),
        ("restore_path", restore_path()),
        ("wal", wal()?),
    ];
    for (target, files) in seeds {
        let directory = Path::new("fuzz/corpus").join(target);
        fs::create_dir_all(&directory)?;
        for (name, bytes) in files {
            fs::write(directory.join(name), bytes)?;
        }
    }
    Ok(())
}

/// Names and contents of a target's files.
type Seeds = Vec<(&'static str, Vec<u8>)>;

fn cursor() -> Vec<(&'static str, Vec<u8>)> {
    let mut numbers = Vec::new();
    for value in [0, 127, 128, 1 << 35, u64::MAX] {
        numbers.push(0);
        put_varint(&mut numbers, value);
    }
    for value in [0, -1, i64::MIN, i64::MAX] {
        numbers.push(1);
        put_zigzag(&mut numbers, value);
    }
    numbers.push(2);
    put_bytes(&mut numbers, b"some bytes");
    let too_long = [0].into_iter().chain([0xff; 10]).collect();
    let beyond = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    vec![
        ("numbers", numbers),
        ("too-long", too_long),
        ("beyond-64-bits", beyond),
        ("long-zero", vec![0, 0x80, 0x80, 0]),
    ]
}

fn escape() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain", b"/etc/passwd".to_vec()),
        ("every-byte", (0..=255).collect()),
        ("percent", b"100%25%zz%".to_vec()),
        ("cut-utf8", b"a\xc3\xa9\xc3".to_vec()),
        ("name", b"dump.2026-01-01".to_vec()),
    ]
}

fn config() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut config = Config::new("2026-01-01T00:00:00Z".to_owned(), ChunkSizes::DEFAULT)?;
    let without_mac = config.encode()?;
    config.authenticate(&cairn::format::crypto::Keys::derive(&MasterKey::generate()?, config.id));
    let text = String::from_utf8(config.encode()?)?;
    let newer = text.replace("\"version\": 1", "\"version\": 2");
    let feature = text.replace("\"features\": []", "\"features\": [\"unheard-of\"]");
    let odd = text.replace("16384", "16383");
    Ok(vec![
        ("valid", text.into_bytes()),
        ("without-mac", without_mac),
        ("newer", newer.into_bytes()),
        ("feature", feature.into_bytes()),
        ("odd-sizes", odd.into_bytes()),
        ("nested", [b'['; 4096].to_vec()),
    ])
}

fn key() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let cost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };
    let wrap = |credential| -> Result<Vec<u8>> {
        let (master, repository) = (MasterKey::from_bytes([7; 32]), RepositoryId::from_bytes([9; 32]));
        let time = "2026-01-01T00:00:00Z".to_owned();
        Ok(KeyObject::wrap(&master, repository, &credential, cost, "first".to_owned(), time)?.encode()?)
    };
    let password = wrap(Credential::Password(b"secret".to_vec().into()))?;
    let greedy = String::from_utf8(password.clone())?.replace("\"memory_kib\": 64", "\"memory_kib\": 4294967295");
    Ok(vec![
        ("password", password),
        ("key-file", wrap(Credential::KeyFile([3; 32].into()))?),
        ("greedy", greedy.into_bytes()),
    ])
}

const SET: &str = r#"{"profile":"p","host":"h","time":"2026-01-01T00:00:00Z","ended":"2026-01-01T00:00:09Z",
"consistency":"online","status":"partial","components":[{"name":"redis","status":"complete","parts":[{"role":"queues",
"snapshot":"0505050505050505050505050505050505050505050505050505050505050505","bytes":1,"stored_bytes":1}],"versions":{},
"facts":{"kind":"redis","queues":{"q":1}},"warnings":[],"milliseconds":3}],"steps":[],"warnings":[],"program":"x"}"#;

fn records() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let time: jiff::Timestamp = "2026-01-01T00:00:00Z".parse()?;
    let id = ObjectId::from_bytes([5; 32]);
    let snapshot = Snapshot {
        name: "etc".to_owned(),
        host: "machine".to_owned(),
        time,
        kind: SnapshotKind::Tree,
        paths: vec![PathText(b"/etc/\xff".to_vec())],
        excludes: vec![PathText(b"*.tmp".to_vec())],
        tags: BTreeMap::from([("job".to_owned(), "nightly".to_owned())]),
        content: Content { bytes: 10, levels: 1, root: Some(ChunkId::from_bytes([1; 16])) },
        parent: Some(id),
        previous: None,
        summary: Summary::default(),
        program: "cairn 0.1.0".to_owned(),
    };
    let condemned = CondemnedPack { id, meta: true, dead: "ff01".to_owned() };
    let tombstone = Tombstone { time, grace_seconds: 86_400, packs: vec![condemned] };
    let proof = Proof {
        snapshot: id,
        time,
        bytes: 10,
        milliseconds: 5,
        host: "machine".to_owned(),
        program: "cairn 0.1.0".to_owned(),
        drill: Some(Drilled {
            set: id,
            component: "postgres".to_owned(),
            outcome: DrillOutcome::Different,
            differences: vec!["1 row".to_owned()],
            compared: "2 tables".to_owned(),
            versions: BTreeMap::from([("postgresql".to_owned(), "11.22".to_owned())]),
            restore_milliseconds: 3,
            compare_milliseconds: 2,
        }),
    };
    let gone = ForgottenSnapshot { id, name: "etc".to_owned(), time, reason: "no rule kept it".to_owned() };
    let forgotten = Forgotten { time, host: "machine".to_owned(), snapshots: vec![gone], sets: Vec::new() };
    let snapshot = serde_json::to_vec(&snapshot)?;
    let bad_root = String::from_utf8(snapshot.clone())?.replace("\"levels\":1", "\"levels\":200");
    let with = |choice: u8, rest: &[u8]| [&[choice], rest].concat();
    Ok(vec![
        ("snapshot", with(0, &snapshot)),
        ("bad-root", with(0, bad_root.as_bytes())),
        ("tombstone", with(1, &serde_json::to_vec(&tombstone)?)),
        ("lease", with(2, &serde_json::to_vec(&lease()?)?)),
        ("proof", with(3, &serde_json::to_vec(&proof)?)),
        ("forgotten", with(4, &serde_json::to_vec(&forgotten)?)),
        ("set", with(5, SET.as_bytes())),
        ("frame", with(0x80, &compress(3, &snapshot, &[])?)),
        ("bomb", with(0x80, &compress(3, &vec![b' '; 8 << 20], &[])?)),
    ])
}

fn lease() -> Result<Lease> {
    Ok(Lease {
        host: "machine".to_owned(),
        machine: "boot 1".to_owned(),
        process: 1,
        time: "2026-01-01T00:00:00Z".parse()?,
        purpose: Purpose::Write,
        lifetime_seconds: 60,
    })
}

fn sealed() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let (_, stored) = record::seal(&keys(), &lease()?)?;
    let mut flipped = stored.clone();
    flipped[45] ^= 1;
    let mut pack = seal(Kind::DataPack, FOOTER_POSITION, &compress(3, &[0], &[])?);
    pack.extend_from_slice(&trailer(u32::try_from(pack.len() - 40)?));
    let mut long = pack.clone();
    let end = long.len() - 8;
    long[end..end + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    Ok(vec![("lease", stored), ("flipped", flipped), ("empty-pack", pack), ("long-footer", long)])
}

fn pack_footer() -> Vec<(&'static str, Vec<u8>)> {
    let mut body = 148u32.to_le_bytes().to_vec();
    put_varint(&mut body, 2);
    for (stored_len, depth) in [(50, 0), (58, 3)] {
        put_varint(&mut body, stored_len);
        body.push(depth);
        put_varint(&mut body, u64::from(depth));
        body.extend(vec![depth; 16 * usize::from(depth)]);
        put_varint(&mut body, 2);
        put_varint(&mut body, 100);
        put_varint(&mut body, 20_000);
        body.extend([1; 32]);
    }
    let mut many = 40u32.to_le_bytes().to_vec();
    put_varint(&mut many, u64::MAX);
    let mut without_bases = body.clone();
    without_bases[6] = 8;
    vec![("two-frames", body), ("many-frames", many), ("depth-without-bases", without_bases)]
}

fn list_node() -> Vec<(&'static str, Vec<u8>)> {
    let node = |kind, level, count: u8| {
        let mut node = begin_node(kind, level);
        for number in 0..count {
            let id = ChunkId::from_bytes([number; 16]);
            let first_path = if kind == ListKind::Keyed { format!("etc/{number}").into_bytes() } else { Vec::new() };
            put_entry(&mut node, kind, &ListEntry { id, bytes: 1 + u64::from(number) * 5000, first_path });
        }
        node
    };
    vec![
        ("plain", node(ListKind::Plain, 1, 40)),
        ("keyed", node(ListKind::Keyed, 2, 10)),
        ("highest", node(ListKind::Plain, 12, 1)),
        ("too-high", node(ListKind::Plain, 13, 1)),
        ("empty", node(ListKind::Plain, 1, 0)),
    ]
}

fn tree_block() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let entry = |path: &str, node| Entry {
        path: path.as_bytes().to_vec(),
        node,
        mode: 0o644,
        owner: Owner { uid: 0, gid: 0, user: b"root".to_vec(), group: b"root".to_vec() },
        mtime: FileTime { seconds: 1_700_000_000, nanoseconds: 5 },
        ctime: FileTime { seconds: -1, nanoseconds: 999_999_999 },
        inode: 77,
        link_device: None,
        unstable: false,
        xattrs: Vec::new(),
    };
    let content = |bytes| Content { bytes, levels: 0, root: Some(ChunkId::from_bytes([4; 16])) };
    let extents = vec![Extent { offset: 0, len: 10 }, Extent { offset: 4096, len: 5 }];
    let mut linked = entry("etc/linked", Node::File { size: 5, extents: None, content: content(5) });
    linked.link_device = Some(2049);
    linked.xattrs = vec![(b"user.a".to_vec(), b"value".to_vec()), (b"user.b".to_vec(), Vec::new())];
    let mut encoder = BlockEncoder::default();
    for entry in [
        entry("", Node::Directory),
        entry("dev", Node::Directory),
        entry("dev/null", Node::CharDevice { major: 1, minor: 3 }),
        entry("dev/sda", Node::BlockDevice { major: 8, minor: 0 }),
        entry("etc", Node::Directory),
        entry("etc/hosts", Node::File { size: 100, extents: None, content: content(100) }),
        linked,
        entry("etc/mtab", Node::Symlink { target: b"../proc/self/mounts".to_vec() }),
        entry("etc/nothing", Node::File { size: 0, extents: None, content: Content::EMPTY }),
        entry("etc/sparse", Node::File { size: 1 << 20, extents: Some(extents), content: content(15) }),
        entry("run/pipe", Node::Fifo),
        entry("run/secret", Node::Unread),
        entry("run/socket", Node::Socket),
    ] {
        encoder.push(entry)?;
    }
    let block = encoder.finish();
    // The same length, so that only the path is wrong.
    let hostile: Vec<u8> = block.to_vec();
    let at = hostile.windows(5).position(|part| part == b"hosts").ok_or("the path is in the block")?;
    let mut dots = hostile;
    dots[at - 4..at + 5].copy_from_slice(b"/../../aa");
    Ok(vec![("every-type", block.clone()), ("dots", dots), ("cut", block[..block.len() - 3].to_vec())])
}

fn frame() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let raw = b"one line of text, and the same again. ".repeat(20);
    let lengths = |prefix: usize, raw: usize| -> Result<Vec<u8>> {
        let (prefix, raw) = (u16::try_from(prefix)?, u16::try_from(raw)?);
        Ok([prefix.to_le_bytes(), raw.to_le_bytes()].concat())
    };
    let plain = [lengths(0, raw.len())?, compress(3, &raw, &[])?].concat();
    let delta = [lengths(300, raw.len())?, raw[..300].to_vec(), compress(3, &raw, &raw[..300])?].concat();
    let wrong = [lengths(0, 10)?, compress(3, &raw, &[])?].concat();
    Ok(vec![("plain", plain), ("delta", delta), ("wrong-length", wrong)])
}

fn restore_path() -> Vec<(&'static str, Vec<u8>)> {
    let steps = |steps: &[(u8, &[u8])]| {
        let mut out = Vec::new();
        for (step, path) in steps {
            out.push(*step);
            put_bytes(&mut out, path);
        }
        out
    };
    vec![
        ("plain", steps(&[(0, b"d"), (7, b"d/f"), (6, b"d/p"), (1, b"d/link"), (5, b"d")])),
        (
            "dots",
            steps(&[(7, b"../outside/keep"), (0, b".."), (7, b"d/../../outside/x"), (7, b"/tmp/x"), (7, b"a\0b")]),
        ),
        ("through-link", steps(&[(1, b"link"), (7, b"link/keep"), (0, b"link/new"), (5, b"link"), (4, b"hard")])),
        ("absolute-link", steps(&[(2, b"link"), (7, b"link/keep"), (1, b"link/other"), (6, b"link/pipe")])),
        ("link-to-file", steps(&[(3, b"link"), (7, b"link"), (3, b"hard"), (4, b"d"), (5, b"hard")])),
        ("replaced", steps(&[(0, b"d"), (7, b"d/f"), (1, b"d"), (7, b"d/keep"), (5, b"d")])),
    ]
}

fn wal() -> Result<Seeds> {
    let first = |step: u8, bytes: &[u8]| [&[step], bytes].concat();
    let head = WalHead {
        system_id: 7_012_345_678_901_234_567,
        name: WalName::parse("000000010000000A000000FE").ok_or("a name of a segment")?,
        raw_len: 16 << 20,
        hash: [3; 32],
        time: jiff::Timestamp::UNIX_EPOCH,
        block_len: 2 << 20,
        stored: vec![1000; 8],
    };
    let mut page = vec![0; 40];
    page[..4].copy_from_slice(&[0x10, 0xD1, 2, 0]);
    Ok(vec![
        ("segment", first(0, b"000000010000000A000000FE")),
        ("partial", first(0, b"000000010000000A000000FE.partial")),
        ("history-name", first(0, b"00000002.history")),
        ("label", first(0, b"000000010000000000000002.00000028.backup")),
        ("head", first(1, &head.encode())),
        ("page", first(2, &page)),
        ("history", first(3, b"1\t0/3000000\tno recovery target specified\n")),
    ])
}
