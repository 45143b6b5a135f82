//! `format-spec/vectors/*.json`, made by Python code that shares nothing with this crate: both must agree on every
//! byte, up to what two versions of zstd compress differently.

use std::fs;
use std::path::Path;

use cairn::chunker::Chunker;
use cairn::format::codec::{Cursor, escape, put_varint, put_zigzag, unescape};
use cairn::format::config::{ChunkSizes, Config};
use cairn::format::content::Content;
use cairn::format::crypto::{FOOTER_POSITION, HEADER_LEN, Keys, MasterKey};
use cairn::format::key::{Credential, KeyObject};
use cairn::format::list::{self, ListEntry, ListKind};
use cairn::format::pack::{self, ChunkEntry, FrameEntry, TRAILER_LEN};
use cairn::format::record::{self, Forgotten, Lease, Proof, Record, Snapshot, Tombstone};
use cairn::format::tree::{self, BlockEncoder, Entry, Extent, FileTime, Node, Owner};
use cairn::format::wal::{self, HEAD_END, WalHead};
use cairn::format::{ChunkId, FormatError, Kind, ObjectId, RepositoryId, frame};
use serde_json::Value;
use zeroize::Zeroizing;

/// One file of vectors, with the keys that all of them use.
struct Vectors {
    value: Value,
    keys: Keys,
    master: MasterKey,
}

impl Vectors {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/vectors").join(name);
        let value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let master = MasterKey::from_bytes(hex(&value["master"]).try_into().unwrap());
        let repository = RepositoryId::from_slice(&hex(&value["repository"])).unwrap();
        Vectors { keys: Keys::derive(&master, repository), master, value }
    }

    fn all(&self, name: &str) -> &[Value] {
        let found = self.value[name].as_array().unwrap();
        assert!(!found.is_empty());
        found
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn chunk_id(value: &Value) -> ChunkId {
    ChunkId::from_hex(text(value)).unwrap()
}

#[test]
fn primitives_agree() {
    let vectors = Vectors::read("primitives.json");
    for case in vectors.all("varint") {
        let value: u64 = text(&case["value"]).parse().unwrap();
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out, hex(&case["hex"]), "{value}");
        assert_eq!(Cursor::new(&out).varint("test").unwrap(), value);
    }
    for case in vectors.all("zigzag") {
        let value: i64 = text(&case["value"]).parse().unwrap();
        let mut out = Vec::new();
        put_zigzag(&mut out, value);
        assert_eq!(out, hex(&case["hex"]), "{value}");
        assert_eq!(Cursor::new(&out).zigzag("test").unwrap(), value);
    }
    for case in vectors.all("escaped") {
        assert_eq!(escape(&hex(&case["hex"])), text(&case["text"]));
        assert_eq!(unescape(text(&case["text"])).unwrap(), hex(&case["hex"]));
    }
}

#[test]
fn derived_keys_agree() {
    let vectors = Vectors::read("keys.json");
    for case in vectors.all("chunk_ids") {
        assert_eq!(vectors.keys.chunk_id(&hex(&case["raw"])), chunk_id(&case["id"]));
    }
    for case in vectors.all("path_hashes") {
        assert_eq!(u64::from(vectors.keys.path_hash(&hex(&case["path"]))), number(&case["hash"]));
    }
    let gear: Vec<String> = vectors.keys.gear_table().iter().map(|value| format!("{value:016x}")).collect();
    assert_eq!(gear, vectors.all("gear").iter().map(text).collect::<Vec<_>>());
}

