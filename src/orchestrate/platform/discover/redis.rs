//! redis.conf: `name value`. Relative paths begin at the server's directory (`dir`), or else at that of the file.

use super::keys::{Item, What, unquoted};

const KEYS: [&str; 7] = [
    "tls-cert-file",
    "tls-key-file",
    "tls-client-cert-file",
    "tls-client-key-file",
    "tls-dh-params-file",
    "tls-ca-cert-file",
    "tls-ca-cert-dir",
];

pub fn read(text: &str) -> Vec<Item> {
    text.lines().enumerate().filter_map(|(at, line)| item(at + 1, line.trim())).collect()
}

fn item(line: usize, text: &str) -> Option<Item> {
    let (name, value) = text.split_once(char::is_whitespace).filter(|_| !text.starts_with('#'))?;
    let setting = name.to_ascii_lowercase();
    let value = Some(unquoted(value).to_owned()).filter(|value| !value.is_empty())?;
    let what = match setting.as_str() {
        "include" => What::Include(value),
        "dir" => What::Base(value),
        name if KEYS.contains(&name) => What::Key(value),
        _ => return None,
    };
    Some(Item { line, setting, what })
}
