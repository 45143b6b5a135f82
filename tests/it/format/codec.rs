//! The primitive encodings and list nodes.

use cairn::format::codec::{Cursor, escape, put_bytes, put_varint, put_zigzag, unescape};
use cairn::format::list::{self, ListEntry, ListKind};
use cairn::format::{ChunkId, FormatError};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use crate::support::entries::path;

proptest! {
    #[test]
    fn integers_and_bytes_come_back(unsigned: u64, signed: i64, bytes: Vec<u8>) {
        let mut out = Vec::new();
        put_varint(&mut out, unsigned);
        put_zigzag(&mut out, signed);
        put_bytes(&mut out, &bytes);
        for cut in 0..out.len() {
            let mut cursor = Cursor::new(&out[..cut]);
            let read = cursor.varint("x").and_then(|_| cursor.zigzag("x")).and_then(|_| cursor.bytes(1000, "x"));
            let truncated = matches!(read, Err(FormatError::Truncated { .. }));
            prop_assert!(truncated);
        }
        let mut cursor = Cursor::new(&out);
        prop_assert_eq!(cursor.varint("x").unwrap(), unsigned);
        prop_assert_eq!(cursor.zigzag("x").unwrap(), signed);
        prop_assert_eq!(cursor.bytes(bytes.len(), "x").unwrap(), &bytes);
        prop_assert!(cursor.is_empty());
    }

    #[test]
    fn escaped_text_keeps_every_byte(bytes in vec(any::<u8>(), 0..200), text: String) {
        for bytes in [&bytes[..], text.as_bytes()] {
            let escaped = escape(bytes);
            prop_assert!(!escaped.chars().any(char::is_control));
            prop_assert_eq!(unescape(&escaped).unwrap(), bytes);
        }
    }

    #[test]
    fn list_nodes_come_back(
        entries in vec((any::<[u8; 16]>(), 1u64.., path()), 1..50),
        level in 1u8..=12,
        keyed: bool,
    ) {
        let kind = if keyed { ListKind::Keyed } else { ListKind::Plain };
        let make = |(id, bytes, path)| {
            let first_path = if keyed { path } else { Vec::new() };
            ListEntry { id: ChunkId::from_bytes(id), bytes, first_path }
        };
        let entries: Vec<ListEntry> = entries.into_iter().map(make).collect();
        let mut node = list::begin_node(kind, level);
        entries.iter().for_each(|entry| list::put_entry(&mut node, kind, entry));
        prop_assert_eq!(list::decode_node(&node, kind, level).unwrap(), entries);
        let other = if keyed { ListKind::Plain } else { ListKind::Keyed };
        prop_assert!(list::decode_node(&node, other, level).is_err());
        prop_assert!(list::decode_node(&node, kind, level + 1).is_err());
    }
}

#[test]
fn known_encodings() {
    for (value, expected) in [
        (0, &[0][..]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (300, &[0xac, 2]),
        (u64::MAX, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ] {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out, expected);
    }
    for (value, expected) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (63, 126), (-64, 127)] {
        let mut out = Vec::new();
        put_zigzag(&mut out, value);
        assert_eq!(out, [expected]);
    }
    assert_eq!(escape(b"50% \xff \xc3\xa9\n"), "50%25 %FF \u{e9}%0A");
}

#[test]
fn what_does_not_fit_is_refused() {
    let too_long = |bytes: &[u8]| Cursor::new(bytes).varint("x").is_err();
    assert!(too_long(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"));
    assert!(too_long(&[0x80; 20]));
    let limited = Cursor::new(&[100, 0]).bytes(99, "a name").unwrap_err();
    assert!(matches!(limited, FormatError::TooLarge { what: "a name", found: 100, limit: 99 }), "{limited:?}");
    for text in ["%", "%4", "%4g", "a%", "%\u{e9}"] {
        assert!(unescape(text).is_err(), "{text}");
    }
}
