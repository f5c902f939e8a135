//! Whatever a request is made of, it is answered as the contract says.

use super::*;

fn any_header() -> impl Strategy<Value = (String, Vec<u8>)> {
    let names = prop::sample::select(vec![
        "accept",
        "content-type",
        "content-encoding",
        "content-length",
        "if-match",
        "if-none-match",
        "idempotency-key",
        "prefer",
        "berth-session",
        "traceparent",
        "expect",
        "last-event-id",
    ]);
    let telling = prop::sample::select(vec![
        "*",
        "*/*",
        "\"3\"",
        "W/\"3\"",
        "\"",
        "return=minimal",
        "wait=5",
        "wait=99",
        "application/json",
        "text/event-stream",
        "a;q=0",
        ",",
        "=",
        ";",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ]);
    let value = prop_oneof![
        prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff], 0..40),
        prop::collection::vec(telling, 0..4).prop_map(|parts| parts.concat().into_bytes()),
    ];
    (names.prop_map(str::to_owned), value)
}

fn any_target() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "/",
        "v1",
        "entities",
        "kinds",
        "counter",
        "alice",
        "add",
        "events",
        "%",
        "%2F",
        "%2e",
        "%ff",
        "%00",
        "..",
        "?",
        "&",
        "=",
        "after",
        "limit",
        "18446744073709551616",
        "wait",
        "\u{fc}",
        "+",
        "//",
        "~",
    ]);
    let assembled = prop::collection::vec(parts, 0..12).prop_map(|parts| format!("/v1/{}", parts.concat()));
    prop_oneof![assembled, "/v1/entities/counter/[ -~]{1,30}", "/v1/entities/[a-z%/0-9?&=]{1,40}", "/[ -~]{0,30}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every one of the node's answers is good, so that a fault would be the gateway's own.
    #[test]
    fn no_request_panics_or_is_answered_with_an_error_of_the_server(
        method in prop::sample::select(vec!["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]),
        target in any_target(),
        headers in prop::collection::vec(any_header(), 0..5),
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..100), "[\\[\\]{}\":,a1 ]{0,200}".prop_map(String::into_bytes)],
    ) {
        let mut request = Request::builder().method(method).uri(&target);
        for (name, value) in &headers {
            request = request.header(name, value.as_slice());
        }
        // What HTTP itself does not allow never gets here.
        let Ok(request) = request.body(Full::new(Bytes::from(body))) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let answer = runtime.block_on(async {
            let api = api(content);
            finish(api.answer(request).await).await
        });
        prop_assert!(answer.status < 500, "{method} {target}: {}", answer.status);
        if answer.status >= 400 && method != "HEAD" {
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            prop_assert_eq!(&problem["status"], &json!(answer.status));
        } else if method != "HEAD" && answer.status == 200 {
            prop_assert!(serde_json::from_slice::<Value>(&answer.body).is_ok());
        }
    }
}
