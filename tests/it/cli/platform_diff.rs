//! `cairn platform restore --diff`: what would change of the configuration, and nothing secret of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Place, text};

/// A platform of files, backed up.
pub struct Files {
    pub place: Place,
    pub etc: PathBuf,
    pub profile: String,
}

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIold\n-----END PRIVATE KEY-----\n";

impl Files {
    pub fn new() -> Self {
        let mut place = Place::empty();
        let etc = place.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let profile = place.path().join("profile.toml");
        let text = format!(
            "extends = 'none'\nname = 'mine'\ncomponents = ['config']\n[state]\ndirectory = '{0}/state'\n\
             [config.groups.mine]\npaths = ['{0}/etc', '{0}/one.conf']\n[keys]\npaths = ['{0}/etc/named']\n\
             [processes]\nrules = []\n",
            place.path().display()
        );
        fs::write(&profile, text).unwrap();
        let write = |name: &str, content: &[u8]| fs::write(etc.join(name), content).unwrap();
        write("plain.conf", b"one\ntwo\nthree\nfour\nfive\nsix\n");
        write("equal.conf", b"equal\n");
        write("moded.conf", b"mode\n");
        write("gone.conf", b"gone\n");
        write("some.txt", KEY.as_bytes());
        write("named", b"what the profile calls a key: old\n");
        write(
            "settings.py",
            b"DEBUG = 1\nPASSWORD = 'old secret'\nTOKENS = [\n    'older secret',\n]\nurl = 'redis://u:oldword@h/'\n",
        );
        write("binary", b"\0old");
        write("long", &[b'x'; 200_000]);
        write("hostile\x1b[2J\n.conf", b"old\n");
        symlink("plain.conf", etc.join("link")).unwrap();
        fs::write(place.path().join("one.conf"), "alone\n").unwrap();
        place.become_nobody();
        place.ok(&["init"]);
        let profile = profile.to_str().unwrap().to_owned();
        place.ok(&["platform", "backup", "--online", "--only", "config", "--profile", &profile]);
        Files { place, etc, profile }
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.etc.join(name), content).unwrap();
    }

    fn diff(&self, options: &[&str]) -> (String, String) {
        let arguments = ["platform", "restore", "--diff", "--set", "latest", "--allow", "online", "--profile"];
        let output = self.place.ok(&[&arguments[..], &[&self.profile], options].concat());
        (text(&output.stdout), text(&output.stderr))
    }

    fn objects(&self) -> Vec<Value> {
        let arguments =
            ["--json", "platform", "restore", "--diff", "--set", "latest", "--allow", "online", "--profile"];
        let output = self.place.ok(&[&arguments[..], &[&self.profile]].concat());
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file with its content.
    fn state(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut all: Vec<PathBuf> = fs::read_dir(&self.etc).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all.into_iter().map(|path| (path.clone(), fs::read(path).ok())).collect()
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn each_file_that_differs_is_shown_and_nothing_is_changed() {
    let files = Files::new();
    let (told, sentence) = files.diff(&[]);
    assert_eq!(told, "", "nothing differs yet");
    assert!(sentence.contains("0 entries would come back, 0 would change"), "{sentence}");

    files.write("plain.conf", b"one\n2\nthree\nfour\nfive\nsix\n");
    mode(&files.etc.join("moded.conf"), 0o600);
    fs::remove_file(files.etc.join("gone.conf")).unwrap();
    files.write("binary", b"\0new!");
    files.write("long", &[b'y'; 200_000]);
    fs::remove_file(files.etc.join("link")).unwrap();
    symlink("elsewhere", files.etc.join("link")).unwrap();
    fs::write(files.place.path().join("one.conf"), "not alone\n").unwrap();
    let before = files.state();
    let (told, sentence) = files.diff(&[]);
    assert_eq!(files.state(), before);
    let path = |name: &str| files.etc.join(name).display().to_string();
    for words in [
        format!("added    {}: file of 5 bytes, mode 0644", path("gone.conf")),
        format!(
            "changed  {}\n         bytes: 26 -> 28\n    @@ -1,5 +1,5 @@\n     one\n    -2\n    +two\n",
            path("plain.conf")
        ),
        format!("changed  {}\n         mode: 0600 -> 0644\n", path("moded.conf")),
        "         leads to: elsewhere -> plain.conf\n".to_owned(),
        format!(
            "changed  {}\n         bytes: 5 -> 4\n         BLAKE3: {} -> ",
            path("binary"),
            blake3::hash(b"\0new!")
        ),
        format!("changed  {}\n         BLAKE3: ", path("long")),
        "    -not alone\n    +alone\n".to_owned(),
    ] {
        assert!(told.contains(&words), "{words:?} is not in\n{told}");
    }
    assert!(!told.contains("equal.conf"), "{told}");
    assert!(sentence.contains("1 entries would come back, 6 would change"), "{sentence}");

    let objects = files.objects();
    let (summary, differences) = objects.split_last().unwrap();
    assert_eq!((&summary["added"], &summary["changed"], &summary["unread"]), (&1.into(), &6.into(), &0.into()));
    assert_eq!(differences.len(), 7);
    let moded = differences.iter().find(|one| one["path"] == path("moded.conf").as_str()).unwrap();
    assert_eq!((&moded["is"]["mode"], &moded["becomes"]["mode"]), (&"0600".into(), &"0644".into()));
    assert_eq!((&moded["type"], &moded["content"]["how"]), (&"difference".into(), &"same".into()));

    // Beneath another root everything is new.
    let other = files.place.path().join("other");
    let (told, _) = files.diff(&["--target-root", other.to_str().unwrap()]);
    assert!(told.contains(&format!("added    {}{}", other.display(), path("equal.conf"))), "{told}");
    assert!(!other.exists() && !told.contains("changed"), "{told}");
    let refused = ["platform", "restore", "--diff", "--yes", "--set", "latest"];
    files.place.fails(&refused, 2, &["cannot be used with"]);
}

#[test]
fn nothing_secret_is_shown_and_nothing_commands_the_terminal() {
    let files = Files::new();
    files.write("some.txt", KEY.replace("MIIold", "MIInew").as_bytes());
    files.write("named", b"what the profile calls a key: new\n");
    files.write(
        "settings.py",
        b"DEBUG = 2\nPASSWORD = 'new secret'\nTOKENS = [\n    'newer secret',\n]\nurl = 'redis://u:newword@h/'\n",
    );
    files.write("hostile\x1b[2J\n.conf", b"new\x1b[2J\r\xe2\x80\xae\n");
    let (told, _) = files.diff(&[]);
    let objects: String = files.objects().iter().map(Value::to_string).collect();
    for shown in [&told, &objects] {
        for secret in [
            "MIInew",
            "MIIold",
            "key: new",
            "key: old",
            "new secret",
            "old secret",
            "newer",
            "older",
            "newword",
            "oldword",
        ] {
            assert!(!shown.contains(secret), "{secret:?} is in\n{shown}");
        }
    }
    for words in [
        "-DEBUG = 2",
        "+DEBUG = 1",
        "(not shown: it looks secret)",
        "is not shown: it is a key",
        "hostile%1B[2J%0A.conf",
    ] {
        assert!(told.contains(words), "{words:?} is not in\n{told}");
    }
    assert!(told.contains("-new%1B[2J%0D%E2%80%AE"), "{told}");
    assert!(!told.contains(['\x1b', '\r', '\u{202e}']), "{told:?}");
    let hidden = files.objects().iter().filter_map(|one| one["content"]["hidden"].as_u64()).sum::<u64>();
    assert!(hidden >= 6, "{hidden}");
}