#[test]
fn configuration_agrees() {
    let vectors = Vectors::read("config.json");
    let stored = text(&vectors.value["stored"]);
    let mut config = Config::decode(stored.as_bytes()).unwrap();
    config.verify(&vectors.keys).unwrap();
    config.authenticate(&vectors.keys);
    assert_eq!(config.encode().unwrap(), stored.as_bytes());
    assert_eq!(config.chunk_sizes, ChunkSizes { min: 4 << 10, average: 16 << 10, max: 64 << 10 });
    let changes = [("16384", "16386"), ("2026-03-01", "2026-03-02"), ("2021", "2022"), ("mac\": \"", "mac\": \"0")];
    for (from, to) in changes {
        let altered = Config::decode(stored.replacen(from, to, 1).as_bytes()).unwrap();
        assert!(altered.verify(&vectors.keys).is_err(), "{from} became {to}");
    }
    let newer = stored.replacen("\"version\": 1", "\"version\": 2, \"unheard\": 0", 1);
    assert!(matches!(Config::decode(newer.as_bytes()), Err(FormatError::Version { found: 2, .. })));
    let featured = stored.replacen("\"features\": []", "\"features\": [\"unheard\"]", 1);
    assert!(matches!(Config::decode(featured.as_bytes()), Err(FormatError::Feature { name }) if name == "unheard"));
}

#[test]
fn key_objects_agree() {
    let vectors = Vectors::read("key-objects.json");
    let repository = vectors.keys.repository();
    let password = Zeroizing::new(hex(&vectors.value["argon2id"]["secret"]));
    let file: [u8; 32] = hex(&vectors.value["key-file"]["secret"]).try_into().unwrap();
    let credentials = [Credential::Password(password), Credential::KeyFile(Zeroizing::new(file))];
    for (method, right) in [("argon2id", 0), ("key-file", 1)] {
        let stored = text(&vectors.value[method]["stored"]);
        let key = KeyObject::decode(stored.as_bytes()).unwrap();
        let master = key.unwrap(repository, &credentials[right]).unwrap().unwrap();
        assert_eq!(master.as_bytes(), vectors.master.as_bytes());
        assert_eq!(key.encode().unwrap(), stored.as_bytes());
        assert!(key.unwrap(repository, &credentials[1 - right]).unwrap().is_none());
        // Neither the words that people go by nor the repository can be exchanged.
        let relabelled = stored.replacen(&key.label, "other", 1);
        let relabelled = KeyObject::decode(relabelled.as_bytes()).unwrap();
        assert!(relabelled.unwrap(repository, &credentials[right]).unwrap().is_none());
        let elsewhere = RepositoryId::from_bytes([7; 32]);
        assert!(key.unwrap(elsewhere, &credentials[right]).unwrap().is_none());
    }
    let greedy =
        text(&vectors.value["argon2id"]["stored"]).replacen("\"memory_kib\": 64", "\"memory_kib\": 1048577", 1);
    let greedy = KeyObject::decode(greedy.as_bytes()).unwrap();
    assert!(matches!(greedy.unwrap(repository, &credentials[0]), Err(FormatError::TooLarge { .. })));
}

#[test]
fn envelopes_agree() {
    let vectors = Vectors::read("envelope.json");
    let kind = Kind::from_number(number(&vectors.value["kind"]) as u8).unwrap();
    let header = hex(&vectors.value["header"]);
    let envelope = vectors.keys.open_envelope(kind, &header).unwrap();
    assert_eq!(envelope.header().as_slice(), header);
    for part in vectors.all("parts") {
        let position = u64::from_str_radix(text(&part["position"]), 16).unwrap();
        let mut sealed = Vec::new();
        envelope.seal(position, &hex(&part["plain"]), &mut sealed).unwrap();
        assert_eq!(sealed, hex(&part["sealed"]));
        assert!(envelope.open(position ^ 1, &mut sealed.clone()).is_err(), "opens at another position");
        assert_eq!(envelope.open(position, &mut sealed).unwrap(), hex(&part["plain"]));
    }
    for at in 0..8 {
        let mut other = header.clone();
        other[at] ^= 1;
        assert!(vectors.keys.open_envelope(kind, &other).is_err(), "header byte {at}");
    }
}

