//! Ports and who comes to them.

use std::io;
use std::path::Path;

use super::*;

fn header(text: &str) -> Vec<&[u8]> {
    vec![text.as_bytes()]
}

async fn guard(config: &Config, seams: &Seams) -> Guard {
    let metrics = Metrics::new(&[]).unwrap();
    Guard::start(config, &metrics, "test_refusals_total", "public", seams).await.unwrap()
}

fn key(name: &str, key: &str, role: &str) -> ApiKey {
    let hash = format!("blake3:{}", blake3::hash(key.as_bytes()).to_hex());
    ApiKey { name: name.to_owned(), hash, roles: vec![role.to_owned()] }
}

#[expect(clippy::disallowed_methods, reason = "a real file of the test")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_open_port_asks_nobody_who_they_are() {
    let seams = Seams::simulated(1);
    let guard = guard(&Config::default(), &seams).await;
    for headers in [vec![], header("Bearer x"), header("Basic eDp5"), vec![&b"a"[..], b"b"]] {
        let principal = guard.authenticate(headers).unwrap();
        assert_eq!(&*principal.name, "");
        assert_eq!(guard.authorize(&principal, Role::Admin, None), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn one_bearer_credential_is_asked_for() {
    let seams = Seams::simulated(1);
    let keys = vec![key("shop", "right", "write:cart")];
    let guard = guard(&Config { mode: Mode::ApiKeys, keys, ..Config::default() }, &seams).await;
    for text in ["Bearer right", "bearer right", "BEARER   right", "Bearer right "] {
        assert_eq!(&*guard.authenticate(header(text)).unwrap().name, "key:shop", "{text:?}");
    }
    for (headers, refusal) in [
        (vec![], Refusal::Missing),
        (header(""), Refusal::Malformed),
        (header("Bearer"), Refusal::Malformed),
        (header("Bearer "), Refusal::Malformed),
        (header("right"), Refusal::Malformed),
        (header("Basic right"), Refusal::Malformed),
        (header("Bearer right more"), Refusal::Malformed),
        (header("Bearer r\u{fc}ckwärts"), Refusal::Malformed),
        (vec![&b"Bearer right"[..], b"Bearer right"], Refusal::Malformed),
        (header("Bearer wrong"), Refusal::UnknownKey),
        (header("Bearer shop"), Refusal::UnknownKey),
    ] {
        assert_eq!(guard.authenticate(headers.clone()).unwrap_err(), refusal, "{headers:?}");
    }
    let long = format!("Bearer {}", "x".repeat(CREDENTIAL_BYTES_MAX + 1));
    assert_eq!(guard.authenticate(header(&long)).unwrap_err(), Refusal::Malformed);

    let shop = guard.authenticate(header("Bearer right")).unwrap();
    assert_eq!(guard.authorize(&shop, Role::Write, Some("cart")), Ok(()));
    assert_eq!(guard.authorize(&shop, Role::Write, Some("account")), Err(Refusal::Forbidden));
    assert_eq!(guard.authorize(&shop, Role::Admin, None), Err(Refusal::Forbidden));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (seams, folder) = (Seams::simulated(1), tempfile::tempdir().unwrap());
    let file = folder.path().join("keys.toml");
    let line =
        |text: &str| format!("[[keys]]\nname = \"a\"\nhash = \"{}\"\nroles = [\"read\"]\n", key("", text, "").hash);
    write(&file, &line("first"));
    let config = Config { mode: Mode::ApiKeys, keys_file: Some(file.clone()), ..Config::default() };
    let guard = guard(&config, &seams).await;
    assert!(guard.authenticate(header("Bearer first")).is_ok() && guard.authenticate(header("Bearer second")).is_err());
    write(&file, &line("second"));
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert!(guard.authenticate(header("Bearer first")).is_err(), "a key that was taken out holds no longer");
    assert!(guard.authenticate(header("Bearer second")).is_ok());
    // Whoever spoils the file locks nobody out.
    write(&file, "[[keys");
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert!(guard.authenticate(header("Bearer second")).is_ok());
    // To take out all keys is no mistake.
    write(&file, "");
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert!(guard.authenticate(header("Bearer second")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_port_without_what_it_needs_is_not_opened() {
    let seams = Seams::simulated(1);
    let metrics = Metrics::new(&[]).unwrap();
    for (config, part) in [
        (Config { mode: Mode::ApiKeys, ..Config::default() }, "there is none"),
        (
            Config { mode: Mode::ApiKeys, keys_file: Some("/nowhere".into()), ..Config::default() },
            "cannot read /nowhere",
        ),
        (
            Config { mode: Mode::ApiKeys, keys: vec![key("a", "k", "owner")], ..Config::default() },
            "\"owner\" is not a role",
        ),
        (Config { mode: Mode::Jwt, ..Config::default() }, "issuer is missing"),
    ] {
        let error = Guard::start(&config, &metrics, "test_refusals_total", "public", &seams).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn until_keys_could_be_fetched_tokens_are_not_called_wrong() {
    let seams = Seams::simulated(1);
    let jwt = JwtConfig {
        issuer: Some("i".to_owned()),
        audience: Some("a".to_owned()),
        jwks_url: Some("http://127.0.0.1:81/keys".to_owned()),
        ..JwtConfig::default()
    };
    let guard = guard(&Config { mode: Mode::Jwt, jwt, ..Config::default() }, &seams).await;
    assert_eq!(guard.authenticate(header("Bearer a.b.c")).unwrap_err(), Refusal::NoKeys);
}

/// Lines of a log.
#[derive(Clone, Default)]
struct Lines(Arc<parking_lot::Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_logged_with_its_reason_and_without_the_secret() {
    let seams = Seams::simulated(1);
    let keys = vec![key("shop", "right-secret", "read")];
    let guard = guard(&Config { mode: Mode::ApiKeys, keys, ..Config::default() }, &seams).await;
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    guard.authenticate(header("Bearer wrong-secret")).unwrap_err();
    guard.authenticate(header("Basic wrong-secret")).unwrap_err();
    let shop = guard.authenticate(header("Bearer right-secret")).unwrap();
    guard.authorize(&shop, Role::Write, Some("cart")).unwrap_err();
    let log = String::from_utf8(lines.0.lock().clone()).unwrap();
    for part in ["unknown-key", "malformed", "forbidden", "key:shop", "public"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(!log.contains("secret"), "{log}");
}
