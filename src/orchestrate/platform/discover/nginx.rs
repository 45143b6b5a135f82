//! nginx: directives of words, ended by `;`, in blocks. Relative paths begin at the directory of the main file.

use super::keys::{Item, What};

/// Directives that name key or certificate files; before each may stand `proxy_`, `grpc_` or `uwsgi_`.
const KEYS: [&str; 8] = [
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_trusted_certificate",
    "ssl_client_certificate",
    "ssl_dhparam",
    "ssl_password_file",
    "ssl_crl",
    "ssl_session_ticket_key",
];

pub fn read(text: &str) -> Vec<Item> {
    directives(text).iter().filter_map(|(line, words)| item(*line, words)).collect()
}

fn item(line: usize, words: &[String]) -> Option<Item> {
    let [setting, value, ..] = words else { return None };
    let plain = ["proxy_", "grpc_", "uwsgi_"].iter().find_map(|start| setting.strip_prefix(start));
    let of_key = KEYS.contains(&plain.unwrap_or(setting));
    let what = match value.as_str() {
        path if setting == "include" => What::Include(path.to_owned()),
        _ if !of_key => return None,
        value if value.contains('$') => What::Unclear(format!("{value:?} has a variable in it")),
        // The key stands in the configuration itself.
        value if value.starts_with("data:") => return None,
        value if value.starts_with("engine:") || value.starts_with("store:") => {
            What::Unclear(format!("{value:?} is no file"))
        }
        "off" | "" => return None,
        path => What::Key(path.to_owned()),
    };
    Some(Item { line, setting: setting.clone(), what })
}

/// Each directive's words, with the line of the first.
fn directives(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let (mut line, mut first) = (1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' | '{' | '}' => {
                if !words.is_empty() {
                    all.push((first, std::mem::take(&mut words)));
                }
            }
            c => {
                if words.is_empty() {
                    first = line;
                }
                let word = word(c, &mut chars);
                line += word.matches('\n').count();
                words.push(word);
            }
        }
    }
    all
}

/// A word that begins with this character; in quotes, or up to a space or the end of the directive.
fn word(begins: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let quote = Some(begins).filter(|c| matches!(c, '"' | '\''));
    let ends = |c: char| match quote {
        Some(quote) => c == quote,
        None => c.is_whitespace() || matches!(c, ';' | '{' | '}'),
    };
    let mut escaped = begins == '\\';
    let mut word = if quote.is_some() || escaped { String::new() } else { begins.to_string() };
    while let Some(c) = chars.next_if(|c| escaped || !ends(*c)) {
        escaped = c == '\\' && !escaped;
        if !escaped {
            word.push(c);
        }
    }
    if quote.is_some() {
        chars.next();
    }
    word
}
