//! DELETE of an entity: a command without arguments, whose answer has no body.

use super::*;

fn deletion<T>(api: &Api<Scripted>, n: usize, look: impl FnOnce(Execute<'_>) -> T) -> T {
    api.forward.nodes().question(n, |_, question| match question {
        Question::Delete(execute) => look(execute),
        other => panic!("{other:?}"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_deletion_has_the_headers_of_a_command_and_no_body() {
    let api = api(content);
    let headers = [("idempotency-key", "k1"), ("if-match", "W/\"3-gzip\""), ("prefer", "wait=2, return=minimal")];
    let answer = ask(&api, "DELETE", "/v1/entities/counter/a%2Fb", &headers, "").await;
    assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (204, 0, None));
    assert_eq!((answer.header("etag"), answer.header("preference-applied")), (Some("\"4\""), Some("return=minimal")));
    assert_eq!((answer.header("idempotency-key"), answer.header("idempotency-replayed")), (None, None));
    let shard = EntityKey::new("counter", "a/b").unwrap().shard(64);
    let token = Token::decode(answer.header("berth-session").unwrap()).unwrap();
    assert_eq!(token.requirement(shard), Requirement::AtLeast(SEEN));
    deletion(&api, 1, |execute| {
        assert_eq!((execute.shard, execute.kind, execute.id, execute.command), (shard, "counter", "a/b", ""));
        assert_eq!((execute.body, execute.precondition), (&b""[..], Precondition::Versions(vec![3])));
        assert_eq!((execute.idempotency_key, execute.key_origin, execute.attempt), ("k1", KeyOrigin::Client, 2));
    });

    let answer = ask(&api, "DELETE", ALICE, &[("if-none-match", "*")], "").await;
    let made = answer.header("idempotency-key").unwrap();
    assert!(made.starts_with("gw-"));
    deletion(&api, 2, |execute| {
        assert_eq!((execute.idempotency_key, execute.attempt), (made, 1));
        assert_eq!(execute.precondition, Precondition::Absent);
        // The answer has no body, and for a retry the node would fold the whole history to make one.
        assert!(!execute.wants_state);
    });
}

#[tokio::test(start_paused = true)]
async fn what_the_entity_says_to_its_deletion_is_answered_with_its_status() {
    for (code, replayed, status) in [
        (Code::NotFound, false, 404),
        (Code::NotFound, true, 404),
        (Code::VersionMismatch, false, 412),
        (Code::KeyReused, false, 422),
        (Code::InProgress, false, 409),
        (Code::Overloaded, false, 429),
    ] {
        let refusal = Refusal { current_version: Some(7), replayed, seen: Some(SEEN), ..refused(code) };
        let api = api(move |_, _| reply(&Reply::Refused(refusal.clone())));
        let answer = ask(&api, "DELETE", ALICE, &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code.as_str()));
        assert_eq!(answer.header("idempotency-replayed"), replayed.then_some("true"));
    }
    let replayed = api(|_, _| {
        let (reply_json, seen) = (b"null".as_slice(), SEEN);
        reply(&Reply::Executed(Executed { version: 4, reply: reply_json, state: None, replayed: true, seen }))
    });
    let answer = ask(&replayed, "DELETE", ALICE, &[("idempotency-key", "k1")], "").await;
    assert_eq!((answer.status, answer.header("idempotency-replayed")), (204, Some("true")));
}

/// Rule G2 holds for deletions too: they are tried again with the same key and request id, and what is unknown is 504.
#[tokio::test(start_paused = true)]
async fn a_deletion_is_tried_again_as_one_request_and_ends_in_its_outcome_or_504() {
    let found = api(|question, n| if n == 1 { Err(CallError::MaybeExecuted) } else { content(question, n) });
    assert_eq!(ask(&found, "DELETE", ALICE, &[], "").await.status, 204);
    let attempts = [1, 2].map(|n| {
        deletion(&found, n, |execute| (execute.request_id, execute.idempotency_key.to_owned(), execute.attempt))
    });
    assert_eq!((attempts[0].0, &attempts[0].1), (attempts[1].0, &attempts[1].1));
    assert_eq!((attempts[0].2, attempts[1].2), (1, 2));

    for later in [Code::Unavailable, Code::NotFound, Code::InProgress] {
        let api = api(move |_, n| match n {
            1 => Err(CallError::MaybeExecuted),
            _ => reply(&Reply::Refused(refused(later))),
        });
        let answer = ask(&api, "DELETE", ALICE, &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "unknown-outcome"), "{later:?}");
        assert!(answer.header("idempotency-key").is_some());
    }
    let decided = api(|_, n| match n {
        1 => Err(CallError::MaybeExecuted),
        _ => reply(&Reply::Refused(Refusal { seen: Some(SEEN), ..refused(Code::NotFound) })),
    });
    assert_eq!(ask(&decided, "DELETE", ALICE, &[], "").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_counted_as_one() {
    let api = api(content);
    ask(&api, "DELETE", ALICE, &[], "").await;
    ask(&api, "GET", "/v1/entities/counter", &[], "").await;
    let page = api.metrics.registry().render().unwrap();
    for route in ["delete\",status=\"204", "listing\",status=\"200"] {
        assert!(page.contains(&format!("berth_gateway_requests_total{{route=\"{route}\"}} 1")), "{page}");
    }
}
