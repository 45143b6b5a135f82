//! elasticsearch.yml: nested or flat keys below `xpack`. Relative paths begin at the directory of the file.
//!
//! This reads the part of YAML that such files use: block mappings, scalars on one line, lists in brackets or with
//! dashes. Anything else is passed over, and told if it stands at a key that names files.

use super::keys::{Item, What, unquoted};

const ENDS: [&str; 5] = [".key", ".certificate", ".certificate_authorities", ".keystore.path", ".truststore.path"];
/// Settings are nested at most so deep, and a setting's name is at most so long: what goes beyond names no key.
const MAX_DEPTH: usize = 32;
const MAX_SETTING: usize = 1024;

pub fn read(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    // The keys above the present line, with how far each is indented.
    let mut above: Vec<(usize, &str)> = Vec::new();
    let mut open_list = false;
    for (at, raw) in text.lines().enumerate() {
        let line = without_comment(raw);
        let (indent, content) = (line.len() - line.trim_start().len(), line.trim());
        if content.is_empty() || content.starts_with("---") {
            continue;
        }
        if open_list {
            open_list = !content.ends_with(']');
            values(at + 1, &above, content, &mut items);
            continue;
        }
        if let Some(element) = content.strip_prefix("- ") {
            // A list may stand no further in than its key.
            above.retain(|(depth, _)| *depth <= indent);
            values(at + 1, &above, element, &mut items);
            continue;
        }
        let Some((key, value)) = split(content) else { continue };
        above.retain(|(depth, _)| *depth < indent);
        above.push((indent, unquoted(key)));
        open_list = value.starts_with('[') && !value.ends_with(']');
        values(at + 1, &above, value, &mut items);
    }
    items
}

/// Key and value: the colon is followed by a space, or ends the line.
fn split(content: &str) -> Option<(&str, &str)> {
    match content.split_once(": ") {
        Some((key, value)) => Some((key.trim(), value.trim())),
        None => content.strip_suffix(':').map(|key| (key.trim(), "")),
    }
}

fn values(line: usize, above: &[(usize, &str)], text: &str, items: &mut Vec<Item>) {
    let length: usize = above.iter().map(|(_, key)| key.len() + 1).sum();
    let too_much = above.len() > MAX_DEPTH || length > MAX_SETTING;
    if too_much || !above.first().is_some_and(|(_, key)| *key == "xpack" || key.starts_with("xpack.")) {
        return;
    }
    let setting = above.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
    if !ENDS.iter().any(|end| setting.ends_with(end)) {
        return;
    }
    let list = text.trim().trim_start_matches('[').trim_end_matches(']');
    for value in list.split(',').map(unquoted).filter(|value| !value.is_empty()) {
        let what = match value {
            value if value.contains("${") => What::Unclear(format!("{value:?} has a variable in it")),
            value if value.starts_with(['{', '&', '*', '|', '>', '!']) => {
                What::Unclear(format!("{value:?} is no path"))
            }
            path => What::Key(path.to_owned()),
        };
        items.push(Item { line, setting: setting.clone(), what });
    }
}

/// A `#` at the beginning or after a space begins a comment, unless it stands in quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}
