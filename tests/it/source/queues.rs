//! The stream in which queues are stored (`format-spec/queues.md`).

use cairn::source::redis::encoding::{Decoder, Encoder, Item, KeyKind, MAGIC};

fn sample() -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.start(&mut out);
    encoder.key(&mut out, "providers", KeyKind::List).unwrap();
    for element in [b"one".as_slice(), b"", b"\0\xff"] {
        encoder.element(&mut out, &[element]).unwrap();
    }
    encoder.end_key(&mut out).unwrap();
    encoder.key(&mut out, "unacked", KeyKind::Hash).unwrap();
    encoder.element(&mut out, &[b"tag", b"task"]).unwrap();
    encoder.end_key(&mut out).unwrap();
    encoder.key(&mut out, "utilities", KeyKind::Absent).unwrap();
    encoder.end_key(&mut out).unwrap();
    encoder.finish(&mut out);
    out
}

fn decode(stream: &[u8]) -> std::io::Result<Vec<Item>> {
    let mut decoder = Decoder::new(stream);
    let mut items = Vec::new();
    loop {
        match decoder.next_item()? {
            Item::End => return Ok(items),
            item => items.push(item),
        }
    }
}

#[test]
fn a_stream_of_queues_says_what_was_written() {
    let items = decode(&sample()).unwrap();
    let elements: Vec<_> = items.iter().filter(|item| matches!(item, Item::Element(_))).collect();
    assert_eq!(elements.len(), 4);
    assert_eq!(elements[3], &Item::Element(vec![b"tag".to_vec(), b"task".to_vec()]));
    assert_eq!(items[0], Item::Key { name: "providers".to_owned(), kind: KeyKind::List });
}

#[test]
fn a_stream_of_queues_that_was_cut_or_changed_is_refused() {
    let stream = sample();
    for length in 0..stream.len() {
        decode(&stream[..length]).unwrap_err();
        for bit in 0..8 {
            let mut changed = stream.clone();
            changed[length] ^= 1 << bit;
            assert!(decode(&changed).is_err(), "bit {bit} of byte {length}");
        }
    }
    decode(&[stream, vec![0]].concat()).unwrap_err();
}

#[test]
fn a_length_that_is_only_claimed_reserves_no_memory() {
    let mut stream = MAGIC.to_vec();
    stream.extend_from_slice(b"Kl\x01\0\0\0qE");
    stream.extend_from_slice(&(512u32 << 20).to_le_bytes());
    let error = decode(&stream).unwrap_err().to_string();
    assert!(error.contains("it ends too early"), "{error}");
    stream.truncate(stream.len() - 4);
    stream.extend_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&stream).unwrap_err().to_string();
    assert!(error.contains("larger than allowed"), "{error}");
}
