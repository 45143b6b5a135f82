//! From text to a [`Profile`].
//!
//! A user's file is read alone first, so that an error points into that file: each value is compared with what belongs in
//! its place, and each key is known. Only then is it laid over the built-in profile. What may be written besides the keys
//! of the schema: `KEY-add`, an array of what is added to the array `KEY`.
//!
//! The file is small, or it is refused; the depth of its tables is bounded by the parser.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::format::FormatError;
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::profile::value::MAX_SECONDS;

/// A profile is at most this many bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// The built-in profiles.
pub const BUILT_IN: [(&str, &str); 1] = [("eclecticiq-centos", include_str!("../eclecticiq-centos.toml"))];
/// What `extends` says in a profile that stands alone.
pub(super) const ALONE: &str = "none";
/// Ends a key whose array is added to another.
const ADD: &str = "-add";
/// Ends a key whose value is a time limit.
const SECONDS: &str = "-seconds";

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Something in the file.
    #[error("{file}:{line}:{column}: {}{why}", of_key(key))]
    At {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// The key, with those of its tables; empty when the text is no TOML.
        key: String,
        /// What is wrong, and what was expected.
        why: String,
    },
    /// The file as a whole.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong, and what was expected.
        why: String,
    },
    /// The file's name for the profile.
    #[error("{file}: `name` cannot be used")]
    Name {
        /// The file.
        file: String,
        /// Why.
        source: FormatError,
    },
}

fn of_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

/// The built-in profile of this name.
pub fn built_in(name: &str) -> Option<Result<Profile, ProfileError>> {
    let (name, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Some(parse(name, text.as_bytes()))
}

/// Reads a profile. `file` is what the text is called in errors.
pub fn parse(file: &str, text: &[u8]) -> Result<Profile, ProfileError> {
    let whole = |why: String| ProfileError::File { file: file.to_owned(), why };
    if text.len() as u64 > MAX_BYTES {
        return Err(whole(format!("it is longer than {MAX_BYTES} bytes, so it is no profile")));
    }
    let text = str::from_utf8(text).map_err(|error| {
        let (line, column) = position(&String::from_utf8_lossy(&text[..error.valid_up_to()]), error.valid_up_to());
        let why = "a profile is UTF-8 text, and this byte is not".to_owned();
        ProfileError::At { file: file.to_owned(), line, column, key: String::new(), why }
    })?;
    let document = Document { file, text };
    let own = document.table()?;
    let alone = document.check(own.clone())?;
    let base = match alone.extends.as_str() {
        ALONE => toml::Table::new(),
        name => document.base(name, &own)?,
    };
    let mut merged = base;
    let changes = toml::Table::deserialize(toml::Deserializer::from(own))
        .map_err(|error| whole(format!("it cannot be read as a table: {}", error.message())))?;
    lay_over(&mut merged, changes);
    let mut profile = Profile::deserialize(toml::Value::Table(merged))
        .map_err(|error| whole(format!("it does not fit the profile it extends: {}", error.message())))?;
    profile.extends = alone.extends;
    profile.components.sort();
    profile.components.dedup();
    if profile.components.is_empty() {
        return Err(whole("`components` is empty, so there would be nothing to capture".to_owned()));
    }
    crate::format::name::validate(&profile.name)
        .map_err(|source| ProfileError::Name { file: file.to_owned(), source })?;
    Ok(profile)
}

/// A user's text.
struct Document<'t> {
    file: &'t str,
    text: &'t str,
}

