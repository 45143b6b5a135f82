//! Sealing binds bytes to their repository, kind, object and position; each swap fails.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cairn::format::content::Content;
use cairn::format::crypto::{FOOTER_POSITION, HEADER_LEN, Keys, MasterKey, TAG_LEN};
use cairn::format::pack::{self, ChunkEntry, FrameEntry, TRAILER_LEN};
use cairn::format::record::{self, Lease, PathText, Proof, Purpose, Record, Snapshot, SnapshotKind, Summary};
use cairn::format::{ChunkId, FormatError, Kind, ObjectId, frame};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{OTHER_REPOSITORY, REPOSITORY, is_authentication, keys};

pub fn lease() -> Lease {
    let time = "2026-01-02T03:04:05Z".parse().unwrap();
    Lease {
        host: "host".to_owned(),
        machine: "boot".to_owned(),
        process: 42,
        time,
        purpose: Purpose::Write,
        lifetime_seconds: 3600,
    }
}

pub fn snapshot() -> Snapshot {
    Snapshot {
        name: "etc".to_owned(),
        host: "host".to_owned(),
        time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        kind: SnapshotKind::Tree,
        paths: vec![PathText(b"/etc/\xff%".to_vec())],
        excludes: Vec::new(),
        tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        content: Content { bytes: 5, levels: 1, root: Some(ChunkId::from_bytes([3; 16])) },
        parent: Some(ObjectId::from_bytes([4; 32])),
        previous: None,
        summary: Summary { files: 1, ..Summary::default() },
        program: "cairn".to_owned(),
    }
}

/// One position of an object of this kind, sealed: header and ciphertext.
fn sealed(keys: &Keys, kind: Kind, position: u64, plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let envelope = keys.new_envelope(kind).unwrap();
    let mut out = Vec::new();
    envelope.seal(position, plain, &mut out).unwrap();
    (envelope.header().to_vec(), out)
}

fn open(keys: &Keys, kind: Kind, header: &[u8], position: u64, sealed: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut bytes = sealed.to_vec();
    keys.open_envelope(kind, header)?.open(position, &mut bytes).map(|plain| plain.to_vec())
}

#[test]
fn sealed_bytes_open_only_where_they_belong() {
    let (keys, plain) = (keys(), b"the quick brown fox".as_slice());
    let (header, bytes) = sealed(&keys, Kind::DataPack, 3, plain);
    assert_eq!(bytes.len(), plain.len() + TAG_LEN);
    assert_eq!(open(&keys, Kind::DataPack, &header, 3, &bytes).unwrap(), plain);

    for position in [0, 2, 4, 3 | FOOTER_POSITION, FOOTER_POSITION] {
        assert!(is_authentication(open(&keys, Kind::DataPack, &header, position, &bytes)), "position {position}");
    }
    let error = open(&keys, Kind::MetaPack, &header, 3, &bytes).unwrap_err().to_string();
    assert!(error.contains("it is a data pack"), "{error}");
    let mut relabelled = header.clone();
    relabelled[7] = Kind::MetaPack as u8;
    assert!(is_authentication(open(&keys, Kind::MetaPack, &relabelled, 3, &bytes)), "kind");
    let (other_header, _) = sealed(&keys, Kind::DataPack, 3, plain);
    assert!(is_authentication(open(&keys, Kind::DataPack, &other_header, 3, &bytes)), "object");
    let elsewhere = Keys::derive(&MasterKey::from_bytes([7; 32]), OTHER_REPOSITORY);
    assert!(is_authentication(open(&elsewhere, Kind::DataPack, &header, 3, &bytes)), "repository");
    let wrong = Keys::derive(&MasterKey::from_bytes([8; 32]), REPOSITORY);
    assert!(is_authentication(open(&wrong, Kind::DataPack, &header, 3, &bytes)), "key");
    assert!(is_authentication(open(&keys, Kind::DataPack, &header, 3, &bytes[..TAG_LEN - 1])), "no room for a tag");
}

/// The construction that the format describes, made here once more from its parts.
#[test]
fn sealed_bytes_are_what_the_format_says() {
    let (header, bytes) = sealed(&keys(), Kind::Snapshot, 0x0102_0304, b"plain");
    assert_eq!(header[..8], *b"CAIRN\0\x01\x03");
    let seal = blake3::derive_key("cairn 1 seal", &[7; 32]);
    let key = blake3::keyed_hash(&seal, &header);
    let nonce = Nonce::assume_unique_for_key([4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let aad = [&REPOSITORY.as_bytes()[..], &header[..8], &[4, 3, 2, 1, 0, 0, 0, 0]].concat();
    let mut opened = bytes;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).unwrap());
    assert_eq!(key.open_in_place(nonce, Aad::from(aad), &mut opened).unwrap(), b"plain");
}

#[test]
fn each_object_and_position_has_its_own_key_stream() {
    let (keys, zeros) = (keys(), [0; 64]);
    let envelope = keys.new_envelope(Kind::DataPack).unwrap();
    let mut seen = Vec::new();
    for position in [0, 1, 2, 255, 256, 1 << 32, FOOTER_POSITION] {
        let mut out = Vec::new();
        envelope.seal(position, &zeros, &mut out).unwrap();
        seen.push(out[..64].to_vec());
    }
    for _ in 0..3 {
        seen.push(sealed(&keys, Kind::DataPack, 0, &zeros).1[..64].to_vec());
    }
    seen.sort();
    let before = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), before);
}

