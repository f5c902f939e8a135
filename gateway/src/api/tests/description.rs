//! What the port says of itself, and of what is wrong in a body.

use berth_shared::message::Violation;

use super::*;

const LAMP: &[u8] = br#"[{"kind":"lamp","state":{},"commands":{"toggle":{"type":"object"}},"events":{},"reply":{}}]"#;
const LAMP_AND_BELL: &[u8] = br#"[{"kind":"lamp","state":{},"commands":{},"events":{},"reply":{}},
    {"kind":"bell","state":{},"commands":{"ring":{"type":"object"}},"events":{},"reply":{}}]"#;

/// What the nodes say their kinds are; none answers while there is nothing.
type Said = Arc<Mutex<Option<&'static [u8]>>>;

fn described_by(said: &Said) -> Api<Scripted> {
    let said = said.clone();
    api(move |_, _| match *said.lock() {
        Some(json) => reply(&Reply::Kinds { json }),
        None => Err(CallError::NotExecuted),
    })
}

async fn has_path(api: &Api<Scripted>, path: &str) -> bool {
    let answer = ask(api, "GET", "/openapi.json", &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    document["paths"].get(path).is_some()
}

#[tokio::test(start_paused = true)]
async fn the_description_follows_the_kinds_and_outlives_the_nodes() {
    let said = Said::default();
    let api = described_by(&said);
    let answer = ask(&api, "GET", "/openapi.json", &[], "").await;
    assert_eq!((answer.status, answer.code().as_str(), answer.header("retry-after")), (503, "unavailable", Some("1")));

    *said.lock() = Some(LAMP);
    let (toggle, ring) = ("/v1/entities/lamp/{id}/toggle", "/v1/entities/bell/{id}/ring");
    assert!(has_path(&api, toggle).await && !has_path(&api, ring).await);
    *said.lock() = Some(LAMP_AND_BELL);
    assert!(!has_path(&api, toggle).await && has_path(&api, ring).await);

    *said.lock() = None;
    let before = api.seams.clock.now();
    assert!(has_path(&api, ring).await);
    assert!(api.seams.clock.now().since(before) <= Duration::from_secs(1), "it does not wait for nodes to come back");
    // What cannot be understood does not take its place.
    *said.lock() = Some(b"[{}]");
    assert!(has_path(&api, ring).await);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_cannot_be_understood_make_no_description() {
    let api = described_by(&Arc::new(Mutex::new(Some(b"[{}]".as_slice()))));
    assert_eq!(ask(&api, "GET", "/openapi.json", &[], "").await.code(), "unavailable");
}

#[tokio::test(start_paused = true)]
async fn the_page_is_served_without_a_node() {
    let api = described_by(&Said::default());
    let page = ask(&api, "GET", "/docs", &[], "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for file in ["/docs/script.js", "/docs/style.css"] {
        assert!(std::str::from_utf8(&page.body).unwrap().contains(file.trim_start_matches('/')));
        assert_eq!(ask(&api, "GET", file, &[], "").await.status, 200);
        assert_eq!(ask(&api, "POST", file, &[], "").await.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
    assert_eq!(api.forward.nodes().asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_problem_points_to_what_is_wrong_in_a_body() {
    let api = api(|_, _| {
        let violations = vec![
            Violation { pointer: "/by", detail: "the value is not of type \"integer\"" },
            Violation { pointer: "", detail: "something else" },
        ];
        reply(&Reply::Refused(Refusal { violations, ..refused(Code::InvalidRequest) }))
    });
    let answer = ask(&api, "POST", ADD, &[], r#"{"by":"x"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-request"));
    let first = json!({ "pointer": "/by", "detail": "the value is not of type \"integer\"" });
    assert_eq!(answer.json()["errors"], json!([first, { "pointer": "", "detail": "something else" }]));
    let other = ask(&api, "GET", "/v1/entities/cart/%00", &[], "").await;
    assert_eq!(other.json().get("errors"), None, "only bodies have places");
}
