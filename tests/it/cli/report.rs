//! The report of a backup set on a terminal.

use cairn::cli::report::terminal::text;
use cairn::format::ObjectId;
use cairn::format::set::Status;
use unicode_width::UnicodeWidthStr;

use crate::support::full_set::{proof, set};

fn id() -> ObjectId {
    ObjectId::from_bytes([0xab; 32])
}

#[test]
fn the_text_has_everything_that_is_to_be_known() {
    let told = text(&id(), &set(), Some(&proof()), 110);
    for words in [
        "Backup set abababab of eclecticiq-centos: partial",
        "one point in time",
        "after 7 min 31 s",
        "intel-1.example",
        "3.42 GiB, 45.00 MiB added: 77.8 : 1",
        "postgres       complete   700.00 MiB     9.00 MiB     77.8 : 1    1 min 23 s",
        "redis          complete     1.37 GiB    18.00 MiB",
        "dump, system 7301234567890123456, timeline 1, position 0/1A2B3C4, 1 databases, 2 tables, 1234656 rows",
        "cluster eclecticiq (kP2xQ), snapshot snapshot-202603010200 (aBcD), 2 indices, 1000017 documents",
        "database graph.db, store X, 5 nodes, 7 relationships",
        "1 queues, 3 elements, 3 elements removed from their queues once they were saved",
        "1 key and certificate files, 2 listed paths absent",
        "postgres 11.22",
        "neo4j did not stop, so it is not in this set",
        "Stop neo4j failed (1.5 s): <script>",
        "proven         no: different 2026-03-05",
        "postgres: proven; 2026-03-05",
        "on scratch-1.example with cairn 0.1.0; 2 tables, 1234656 rows;",
        "postgresql 11.22; 1 min 23 s + 1.5 s",
        "elasticsearch: different; 2026-03-05",
        "<i>stix_v4</i> has 999999 documents instead of 1000000; the index audit_v2 is missing; elasticsearch 7.9.1",
        "redis: failed; 2026-03-04",
        "config: unproven; no drill has looked at it",
    ] {
        assert!(told.contains(words), "{words:?} is not in\n{told}");
    }
    assert!(!told.contains("Stop eclecticiq-platform"), "what went well is on the page");
}

#[test]
fn no_line_is_wider_than_the_terminal_and_nothing_is_lost_by_folding() {
    let mut set = set();
    set.warnings.push("\u{4f60}\u{597d}".repeat(60));
    (set.components[0].parts[0].bytes, set.components[0].milliseconds) = (u64::MAX, u64::MAX);
    set.warnings.push(format!("a word that does not end {}", "x".repeat(200)));
    let squeezed = |text: &str| text.replace([' ', '\n'], "");
    for columns in [200, 110, 80, 76, 75, 40, 20, 0] {
        let told = text(&id(), &set, Some(&proof()), columns);
        for line in told.lines() {
            assert!(line.width() <= columns.max(20), "{columns}: {} in {line:?}", line.width());
            assert_eq!(line, line.trim_end(), "{columns}");
        }
        let whole = squeezed(&told);
        for words in [
            "no drill has looked at it",
            "position 0/1A2B3C4",
            "it did not stop within 90 s",
            &"x".repeat(200),
            &"\u{4f60}\u{597d}".repeat(60),
        ] {
            assert!(whole.contains(&squeezed(words)), "{columns}: {words:?} is not in\n{told}");
        }
        assert_eq!(told.contains("COMPONENT"), columns >= 76, "{told}");
    }
}

#[test]
fn what_comes_from_a_set_does_not_command_a_terminal() {
    let mut set = set();
    let hostile = "a\x1b[2Jb\u{202e}c\rd".to_owned();
    set.components[0].name = hostile.clone();
    set.components[1].status = Status::Skipped;
    set.components[1].name = hostile.clone();
    set.host = hostile.clone();
    set.warnings.push(hostile.clone());
    set.steps[1].detail = hostile;
    for columns in [120, 40] {
        let told = text(&id(), &set, Some(&proof()), columns);
        assert!(!told.contains(['\x1b', '\r', '\u{202e}']), "{told:?}");
        assert!(told.replace([' ', '\n'], "").contains("a%1B[2Jb%E2%80%AEc%0Dd"), "{told}");
    }
}
