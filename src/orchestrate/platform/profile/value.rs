//! The values of a profile that have a form of their own: paths, units, arguments, times, addresses.
//!
//! Each is checked while the file is read, so that an error points at the very place in the operator's file, and so that
//! nobody later has to ask whether a path is absolute or a time limit is zero.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use globset::GlobBuilder;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// A text of a profile is at most this many bytes.
const MAX_TEXT: usize = 4096;
/// A time limit is at most a week.
pub(super) const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// A text that is checked when it is read.
trait Checked: Sized {
    /// What may stand there.
    const EXPECTED: &'static str;
    /// Takes the text, or says what is wrong with it.
    fn check(text: &str) -> Result<Self, String>;
}

struct CheckedVisitor<T>(PhantomData<T>);

impl<T: Checked> Visitor<'_> for CheckedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let plain = |text: &str| match text.len() {
            0 => Err("it is empty".to_owned()),
            1..=MAX_TEXT if text.chars().any(char::is_control) => Err("it has a control character".to_owned()),
            1..=MAX_TEXT => Ok(()),
            _ => Err(format!("it is longer than {MAX_TEXT} bytes")),
        };
        let checked = plain(text).and_then(|()| T::check(text));
        checked.map_err(|why| E::custom(format!("{why}; expected {}", T::EXPECTED)))
    }
}

macro_rules! checked_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(CheckedVisitor(PhantomData))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl $name {
            /// The text as it stands in the profile.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}

checked_text!(PathPattern, Unit, HostPort, Word);

/// An absolute path, in which each component may be a glob (`*`, `?`, `[a-z]`, `{a,b}`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PathPattern(String);

impl PathPattern {
    /// Its components: what each is, and the pattern it stands for if it is one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// True when it may stand for more than one path.
    pub fn is_glob(&self) -> bool {
        self.components().any(is_glob)
    }
}

/// True when a component of a path is a pattern.
pub fn is_glob(component: &str) -> bool {
    component.contains(['*', '?', '[', '{', '\\'])
}

impl std::str::FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PathPattern::check(text)
    }
}

impl Checked for PathPattern {
    const EXPECTED: &'static str =
        "an absolute path such as /etc/nginx/nginx.conf; * ? [ ] { } make a component a glob";

    fn check(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("it does not begin with /".to_owned());
        }
        for component in text.split('/') {
            if component == ".." || component == "." {
                return Err("it has . or .. as a component".to_owned());
            }
            if component.contains("**") {
                return Err("** is not possible here: list the directory itself, all in it belongs to it".to_owned());
            }
            if is_glob(component) {
                component_glob(component)?;
            }
        }
        Ok(PathPattern(text.to_owned()))
    }
}

/// The matcher of one component of a path.
pub fn component_glob(component: &str) -> Result<globset::GlobMatcher, String> {
    let glob = GlobBuilder::new(component).literal_separator(true).backslash_escape(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| format!("{component:?} is no glob: {}", error.kind()))
}

/// A systemd unit, or a glob of units; without a suffix it is a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Unit(String);

impl Checked for Unit {
    const EXPECTED: &'static str = "a systemd unit such as neo4j, nginx.service or worker*.service";

    fn check(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?[]".contains(c);
        match text.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(format!("{c:?} cannot be in a unit's name")),
            None if text.starts_with('-') => Err("it begins with -".to_owned()),
            None if text.len() > 255 => Err("it is longer than 255 bytes".to_owned()),
            None => Ok(Unit(text.to_owned())),
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct HostPort(String);

impl Checked for HostPort {
    const EXPECTED: &'static str = "HOST:PORT such as localhost:443 or [::1]:443";

    fn check(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
        if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !host.starts_with('[')) {
            return Err("its host cannot be used".to_owned());
        }
        match port.parse::<u16>() {
            Ok(1..) => Ok(HostPort(text.to_owned())),
            _ => Err("its port is not between 1 and 65535".to_owned()),
        }
    }
}

/// A word: a name of a user, queue, index or variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Word(pub(super) String);

impl Checked for Word {
    const EXPECTED: &'static str = "a name without spaces";

    fn check(text: &str) -> Result<Self, String> {
        match text.contains(char::is_whitespace) {
            true => Err("it has a space".to_owned()),
            false => Ok(Word(text.to_owned())),
        }
    }
}

/// A program and its arguments, as they are given to the system: no shell, no splitting. Empty: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Argv(Vec<String>);

impl Argv {
    /// The program and its arguments.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// True when there is no such command.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with `{name}` replaced by `value` in every argument; never in the program.
    pub fn with(&self, name: &str, value: &str) -> Argv {
        let hole = format!("{{{name}}}");
        let fill = |(at, word): (usize, &String)| if at == 0 { word.clone() } else { word.replace(&hole, value) };
        Argv(self.0.iter().enumerate().map(fill).collect())
    }
}

struct ArgvVisitor;

impl<'de> Visitor<'de> for ArgvVisitor {
    type Value = Argv;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a program and its arguments as an array of strings such as [\"who\", \"-u\"]")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut words: A) -> Result<Argv, A::Error> {
        let mut argv = Vec::new();
        while let Some(word) = words.next_element::<String>()? {
            if word.contains('\0') || word.len() > MAX_TEXT {
                return Err(A::Error::custom("an argument has a NUL byte or is too long"));
            }
            if argv.is_empty() && (word.is_empty() || word.contains(char::is_whitespace)) {
                return Err(A::Error::custom("the first element is the program alone: no arguments, and no shell"));
            }
            argv.push(word);
        }
        Ok(Argv(argv))
    }
}

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArgvVisitor)
    }
}

/// A time limit in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Seconds(u64);

impl Seconds {
    pub(super) const fn new(seconds: u64) -> Self {
        Seconds(seconds)
    }

    /// The time.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

struct SecondsVisitor;

impl Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whole seconds between 1 and {MAX_SECONDS} (a week)")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
        match seconds {
            1..=MAX_SECONDS => Ok(Seconds(seconds)),
            _ => Err(E::custom(format!("{seconds} is not between 1 and {MAX_SECONDS} seconds (a week)"))),
        }
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
        self.visit_u64(u64::try_from(seconds).unwrap_or(0))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(SecondsVisitor)
    }
}

/// One of the things that are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, DeriveDeserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Configuration files and keys.
    Config,
    /// PostgreSQL.
    Postgres,
    /// Elasticsearch.
    Elasticsearch,
    /// Neo4j.
    Neo4j,
    /// The queues in Redis.
    Redis,
}

impl Component {
    /// All of them, in the order in which they are told.
    pub const ALL: [Component; 5] =
        [Component::Config, Component::Postgres, Component::Elasticsearch, Component::Neo4j, Component::Redis];

    /// Its name, as the profile, the command line and backup sets have it.
    pub fn name(self) -> &'static str {
        match self {
            Component::Config => "config",
            Component::Postgres => "postgres",
            Component::Elasticsearch => "elasticsearch",
            Component::Neo4j => "neo4j",
            Component::Redis => "redis",
        }
    }
}