impl<'t> Document<'t> {
    fn table(&self) -> Result<Spanned<DeTable<'t>>, ProfileError> {
        DeTable::parse(self.text).map_err(|error| self.at(error.span(), String::new(), error.message().to_owned()))
    }

    /// Compares the text with the schema. What is added to an array is checked as if it stood in it.
    fn check(&self, mut own: Spanned<DeTable<'t>>) -> Result<Profile, ProfileError> {
        let for_keys = own.clone();
        self.fold_additions(own.get_mut(), "")?;
        let alone = Profile::deserialize(toml::Deserializer::from(own)).map_err(|error| {
            let key = error.span().map(|span| key_at(for_keys.get_ref(), &span)).unwrap_or_default();
            let why = error.message();
            match unknown(why) {
                Some(sentence) => self.at(error.span(), key, sentence),
                None => self.at(error.span(), key, why.to_owned()),
            }
        })?;
        if alone.extends.is_empty() {
            let names: Vec<String> = BUILT_IN.iter().map(|(name, _)| format!("{name:?}")).collect();
            let why = format!(
                "`extends` is missing: say which built-in profile this one changes ({}), or {ALONE:?}",
                names.join(", ")
            );
            return Err(ProfileError::File { file: self.file.to_owned(), why });
        }
        self.bound_seconds(for_keys.get_ref(), "")?;
        Ok(alone)
    }

    /// Refuses a number of seconds that nobody can mean. Drivers add to such numbers and double them, so one near the
    /// end of its type would end the program in the middle of a run.
    fn bound_seconds(&self, table: &DeTable<'t>, above: &str) -> Result<(), ProfileError> {
        for (key, value) in table {
            let path = format!("{above}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.bound_seconds(inner, &format!("{path}."))?,
                DeValue::Integer(number) if path.ends_with(SECONDS) => {
                    let seconds = u64::from_str_radix(number.as_str(), number.radix());
                    if !seconds.is_ok_and(|seconds| seconds <= MAX_SECONDS) {
                        let why = format!("{number} is not between 0 and {MAX_SECONDS} seconds (a week)");
                        return Err(self.at(Some(value.span()), path, why));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn fold_additions(&self, table: &mut DeTable<'t>, above: &str) -> Result<(), ProfileError> {
        let keys: Vec<Spanned<std::borrow::Cow<'t, str>>> = table.keys().cloned().collect();
        for key in keys {
            let path = format!("{above}{}", key.get_ref());
            if let Some(DeValue::Table(inner)) = table.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut) {
                self.fold_additions(inner, &format!("{path}."))?;
                continue;
            }
            let Some(target) = key.get_ref().strip_suffix(ADD).filter(|target| !target.is_empty()) else { continue };
            let Some(value) = table.remove(key.get_ref().as_ref()) else { continue };
            let span = value.span();
            let DeValue::Array(added) = value.into_inner() else {
                let why = format!("expected an array of what is added to `{target}`");
                return Err(self.at(Some(span), path, why));
            };
            match table.get_mut(target).map(Spanned::get_mut) {
                Some(DeValue::Array(array)) => added.into_iter().for_each(|value| array.push(value)),
                Some(_) => {
                    let why = format!("`{target}` is no array, so nothing can be added to it");
                    return Err(self.at(Some(span), path, why));
                }
                None => {
                    let target = Spanned::new(key.span(), target.to_owned().into());
                    table
                        .insert(target, Spanned::new(span, DeValue::Array(added.into_iter().collect::<DeArray<'t>>())));
                }
            }
        }
        Ok(())
    }

    /// The built-in profile that is extended; nothing for a built-in profile itself.
    fn base(&self, name: &str, own: &Spanned<DeTable<'t>>) -> Result<toml::Table, ProfileError> {
        let span = own.get_ref().get("extends").map(Spanned::span);
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => text
                .parse::<toml::Table>()
                .map_err(|error| ProfileError::File { file: name.to_owned(), why: error.message().to_owned() }),
            None => {
                let names = BUILT_IN.map(|(name, _)| name);
                let why = format!("there is no built-in profile {name:?}{}", nearest(name, &names));
                Err(self.at(span, "extends".to_owned(), why))
            }
        }
    }

    fn at(&self, span: Option<Range<usize>>, key: String, why: String) -> ProfileError {
        let (line, column) = position(self.text, span.map_or(0, |span| span.start));
        ProfileError::At { file: self.file.to_owned(), line, column, key, why: why.replace('\n', "; ") }
    }
}

/// Lays changes over a table: tables merge, everything else replaces, and `KEY-add` adds what is not there yet.
fn lay_over(table: &mut toml::Table, changes: toml::Table) {
    // What replaces an array comes before what is added to it: `KEY` sorts before `KEY-add`.
    for (key, change) in changes {
        match (key.strip_suffix(ADD), change) {
            (Some(target), toml::Value::Array(added)) if !target.is_empty() => {
                let entry = table.entry(target).or_insert_with(|| toml::Value::Array(Vec::new()));
                if let toml::Value::Array(array) = entry {
                    for value in added {
                        if !array.contains(&value) {
                            array.push(value);
                        }
                    }
                }
            }
            (_, toml::Value::Table(change)) => match table.get_mut(&key) {
                Some(toml::Value::Table(inner)) => lay_over(inner, change),
                _ => {
                    let mut inner = toml::Table::new();
                    lay_over(&mut inner, change);
                    table.insert(key, toml::Value::Table(inner));
                }
            },
            (_, change) => {
                table.insert(key, change);
            }
        }
    }
}

/// Line and character, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The key that this place belongs to, with those of its tables.
fn key_at(table: &DeTable<'_>, place: &Range<usize>) -> String {
    let holds = |span: Range<usize>| span.start <= place.start && place.end <= span.end;
    for (key, value) in table {
        if holds(key.span()) {
            return key.get_ref().to_string();
        }
        let inner = match value.get_ref() {
            // A table's own span is that of its header, so what is in it is asked first.
            DeValue::Table(inner) => key_at(inner, place),
            _ => String::new(),
        };
        if !inner.is_empty() {
            return format!("{}.{inner}", key.get_ref());
        }
        if holds(value.span()) {
            return key.get_ref().to_string();
        }
    }
    String::new()
}

/// What is said of a key that is not known: the nearest that is.
fn unknown(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let what = if message.starts_with("unknown variant") { "value" } else { "key" };
    Some(format!("there is no {what} {found:?} here{}", nearest(found, &known)))
}

fn nearest(found: &str, known: &[&str]) -> String {
    let found = found.strip_suffix(ADD).unwrap_or(found);
    let close = known.iter().map(|name| (distance(found, name), name)).min();
    match close {
        Some((distance, name)) if distance <= 2.max(name.len() / 3) => format!("; did you mean `{name}`?"),
        _ if known.is_empty() => String::new(),
        _ => format!("; expected one of {}", known.join(", ")),
    }
}

/// How many characters have to be put in, left out or changed to make one word the other. Long words are all far away.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
