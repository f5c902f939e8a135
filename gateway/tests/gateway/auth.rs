//! Who is let in at the gateway's ports, and what they may do there.

use berth_gateway::Config;
use berth_shared::auth::{self, ApiKey, Mode};
use berth_shared::seam::Seams;

use crate::twin::{Answer, ask, node_and_gateway};
use crate::{ADD, ADMIN, ALICE, PUBLIC};

/// The hash of `reader-key` and those of others, as `sha256sum` has them.
const READER: &str = "sha256:ec4408df15da46b328f6f3246fa723d0aa6cb0f0a0dd9c4626080ab1b02aa3b2";
const COUNTER: &str = "sha256:edbd7968212204de4f16847e8aa622c26329f5f074698dc93879d21fdb01711b";
const WRITER: &str = "sha256:3aec1946afb01344ae0065f3b123820a2144e455c13e5816dbd439e6634f7f26";

fn key(name: &str, hash: &str, role: &str) -> ApiKey {
    ApiKey { name: name.to_owned(), hash: hash.to_owned(), roles: vec![role.to_owned()] }
}

pub(crate) fn config() -> Config {
    let keys =
        vec![key("reader", READER, "read"), key("counter", COUNTER, "write:counter"), key("writer", WRITER, "write")];
    let auth = auth::Config { mode: Mode::ApiKeys, keys, ..auth::Config::default() };
    Config { admin_auth: auth.clone(), auth, ..Config::default() }
}

/// The header of a credential.
fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

async fn with(seams: &Seams, method: &str, path: &str, key: &str) -> Answer {
    ask(seams, method, PUBLIC, path, &[("authorization", &bearer(key))], "").await
}

#[tokio::test(start_paused = true)]
async fn without_a_credential_everything_but_methods_is_refused() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, config()).await;
    for (method, path) in [
        ("GET", ALICE),
        ("HEAD", ALICE),
        ("POST", ADD),
        ("DELETE", ALICE),
        ("GET", "/v1/kinds"),
        ("GET", "/v1/kinds/counter"),
        ("GET", "/nowhere"),
        ("GET", "/v1/entities/Cart/a"),
    ] {
        let answer = ask(&seams, method, PUBLIC, path, &[], "").await;
        assert_eq!(
            (answer.status, answer.headers["www-authenticate"].to_str().unwrap()),
            (401, "Bearer"),
            "{method} {path}"
        );
        if method != "HEAD" {
            assert_eq!(answer.code(), "unauthenticated");
        }
        let wrong = with(&seams, method, path, "guess").await;
        let challenge = wrong.headers["www-authenticate"].to_str().unwrap();
        assert_eq!((wrong.status, challenge), (401, "Bearer error=\"invalid_token\""), "{method} {path}");
        assert!(!wrong.body.windows(5).any(|part| part == b"guess"), "the secret is not said again");
    }
    let twice = [("authorization", "Bearer reader-key"), ("authorization", "Bearer reader-key")];
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &twice, "").await.status, 401);
    assert_eq!(ask(&seams, "OPTIONS", PUBLIC, ADD, &[], "").await.status, 204);
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn roles_allow_what_they_say_by_kind_and_the_node_hears_whose_command_it_is() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, config()).await;
    let cart = "/v1/entities/cart/a/checkout";
    for (key, method, path, status) in [
        ("reader-key", "GET", ALICE, 200),
        ("reader-key", "GET", "/v1/kinds", 200),
        ("reader-key", "POST", ADD, 403),
        ("counter-key", "POST", ADD, 200),
        ("counter-key", "GET", ALICE, 200),
        ("counter-key", "GET", "/v1/entities/counter/alice/events", 200),
        ("counter-key", "GET", "/v1/kinds", 200),
        ("counter-key", "GET", "/v1/kinds/counter", 200),
        ("counter-key", "GET", "/v1/kinds/cart", 403),
        ("counter-key", "POST", cart, 403),
        ("counter-key", "GET", "/v1/entities/cart/a", 403),
        ("counter-key", "GET", "/v1/entities/cart/a/events", 403),
        ("writer-key", "POST", cart, 200),
        ("writer-key", "GET", "/nowhere", 404),
    ] {
        let answer = with(&seams, method, path, key).await;
        assert_eq!(answer.status, status, "{key} {method} {path}");
        if status == 403 {
            let challenge = answer.headers["www-authenticate"].to_str().unwrap();
            assert_eq!((answer.code().as_str(), challenge), ("forbidden", "Bearer error=\"insufficient_scope\""));
        }
    }
    assert_eq!(*node.handler.principals.lock(), ["key:counter", "key:writer"]);
}

#[tokio::test(start_paused = true)]
async fn the_admin_port_has_credentials_of_its_own_and_probes_need_none() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, config()).await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(&seams, "GET", ADMIN, path, &[], "").await.status, 200, "{path}");
    }
    for path in
        ["/metrics", "/v1/cluster", "/v1/cluster/shards", "/v1/cluster/explain/counter/a", "/nowhere", "/livez/x"]
    {
        let answer = ask(&seams, "GET", ADMIN, path, &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{path}");
    }
    let admin = async |path: &str, key: &str| -> Answer {
        ask(&seams, "GET", ADMIN, path, &[("authorization", &bearer(key))], "").await
    };
    assert_eq!(admin("/v1/cluster", "guess").await.status, 401);
    assert_eq!(admin("/v1/cluster", "reader-key").await.status, 200);
    with(&seams, "POST", ADD, "reader-key").await;
    let page = admin("/metrics", "reader-key").await;
    for line in [
        r#"berth_gateway_auth_refusals_total{port="admin",reason="missing",role="gateway"} 6"#,
        r#"berth_gateway_auth_refusals_total{port="admin",reason="unknown-key",role="gateway"} 1"#,
        r#"berth_gateway_auth_refusals_total{port="public",reason="forbidden",role="gateway"} 1"#,
    ] {
        assert!(page.text().contains(line), "{line} in {}", page.text());
    }
    let open = Seams::simulated(2);
    let (_node, _gateway) = node_and_gateway(&open, Config { admin_metrics_open: true, ..config() }).await;
    assert_eq!(ask(&open, "GET", ADMIN, "/metrics", &[], "").await.status, 200);
    assert_eq!(ask(&open, "GET", ADMIN, "/v1/cluster", &[], "").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_does_not_start_with_keys_that_make_no_sense() {
    let seams = Seams::simulated(1);
    let keys = vec![key("reader", "md5:1", "read")];
    let auth = auth::Config { mode: Mode::ApiKeys, keys, ..auth::Config::default() };
    let metrics = berth_shared::telemetry::Metrics::new(&[]).unwrap();
    let config = Config { auth, ..Config::default() };
    let error = berth_gateway::start(config, seams, berth_shared::telemetry::Tracing::OFF, metrics).await.unwrap_err();
    assert!(error.to_string().starts_with("auth: API keys: the key \"reader\": its hash is not"), "{error}");
}
