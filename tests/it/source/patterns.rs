//! Which paths globs select.

use cairn::source::files::Patterns;

fn set(patterns: &[&str]) -> Patterns {
    Patterns::new(patterns).unwrap()
}

#[test]
fn a_pattern_matches_from_the_root_or_at_any_depth() {
    let cases: &[(&str, &str, bool)] = &[
        ("*.tmp", "a.tmp", true),
        ("*.tmp", "deep/er/a.tmp", true),
        ("*.tmp", "a.tmp/inside", false),
        ("node_modules", "x/node_modules", true),
        ("node_modules", "x/my_node_modules", false),
        ("cache/*", "home/cache/x", true),
        ("cache/*", "home/cache/x/y", false),
        ("cache/**", "home/cache/x/y", true),
        ("cache/**", "home/cache", false),
        ("/etc/passwd", "etc/passwd", true),
        ("/etc/passwd", "backup/etc/passwd", false),
        ("/home/*/cache", "home/me/cache", true),
        ("/home/*/cache", "home/me/too/cache", false),
        ("/home/**/cache", "home/me/too/cache", true),
        ("/home/**/cache", "home/cache", true),
        ("a/*/c", "x/a/b/c", true),
        ("file?", "x/file1", true),
        ("file?", "x/file", false),
        ("[ab].log", "b.log", true),
        ("[!ab].log", "b.log", false),
        ("*.{jpg,png}", "p/q.png", true),
        ("\\*", "x/*", true),
        ("\\*", "x/y", false),
        ("README", "readme", false),
    ];
    for (pattern, path, expected) in cases {
        assert_eq!(set(&[pattern]).matches(path.as_bytes(), false), *expected, "{pattern} on {path}");
    }
}

#[test]
fn a_pattern_that_ends_in_a_slash_matches_directories_only() {
    assert!(set(&["cache/"]).matches(b"x/cache", true));
    assert!(!set(&["cache/"]).matches(b"x/cache", false));
    assert!(set(&["cache/"]).covers(b"x/cache/file", false));
}

#[test]
fn an_excluded_directory_covers_what_is_in_it() {
    let patterns = set(&["cache", "/etc"]);
    assert!(patterns.covers(b"home/cache/a/b", false));
    assert!(patterns.covers(b"etc/passwd", false));
    assert!(!patterns.covers(b"home/other/a", false));
    assert!(!set(&[]).covers(b"home", true));
}

#[test]
fn names_that_are_not_utf8_are_matched_byte_by_byte() {
    assert!(set(&["caf?"]).matches(b"x/caf\xe9", false));
    assert!(set(&["*.txt"]).matches(b"\xff\xfe.txt", false));
}

#[test]
fn bad_patterns_are_refused_with_a_reason() {
    for (bad, reason) in
        [(&b"[a"[..], "class"), (b"\xf4\x8f\xbf\xbf\xff", "private-use"), (b"", "empty"), (b"{a", "alternate")]
    {
        let error = Patterns::new([bad]).unwrap_err().to_string();
        assert!(error.contains("invalid pattern") && error.contains(reason), "{error}");
    }
}

#[test]
fn a_byte_that_is_not_utf_8_stands_for_itself() {
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b"\xff", b"x/\xff", true),
        (b"\xff", b"x/\xfe", false),
        (b"*\xff.txt", b"a/b\xff.txt", true),
        (b"/d\xff/**", b"d\xff/e/f", true),
        (b"/d\xff/**", b"d\xfe/e/f", false),
        (b"[\xf0-\xff]x", b"\xfax", true),
        (b"[\xf0-\xff]x", b"\xe0x", false),
        (b"{a,\xff}", b"\xff", true),
        (b"\xc3\xa4\xff", b"\xc3\xa4\xff", true),
        ("ä".as_bytes(), b"\xc3\xa4", true),
        (b"\xff\n?", b"\xff\n\n", true),
        (b"\xff.*", b"\xffx", false),
    ];
    for (pattern, path, expected) in cases {
        let found = Patterns::new([pattern]).unwrap().matches(path, false);
        assert_eq!(found, *expected, "{} on {}", pattern.escape_ascii(), path.escape_ascii());
    }
    let directories = Patterns::new([b"\xff/"]).unwrap();
    assert!(directories.matches(b"a/\xff", true) && !directories.matches(b"a/\xff", false));
    assert!(Patterns::new([b"\xff[".as_slice()]).is_err());
}
