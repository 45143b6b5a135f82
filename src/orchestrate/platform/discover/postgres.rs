//! postgresql.conf: `name = value` or `name value`, with includes relative to the file and everything else relative to
//! the data directory. Encryption that is on without named files uses `server.crt` and `server.key`.

use super::keys::{Item, What, unquoted};

const KEYS: [&str; 5] = ["ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file"];

pub fn read(text: &str) -> Vec<Item> {
    text.lines().enumerate().flat_map(|(at, line)| items(at + 1, line)).collect()
}

fn items(line: usize, text: &str) -> Vec<Item> {
    let text = without_comment(text).trim();
    let Some(end) = text.find(|c: char| c == '=' || c.is_whitespace()) else { return Vec::new() };
    let name = text[..end].to_ascii_lowercase();
    let value = unquoted(text[end..].trim_start().trim_start_matches('=')).replace("''", "'");
    let item = |setting: &str, what| Item { line, setting: setting.to_owned(), what };
    match name.as_str() {
        _ if value.is_empty() => Vec::new(),
        "include" => vec![item(&name, What::Include(value))],
        "include_if_exists" => vec![item(&name, What::IncludeIfExists(value))],
        "include_dir" => vec![item(&name, What::IncludeDirectory(value, ".conf"))],
        "data_directory" => vec![item(&name, What::Base(value))],
        "ssl" if ["on", "true", "yes", "1"].contains(&value.to_ascii_lowercase().as_str()) => vec![
            item("ssl_cert_file", What::Default("server.crt".to_owned())),
            item("ssl_key_file", What::Default("server.key".to_owned())),
        ],
        name if KEYS.contains(&name) => vec![item(name, What::Key(value))],
        _ => Vec::new(),
    }
}

/// A `#` begins a comment, unless it stands between single quotes.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}
