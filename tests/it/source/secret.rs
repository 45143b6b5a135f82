//! Places of passwords.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::secret::SecretSource;
use cairn::source::wait;

fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, SecretSource) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    (directory, SecretSource::File(path))
}

#[test]
fn a_secret_is_the_first_line_of_its_file_and_is_not_shown() {
    for content in [&b"geheim"[..], b"geheim\n", b"geheim\r\n", b"geheim\nmore\n"] {
        let (_directory, source) = file(content, 0o600);
        let secret = source.read().unwrap();
        assert_eq!(secret.expose(), "geheim");
        assert!(!format!("{secret:?}").contains("geheim"));
    }
}

#[test]
fn secret_files_that_cannot_be_used_are_refused_without_showing_them() {
    for (content, mode, why) in [
        (&b"geheim"[..], 0o644, "every user may read it"),
        (b"", 0o600, "it is empty"),
        (b"\ngeheim", 0o600, "it is empty"),
        (b"geheim\xff", 0o600, "not UTF-8"),
        (&[b'x'; 5000], 0o600, "longer than"),
    ] {
        let (_directory, source) = file(content, mode);
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("geheim"), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    assert!(SecretSource::File(directory.path().to_owned()).read().is_err());
    assert!(SecretSource::File(directory.path().join("absent")).read().is_err());
}

#[test]
fn a_credentials_name_cannot_leave_its_directory() {
    for name in ["", "../x", "a/b", ".", ".."] {
        assert!(matches!(SecretSource::Credential(name.to_owned()).read(), Err(SourceError::Setting { .. })));
    }
}

#[test]
fn a_secret_comes_from_the_environment() {
    // Any variable that is set will do.
    assert_eq!(
        SecretSource::Environment("CARGO_MANIFEST_DIR".to_owned()).read().unwrap().expose(),
        env!("CARGO_MANIFEST_DIR")
    );
    assert!(SecretSource::Environment("CAIRN_TEST_NOT_SET".to_owned()).read().is_err());
}

#[test]
fn two_places_of_one_secret_are_refused() {
    let path = Path::new("/p");
    assert_eq!(SecretSource::one_of("password", None, None, None).unwrap(), None);
    let one = SecretSource::one_of("password", Some(path), None, None).unwrap();
    assert_eq!(one, Some(SecretSource::File(path.to_owned())));
    let error = SecretSource::one_of("password", Some(path), None, Some("P")).unwrap_err();
    assert!(error.to_string().contains("password-env"), "{error}");
}

#[test]
fn a_call_that_does_not_return_can_be_given_up() {
    let started = Instant::now();
    let hang = || std::thread::sleep(Duration::from_secs(30));
    let error = wait::attended("it did not answer", Duration::from_millis(50), &|| false, hang).unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }));
    let stop = move || started.elapsed() > Duration::from_millis(300);
    let error = wait::attended("it did not answer", Duration::from_secs(30), &stop, hang).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted));
    assert!(matches!(wait::pause(Duration::from_secs(30), &stop), Err(SourceError::Interrupted)));
    assert!(started.elapsed() < Duration::from_secs(15));
    assert_eq!(wait::attended("x", Duration::from_secs(30), &|| false, || 7).unwrap(), 7);
}