#[test]
fn a_changed_byte_anywhere_in_a_record_is_noticed() {
    let keys = keys();
    let (id, stored) = record::seal(&keys, &snapshot()).unwrap();
    assert_eq!(record::open::<Snapshot>(&keys, &id, stored.clone()).unwrap(), snapshot());
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed[at] ^= 0x10;
        let error = record::open::<Snapshot>(&keys, &id, changed.clone());
        assert!(matches!(error, Err(FormatError::Hash { .. })), "byte {at}");
        // The name is no secret, so an attacker gives the changed bytes their right name.
        assert!(record::open::<Snapshot>(&keys, &ObjectId::of(&changed), changed).is_err(), "byte {at}");
    }
    for len in 0..stored.len() {
        let cut = stored[..len].to_vec();
        assert!(record::open::<Snapshot>(&keys, &ObjectId::of(&cut), cut).is_err(), "{len} bytes");
    }
}

#[test]
fn a_record_of_another_kind_or_version_is_refused_by_name() {
    let keys = keys();
    let (id, stored) = record::seal(&keys, &lease()).unwrap();
    assert_eq!(record::open::<Lease>(&keys, &id, stored.clone()).unwrap(), lease());
    let error = record::open::<Proof>(&keys, &id, stored.clone()).unwrap_err().to_string();
    assert_eq!(error, "invalid proof: it is a lease");
    for version in [0, 2, 255] {
        let mut newer = stored.clone();
        newer[6] = version;
        let error = record::open::<Lease>(&keys, &ObjectId::of(&newer), newer).unwrap_err().to_string();
        assert!(error.contains(&format!("version {version};")) && error.contains("newer cairn"), "{error}");
    }
}

#[test]
fn records_are_validated_after_opening() {
    let keys = keys();
    for bad in [
        Snapshot { name: "no/slash".to_owned(), ..snapshot() },
        Snapshot { content: Content { bytes: 0, ..snapshot().content }, ..snapshot() },
    ] {
        assert!(bad.validate().is_err());
        let (id, stored) = record::seal(&keys, &bad).unwrap();
        assert!(matches!(record::open::<Snapshot>(&keys, &id, stored), Err(FormatError::Invalid { .. })));
    }
}

/// Frames of made-up content, in a pack with a footer.
fn pack_of(keys: &Keys, kind: Kind, shapes: &[(u8, Vec<u16>)]) -> (Vec<FrameEntry>, Vec<u8>) {
    let envelope = keys.new_envelope(kind).unwrap();
    let mut bytes = envelope.header().to_vec();
    let mut frames = Vec::new();
    for (index, (depth, lens)) in shapes.iter().enumerate() {
        let offset = bytes.len() as u64;
        envelope.seal(index as u64, &vec![*depth; 5 + lens.len()], &mut bytes).unwrap();
        let bases = (0..*depth).map(|number| ChunkId::from_bytes([number; 16])).collect();
        let chunk = |len: &u16| ChunkEntry { id: keys.chunk_id(&len.to_le_bytes()), len: u32::from(*len) + 1 };
        let stored_len = (bytes.len() as u64 - offset) as u32;
        frames.push(FrameEntry { offset, stored_len, depth: *depth, bases, chunks: lens.iter().map(chunk).collect() });
    }
    pack::seal_footer(&envelope, &frames, &mut bytes).unwrap();
    (frames, bytes)
}

fn open_pack(keys: &Keys, kind: Kind, bytes: &[u8]) -> Result<Vec<FrameEntry>, FormatError> {
    let len = bytes.len() as u64;
    let footer_len = pack::footer_len(len, &bytes[bytes.len().saturating_sub(TRAILER_LEN)..])? as usize;
    let footer = &bytes[bytes.len() - TRAILER_LEN - footer_len..bytes.len() - TRAILER_LEN];
    pack::open_footer(keys, kind, &bytes[..HEADER_LEN], len, &mut footer.to_vec())
}

proptest! {
    #[test]
    fn footers_come_back(shapes in vec((0u8..=8, vec(any::<u16>(), 1..20)), 0..10)) {
        let (frames, bytes) = pack_of(&keys(), Kind::DataPack, &shapes);
        prop_assert_eq!(open_pack(&keys(), Kind::DataPack, &bytes).unwrap(), frames);
        prop_assert!(open_pack(&keys(), Kind::MetaPack, &bytes).is_err());
    }

    #[test]
    fn frames_come_back(raw in vec(any::<u8>(), 1..5000), prefix in vec(any::<u8>(), 0..5000)) {
        let text = [&prefix[..], &raw].concat();
        let compressed = frame::compress(3, &text, &prefix).unwrap();
        prop_assert_eq!(frame::decompress(&compressed, text.len(), &prefix).unwrap(), &text[..]);
        prop_assert!(frame::decompress(&compressed, text.len() - 1, &prefix).is_err());
        prop_assert!(frame::decompress(&compressed, text.len() + 1, &prefix).is_err());
    }
}

#[test]
fn a_pack_that_was_cut_or_grew_is_noticed() {
    let keys = keys();
    let (_, bytes) = pack_of(&keys, Kind::DataPack, &[(0, vec![1, 2]), (2, vec![3])]);
    for len in HEADER_LEN..bytes.len() {
        assert!(open_pack(&keys, Kind::DataPack, &bytes[..len]).is_err(), "{len} bytes");
    }
    let footer_len = pack::footer_len(bytes.len() as u64, &bytes[bytes.len() - TRAILER_LEN..]).unwrap() as usize;
    let frames_end = bytes.len() - TRAILER_LEN - footer_len;
    let grown = [&bytes[..frames_end], b"x", &bytes[frames_end..]].concat();
    let error = open_pack(&keys, Kind::DataPack, &grown).unwrap_err().to_string();
    assert!(error.contains("do not fill the pack"), "{error}");
    let frame = bytes[HEADER_LEN..frames_end].to_vec();
    assert!(is_authentication(open(&keys, Kind::DataPack, &bytes, FOOTER_POSITION, &frame)), "a frame as footer");
}
