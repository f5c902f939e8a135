//! Attempts that come to nothing, and what a client is told in the end.

use super::*;

#[tokio::test(start_paused = true)]
async fn another_owner_is_asked_at_once_with_the_same_request_id() {
    let shard = EntityKey::new("counter", "alice").unwrap().shard(64).0;
    let api = api(move |question, n| match n {
        1 => reply(&Reply::WrongOwner { owner: Some(owner(shard, 2, 2)) }),
        _ => content(question, n),
    });
    let started = api.seams.clock.now();
    assert_eq!(ask(&api, "POST", ADD, &[], "").await.status, 200);
    assert_eq!(api.seams.clock.now(), started, "without a pause");
    let nodes = api.forward.nodes();
    let ids = [1, 2].map(|n| nodes.execute(n, |execute| (execute.request_id, execute.idempotency_key.to_owned())));
    assert_eq!(ids[0], ids[1]);
    assert_eq!([1, 2].map(|n| nodes.execute(n, |execute| execute.attempt)), [1, 2]);
    assert_eq!([1, 2].map(|n| nodes.question(n, |address, _| address.to_owned())), ["node-1:1", "node-2:1"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_not_executed_is_made_again_until_the_deadline() {
    let recovered = api(|question, n| if n < 4 { Err(CallError::NotExecuted) } else { content(question, n) });
    assert_eq!(ask(&recovered, "POST", ADD, &[], "").await.status, 200);

    assert_eq!(recovered.forward.nodes().doubts.load(Ordering::Relaxed), 3);

    let down = api(|_, _| Err(CallError::NotExecuted));
    let started = down.seams.clock.now();
    let answer = ask(&down, "POST", ADD, &[("prefer", "wait=2")], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    let waited = down.seams.clock.now().since(started);
    assert!(waited <= Duration::from_secs(2) && waited > Duration::from_millis(1800), "{waited:?}");
    assert!((10..100).contains(&down.forward.nodes().asked()), "with pauses: {}", down.forward.nodes().asked());
    assert!(!answer.json().to_string().contains("node-1"), "no address leaks");
}

/// Rule G2.
#[tokio::test(start_paused = true)]
async fn after_a_lost_attempt_a_command_ends_in_its_outcome_or_504() {
    for later in [Code::Unavailable, Code::Overloaded, Code::InProgress, Code::UnknownCommand, Code::InvalidRequest] {
        let api = api(move |_, n| match n {
            1 => Err(CallError::MaybeExecuted),
            _ => reply(&Reply::Refused(refused(later))),
        });
        let answer = ask(&api, "POST", ADD, &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (504, "unknown-outcome"), "{later:?}");
        assert!(answer.header("idempotency-key").unwrap().starts_with("gw-"), "{later:?}");
        assert_eq!(answer.header("retry-after"), None);
    }
    let busy = api(|_, n| Err(if n == 1 { CallError::MaybeExecuted } else { CallError::Busy }));
    assert_eq!(ask(&busy, "POST", ADD, &[], "").await.status, 504);
    let found = api(|question, n| if n == 1 { Err(CallError::MaybeExecuted) } else { content(question, n) });
    assert_eq!(ask(&found, "POST", ADD, &[], "").await.status, 200);
    found.forward.nodes().execute(2, |execute| assert_eq!(execute.attempt, 2));
    // The entity has said so, which it does after the key check: no earlier attempt was executed, and none will be.
    let decided = api(|_, n| match n {
        1 => Err(CallError::MaybeExecuted),
        _ => reply(&Reply::Refused(Refusal { seen: Some(SEEN), ..refused(Code::TooLarge) })),
    });
    assert_eq!(ask(&decided, "POST", ADD, &[], "").await.status, 413);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_no_sense_is_an_unknown_outcome() {
    let garbled = api(|_, _| Ok(Bytes::from_static(&[0xff; 9])));
    assert_eq!(ask(&garbled, "POST", ADD, &[], "").await.status, 504);
    assert_eq!(ask(&garbled, "GET", ALICE, &[], "").await.status, 503, "a read has no outcome");
    let mistaken = api(|_, n| content(&Question::Kinds, n));
    assert_eq!(ask(&mistaken, "POST", ADD, &[], "").await.status, 504);
    let unnamed = api(|_, _| reply(&Reply::Kinds { json: b"[7]" }));
    assert_eq!(ask(&unnamed, "GET", "/v1/kinds/cart", &[], "").await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_made_again_whatever_became_of_it() {
    let api = api(|question, n| if n < 3 { Err(CallError::MaybeExecuted) } else { content(question, n) });
    assert_eq!(ask(&api, "GET", ALICE, &[], "").await.status, 200);
}
