//! The description of the API, for the built-in kinds, is the one in `gateway/openapi.json`. A change of it is a change of
//! what clients are promised, and is to be seen in a diff. To write the file anew:
//!
//! ```sh
//! BERTH_WRITE_GOLDEN=1 cargo test -p berth-local --test cluster openapi
//! ```
#![expect(clippy::disallowed_methods, reason = "the file is the test's own")]

use std::path::Path;

use serde_json::Value;

use crate::program::Local;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_the_one_in_the_repository() {
    let local = Local::start(&["--ephemeral", "--nodes", "1"]).await;
    let served = local.gateway().await.get("/openapi.json").await.json();
    local.stop("INT").await;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/openapi.json");
    if std::env::var_os("BERTH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{served:#}\n")).unwrap();
    }
    let stored: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut different = Vec::new();
    compare("", &stored, &served, &mut different);
    assert!(different.is_empty(), "gateway/openapi.json differs from what is served, at:\n{}", different.join("\n"));
}

/// The places where two documents differ, as JSON Pointers.
fn compare(place: &str, stored: &Value, served: &Value, different: &mut Vec<String>) {
    match (stored, served) {
        (Value::Object(stored), Value::Object(served)) => {
            let names: std::collections::BTreeSet<&String> = stored.keys().chain(served.keys()).collect();
            for name in names {
                let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
                let member =
                    |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or(Value::Null);
                compare(&place, &member(stored), &member(served), different);
            }
        }
        _ if stored != served => different.push(place.to_owned()),
        _ => {}
    }
}
