//! Key objects and the configuration: the only objects that are read before a key is known.

use cairn::format::config::{ChunkSizes, Config, MAX_CONFIG};
use cairn::format::crypto::{Keys, MasterKey};
use cairn::format::key::{Credential, KeyObject, MAX_KEY_OBJECT, PasswordCost};
use cairn::format::{FormatError, RepositoryId};
use zeroize::Zeroizing;

use super::{OTHER_REPOSITORY, REPOSITORY, is_authentication, keys};

/// The least that Argon2id allows: tests are not about cost.
const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

fn password(text: &str) -> Credential {
    Credential::Password(Zeroizing::new(text.as_bytes().to_vec()))
}

fn key_file(byte: u8) -> Credential {
    Credential::KeyFile(Zeroizing::new([byte; 32]))
}

fn wrap(credential: &Credential, cost: PasswordCost) -> Result<KeyObject, FormatError> {
    let (label, created) = ("laptop".to_owned(), "2026-01-01T00:00:00Z".to_owned());
    KeyObject::wrap(&MasterKey::from_bytes([7; 32]), REPOSITORY, credential, cost, label, created)
}

fn text(key: &KeyObject) -> String {
    String::from_utf8(key.encode().unwrap()).unwrap()
}

fn opens(key: &KeyObject, repository: RepositoryId, credential: &Credential) -> bool {
    let master = key.unwrap(repository, credential).unwrap();
    master.inspect(|master| assert_eq!(master.as_bytes(), &[7; 32])).is_some()
}

#[test]
fn a_key_opens_with_its_credential_only() {
    let all = [password("correct"), password("horse"), password(""), key_file(1), key_file(2)];
    for right in &all {
        let key = KeyObject::decode(text(&wrap(right, CHEAP).unwrap()).as_bytes()).unwrap();
        for other in &all {
            assert_eq!(opens(&key, REPOSITORY, other), std::ptr::eq(right, other));
        }
        assert!(!opens(&key, OTHER_REPOSITORY, right), "a key is bound to its repository");
    }
    let raw = Credential::Password(Zeroizing::new(vec![1; 32]));
    assert!(!opens(&wrap(&key_file(1), CHEAP).unwrap(), REPOSITORY, &raw), "a password is no key file");
}

#[test]
fn a_key_tells_no_secret() {
    let shown = text(&wrap(&password("correct horse"), CHEAP).unwrap());
    assert!(!shown.contains("correct") && !shown.contains(&hex::encode([7; 32])), "{shown}");
    assert_ne!(shown, text(&wrap(&password("correct horse"), CHEAP).unwrap()), "each has its own salt");
}

#[test]
fn a_password_cannot_be_made_to_cost_without_bounds() {
    let shown = text(&wrap(&password("x"), CHEAP).unwrap());
    for (from, to) in [
        ("\"memory_kib\": 8", "\"memory_kib\": 1048577"),
        ("\"memory_kib\": 8", "\"memory_kib\": 4294967295"),
        ("\"memory_kib\": 8", "\"memory_kib\": 0"),
        ("\"passes\": 1", "\"passes\": 65"),
        ("\"passes\": 1", "\"passes\": 0"),
        ("\"lanes\": 1", "\"lanes\": 65"),
        ("\"lanes\": 1", "\"lanes\": 0"),
    ] {
        assert!(shown.contains(from), "{shown}");
        let key = KeyObject::decode(shown.replace(from, to).as_bytes()).unwrap();
        let error = key.unwrap(REPOSITORY, &password("x")).map(drop).unwrap_err();
        assert!(matches!(error, FormatError::TooLarge { .. } | FormatError::Invalid { .. }), "{to}: {error:?}");
    }
    assert!(wrap(&password("x"), PasswordCost { memory_kib: u32::MAX, ..CHEAP }).is_err());
}