#[test]
fn packs_agree() {
    let vectors = Vectors::read("pack.json");
    let stored = hex(&vectors.value["stored"]);
    assert_eq!(ObjectId::of(&stored).to_string(), text(&vectors.value["name"]));
    let len = stored.len() as u64;
    let footer = pack::footer_len(len, &stored[stored.len() - TRAILER_LEN..]).unwrap() as usize;
    let end = stored.len() - TRAILER_LEN - footer;
    let mut sealed = stored[end..end + footer].to_vec();
    let header = &stored[..HEADER_LEN];
    let frames = pack::open_footer(&vectors.keys, Kind::DataPack, header, len, &mut sealed).unwrap();
    assert_eq!(frames, pack::decode_body(&hex(&vectors.value["footer_body"]), end as u64).unwrap());
    assert!(
        pack::open_footer(&vectors.keys, Kind::MetaPack, header, len, &mut stored[end..end + footer].to_vec()).is_err()
    );

    let expected = vectors.all("frames");
    assert_eq!(frames.len(), expected.len());
    let mut raw_chunks = std::collections::HashMap::new();
    let mut rebuilt = header.to_vec();
    let envelope = vectors.keys.open_envelope(Kind::DataPack, &stored).unwrap();
    for (slot, (entry, expected)) in frames.iter().zip(expected).enumerate() {
        assert_eq!(*entry, frame_entry(expected, entry));
        let at = entry.offset as usize;
        let mut sealed = stored[at..at + entry.stored_len as usize].to_vec();
        let compressed = envelope.open(slot as u64, &mut sealed).unwrap();
        assert_eq!(compressed, hex(&expected["compressed"]));
        let prefix: Vec<u8> = entry.bases.iter().flat_map(|base| &raw_chunks[base]).copied().collect();
        let raw = frame::decompress(compressed, entry.raw_len(), &prefix).unwrap();
        envelope.seal(slot as u64, compressed, &mut rebuilt).unwrap();
        let mut rest = raw.as_slice();
        for (chunk, expected) in entry.chunks.iter().zip(expected["chunks"].as_array().unwrap()) {
            let (content, tail) = rest.split_at(chunk.len as usize);
            assert_eq!(content, hex(&expected["raw"]));
            assert_eq!(vectors.keys.chunk_id(content), chunk.id);
            raw_chunks.insert(chunk.id, content.to_vec());
            rest = tail;
        }
        // What this crate compresses, it and (by the other tests) everybody can read.
        let again = frame::compress(3, &raw, &prefix).unwrap();
        assert_eq!(frame::decompress(&again, raw.len(), &prefix).unwrap(), raw);
    }
    assert_eq!(rebuilt, stored[..end]);
    // The footer's bytes depend on zstd; what is in it does not.
    pack::seal_footer(&envelope, &frames, &mut rebuilt).unwrap();
    let mut sealed = rebuilt[end..rebuilt.len() - TRAILER_LEN].to_vec();
    assert_eq!(
        pack::open_footer(&vectors.keys, Kind::DataPack, header, rebuilt.len() as u64, &mut sealed).unwrap(),
        frames
    );
}

fn frame_entry(expected: &Value, found: &FrameEntry) -> FrameEntry {
    let chunk = |value: &Value| ChunkEntry { id: chunk_id(&value["id"]), len: hex(&value["raw"]).len() as u32 };
    FrameEntry {
        offset: found.offset,
        stored_len: found.stored_len,
        depth: number(&expected["depth"]) as u8,
        bases: expected["bases"].as_array().unwrap().iter().map(chunk_id).collect(),
        chunks: expected["chunks"].as_array().unwrap().iter().map(chunk).collect(),
    }
}

