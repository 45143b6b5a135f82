//! Settings written in Python: string literals in which a path ends like the name of a key or certificate, also as a
//! parameter of an address (`?sslrootcert=/etc/x.crt`). What a program puts together from pieces is not found.

use super::keys::{Item, What};

const ENDS: [&str; 9] = [".pem", ".key", ".crt", ".cer", ".cert", ".csr", ".p12", ".pfx", ".jks"];

pub fn read(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for (line, literal) in literals(text) {
        let pieces = literal.split(|c: char| "&?,;=\"'".contains(c) || c.is_whitespace());
        for piece in pieces.map(|piece| piece.strip_prefix("file://").unwrap_or(piece)) {
            let fits = ENDS.iter().any(|end| piece.len() > end.len() && piece.ends_with(end));
            if fits && !piece.contains("://") {
                let what = match piece.starts_with('/') {
                    true => What::Key(piece.to_owned()),
                    false => What::Unclear(format!("{piece:?} is not absolute")),
                };
                items.push(Item { line, setting: "a text".to_owned(), what });
            }
        }
    }
    items
}

/// The string literals, each with the line that it begins in.
fn literals(text: &str) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '#' => rest = &rest[rest.find('\n').unwrap_or(rest.len())..],
            '"' | '\'' => {
                let triple: String = [c; 3].iter().collect();
                let long = rest.starts_with(&triple);
                let mark = if long { triple } else { c.to_string() };
                let inner = &rest[mark.len()..];
                let end = end_of(inner, &mark, long);
                all.push((line, &inner[..end]));
                line += inner[..end].matches('\n').count();
                rest = inner[end..].strip_prefix(mark.as_str()).unwrap_or(&inner[end..]);
            }
            c => {
                line += usize::from(c == '\n');
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    all
}

/// Where a literal ends: at its mark; a short one at the end of the line, too.
fn end_of(inner: &str, mark: &str, long: bool) -> usize {
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        if !escaped && (inner[at..].starts_with(mark) || (c == '\n' && !long)) {
            return at;
        }
        escaped = c == '\\' && !escaped;
    }
    inner.len()
}