#[test]
fn a_malformed_key_is_refused() {
    let shown = text(&wrap(&password("x"), CHEAP).unwrap());
    for (from, to) in [("argon2id", "rot13"), ("\"label\"", "\"labels\""), ("\"version\": 1", "\"version\": \"1\"")] {
        assert!(matches!(KeyObject::decode(shown.replace(from, to).as_bytes()), Err(FormatError::Invalid { .. })));
    }
    let newer = shown.replace("\"version\": 1", "\"version\": 2").replace("argon2id", "argon3");
    let error = KeyObject::decode(newer.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "key has format version 2; this program reads version 1: use a newer cairn");
    assert!(matches!(KeyObject::decode(&vec![b' '; MAX_KEY_OBJECT + 1]), Err(FormatError::TooLarge { .. })));
}

fn config() -> (Config, Keys) {
    let mut config =
        Config::new("2026-01-01T00:00:00Z".to_owned(), ChunkSizes { min: 4096, average: 16384, max: 65536 }).unwrap();
    let keys = Keys::derive(&MasterKey::from_bytes([7; 32]), config.id);
    config.authenticate(&keys);
    (config, keys)
}

#[test]
fn a_configuration_that_was_changed_is_refused() {
    let (config, keys) = config();
    let shown = String::from_utf8(config.encode().unwrap()).unwrap();
    let decoded = Config::decode(shown.as_bytes()).unwrap();
    assert_eq!(decoded, config);
    decoded.verify(&keys).unwrap();
    let other = Keys::derive(&MasterKey::from_bytes([8; 32]), config.id);
    assert!(is_authentication(decoded.verify(&other)), "another key");
    for (from, to) in [("2026", "2025"), ("\"min\": 4096", "\"min\": 4098"), ("65536", "65538"), ("16384", "16386")] {
        let changed = Config::decode(shown.replace(from, to).as_bytes()).unwrap();
        assert!(is_authentication(changed.verify(&keys)), "{from}");
    }
    let mac = hex::encode(keys.config_mac(b"something else"));
    let old_mac = shown.split('"').rev().nth(1).unwrap();
    for mac in ["", "00", "zz", &mac] {
        let changed = Config::decode(shown.replace(old_mac, mac).as_bytes()).unwrap();
        assert!(is_authentication(changed.verify(&keys)), "{mac:?}");
    }
    let mut other = config;
    other.id = OTHER_REPOSITORY;
    assert!(is_authentication(other.verify(&keys)));
}

#[test]
fn a_configuration_of_the_future_is_refused_by_name() {
    let shown = String::from_utf8(config().0.encode().unwrap()).unwrap();
    let newer = shown.replace("\"version\": 1", "\"version\": 2, \"shape\": \"unheard of\"");
    let error = Config::decode(newer.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "configuration has format version 2; this program reads version 1: use a newer cairn");
    let feature = shown.replace("\"features\": []", "\"features\": [\"holograms\"]");
    let error = Config::decode(feature.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("\"holograms\"") && error.contains("newer cairn"), "{error}");
}

#[test]
fn a_malformed_configuration_is_refused() {
    let shown = String::from_utf8(config().0.encode().unwrap()).unwrap();
    for (from, to) in [
        ("\"min\": 4096", "\"min\": 0"),
        ("\"min\": 4096", "\"min\": 4097"),
        ("\"min\": 4096", "\"min\": 32768"),
        ("65536", "4294967295"),
        ("65536", "16384"),
        ("\"created\"", "\"creation\""),
        ("{", "["),
    ] {
        assert!(Config::decode(shown.replacen(from, to, 1).as_bytes()).is_err(), "{from} to {to}");
    }
    assert!(matches!(Config::decode(&vec![b' '; MAX_CONFIG + 1]), Err(FormatError::TooLarge { .. })));
    assert!(Config::new(String::new(), ChunkSizes { min: 0, average: 0, max: 0 }).is_err());
}

#[test]
fn chunk_ids_depend_on_content_and_key() {
    let other = Keys::derive(&MasterKey::from_bytes([8; 32]), REPOSITORY);
    assert_eq!(keys().chunk_id(b"x"), keys().chunk_id(b"x"));
    assert_ne!(keys().chunk_id(b"x"), keys().chunk_id(b"y"));
    assert_ne!(keys().chunk_id(b"x"), other.chunk_id(b"x"));
    assert_ne!(keys().gear_table(), other.gear_table());
}