#[test]
fn list_nodes_agree() {
    let vectors = Vectors::read("list.json");
    for case in vectors.all("nodes") {
        let kind = if case["keyed"].as_bool().unwrap() { ListKind::Keyed } else { ListKind::Plain };
        let level = number(&case["level"]) as u8;
        let first_path = |entry: &Value| entry.get("first_path").map(hex).unwrap_or_default();
        let entries: Vec<ListEntry> = case["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| ListEntry { id: chunk_id(&e["id"]), bytes: number(&e["bytes"]), first_path: first_path(e) })
            .collect();
        let mut raw = list::begin_node(kind, level);
        entries.iter().for_each(|entry| list::put_entry(&mut raw, kind, entry));
        assert_eq!(raw, hex(&case["raw"]));
        assert_eq!(list::decode_node(&raw, kind, level).unwrap(), entries);
        assert!(list::decode_node(&raw, kind, level + 1).is_err());
    }
    for case in vectors.all("cuts") {
        assert_eq!(list::is_cut(&chunk_id(&case["id"])), case["cut"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn tree_blocks_agree() {
    let vectors = Vectors::read("tree.json");
    let entries: Vec<Entry> = vectors.all("entries").iter().map(entry).collect();
    let mut encoder = BlockEncoder::default();
    for entry in &entries {
        encoder.push(entry.clone()).unwrap();
    }
    let raw = encoder.finish();
    assert_eq!(raw, hex(&vectors.value["raw"]));
    assert_eq!(tree::decode_block(&raw).unwrap(), entries);
    for case in vectors.all("cuts") {
        let hash = vectors.keys.path_hash(&hex(&case["path"]));
        assert_eq!(u64::from(hash), number(&case["hash"]));
        assert_eq!(hash.trailing_zeros() >= tree::CUT_BITS, case["cut"].as_bool().unwrap(), "{case}");
    }
    let order: Vec<Vec<u8>> = vectors.all("order").iter().map(hex).collect();
    let mut sorted = order.clone();
    sorted.reverse();
    sorted.sort_by(|a, b| tree::compare_paths(a, b));
    assert_eq!(sorted, order);
}

fn entry(value: &Value) -> Entry {
    let small = |name: &str| number(&value[name]) as u32;
    let time = |value: &Value| FileTime { seconds: value[0].as_i64().unwrap(), nanoseconds: number(&value[1]) as u32 };
    let device = || (number(&value["rdev"][0]) as u32, number(&value["rdev"][1]) as u32);
    let extent = |value: &Value| Extent { offset: number(&value[0]), len: number(&value[1]) };
    let node = match number(&value["type"]) {
        0 => Node::Directory,
        1 => Node::File {
            size: number(&value["size"]),
            extents: value.get("extents").map(|all| all.as_array().unwrap().iter().map(extent).collect()),
            content: serde_json::from_value::<Content>(value["content"].clone()).unwrap(),
        },
        2 => Node::Symlink { target: hex(&value["target"]) },
        3 => Node::Fifo,
        4 => Node::CharDevice { major: device().0, minor: device().1 },
        5 => Node::BlockDevice { major: device().0, minor: device().1 },
        6 => Node::Socket,
        7 => Node::Unread,
        other => panic!("type {other}"),
    };
    let attributes = value["attributes"].as_array().unwrap();
    Entry {
        path: hex(&value["path"]),
        node,
        mode: small("mode"),
        owner: Owner { uid: small("uid"), gid: small("gid"), user: hex(&value["user"]), group: hex(&value["group"]) },
        mtime: time(&value["mtime"]),
        ctime: time(&value["ctime"]),
        inode: text(&value["inode"]).parse().unwrap(),
        link_device: value.get("device").map(number),
        unstable: value["unstable"].as_bool().unwrap(),
        xattrs: attributes.iter().map(|pair| (hex(&pair[0]), hex(&pair[1]))).collect(),
    }
}

#[test]
fn records_agree() {
    let vectors = Vectors::read("record.json");
    for case in vectors.all("records") {
        match Kind::from_number(number(&case["kind"]) as u8).unwrap() {
            Kind::Snapshot => record_agrees::<Snapshot>(&vectors.keys, case),
            Kind::Tombstone => record_agrees::<Tombstone>(&vectors.keys, case),
            Kind::Lease => record_agrees::<Lease>(&vectors.keys, case),
            Kind::Proof => record_agrees::<Proof>(&vectors.keys, case),
            Kind::Forgotten => record_agrees::<Forgotten>(&vectors.keys, case),
            other => panic!("no record of kind {other}"),
        }
    }
}

fn record_agrees<R: Record + PartialEq + std::fmt::Debug>(keys: &Keys, case: &Value) {
    let id = ObjectId::from_hex(text(&case["name"])).unwrap();
    let stored = hex(&case["stored"]);
    let found: R = record::open(keys, &id, stored.clone()).unwrap();
    assert_eq!(serde_json::to_string(&found).unwrap(), text(&case["json"]));
    let (id, again) = record::seal(keys, &found).unwrap();
    assert_ne!(again, stored, "a salt was used twice");
    assert_eq!(record::open::<R>(keys, &id, again).unwrap(), found);
    let mut altered = stored;
    *altered.last_mut().unwrap() ^= 1;
    assert!(record::open::<R>(keys, &ObjectId::of(&altered), altered).is_err());
}

#[test]
fn cuts_agree() {
    let vectors = Vectors::read("chunker.json");
    for case in vectors.all("streams") {
        let mut data = vec![0; number(&case["length"]) as usize];
        if let Some(seed) = case["seed"].as_str() {
            blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut data);
        }
        let sizes: ChunkSizes = serde_json::from_value(case["sizes"].clone()).unwrap();
        let cuts = cuts(vectors.keys.gear_table(), sizes, &data);
        let expected: Vec<usize> = case["cuts"].as_array().unwrap().iter().map(|cut| number(cut) as usize).collect();
        assert_eq!(cuts, expected);
    }
}

fn cuts(gear: [u64; 256], sizes: ChunkSizes, mut data: &[u8]) -> Vec<usize> {
    let chunker = Chunker::new(gear, sizes);
    let mut cuts = Vec::new();
    while !data.is_empty() {
        let len = chunker.cut(data);
        cuts.push(len);
        data = &data[len..];
    }
    cuts
}

#[test]
fn what_the_format_forbids_is_refused() {
    let vectors = Vectors::read("refused.json");
    let end = number(&vectors.value["footers_end_at"]);
    for case in vectors.all("cases") {
        let raw = zstd::decode_all(hex(&case["zstd"]).as_slice()).unwrap();
        let accepted = match text(&case["what"]) {
            "block" => tree::decode_block(&raw).is_ok(),
            "node" => list::decode_node(&raw, ListKind::Plain, 1).is_ok(),
            "footer" => pack::decode_body(&raw, end).is_ok(),
            other => panic!("no decoder for a {other}"),
        };
        assert!(!accepted, "accepted a {}: {}", text(&case["what"]), text(&case["why"]));
    }
}

#[test]
fn log_files_agree() {
    let vectors = Vectors::read("wal.json");
    for case in vectors.all("files") {
        let id = ObjectId::from_hex(text(&case["object"])).unwrap();
        let system_id = text(&case["system_id"]).parse().unwrap();
        assert_eq!(vectors.keys.wal_id(system_id, text(&case["name"])), id);
        let stored = hex(&case["stored"]);
        let (head, envelope) = WalHead::open(&vectors.keys, &id, stored[..HEAD_END].to_vec()).unwrap();
        assert_eq!((head.system_id, head.name.to_string()), (system_id, text(&case["name"]).to_owned()));
        assert_eq!(head.raw_len, number(&case["raw_len"]));
        assert_eq!(head.stored_len(), stored.len() as u64);
        assert_eq!(WalHead::decode(&hex(&case["plain_head"])).unwrap(), head);
        let mut sealed = Vec::new();
        envelope.seal(FOOTER_POSITION, &hex(&case["plain_head"]), &mut sealed).unwrap();
        assert_eq!(head.seal(&envelope).unwrap(), [envelope.header().as_slice(), &sealed].concat());
        let mut hasher = blake3::Hasher::new();
        for (index, (offset, len, raw_len)) in head.blocks().enumerate() {
            let block = stored[offset as usize..(offset + len) as usize].to_vec();
            hasher.update(&wal::open_block(&envelope, index as u64, block, raw_len).unwrap());
        }
        assert_eq!(hasher.finalize().as_bytes(), &head.hash);
        assert_eq!(hex::encode(head.hash), text(&case["raw_hash"]));
    }
}
