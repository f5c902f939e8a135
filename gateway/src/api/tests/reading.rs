//! Reads that replicas may answer, and reads that wait for the next event.

use super::*;

const EVENTS: &str = "/v1/entities/counter/alice/events";

fn shard() -> ShardId {
    EntityKey::new("counter", "alice").unwrap().shard(64)
}

fn token(cluster: ClusterId, shard: ShardId, index: u64) -> String {
    Token::single(cluster, shard, Seen { incarnation: 1, index }).encode()
}

/// Who was asked, and for what.
fn asked(api: &Api<Scripted>) -> Vec<(String, Consistency)> {
    let nodes = api.forward.nodes();
    let look = |n| {
        nodes.question(n, |address, question| match question {
            Question::Read { consistency, .. } | Question::Events { consistency, .. } => {
                (address.to_owned(), consistency)
            }
            other => panic!("{other:?}"),
        })
    };
    (1..=nodes.asked()).map(look).collect()
}

fn is_replica(address: &str) -> bool {
    ["node-2:1", "node-3:1"].contains(&address)
}

fn stale(lag_micros: Option<u64>, answer: &Reply<'_>) -> Result<Bytes, CallError> {
    let answer = peer::encode(answer).unwrap();
    reply(&Reply::Stale { lag_micros, answer: &answer })
}

#[tokio::test(start_paused = true)]
async fn a_session_read_asks_a_replica_for_what_the_token_has_seen() {
    let elsewhere = ShardId((shard().0 + 1) % 64);
    for (brought, expected) in [
        (None, Consistency::Session { at_least: None }),
        (Some(token(CLUSTER, elsewhere, 9)), Consistency::Session { at_least: None }),
        (Some(token(CLUSTER, shard(), 9)), Consistency::Session { at_least: Some(Seen { incarnation: 1, index: 9 }) }),
        (Some(token(ClusterId(8), shard(), 9)), Consistency::Linearizable),
        (Some(overflowed()), Consistency::Linearizable),
    ] {
        for path in [ALICE, EVENTS] {
            let api = api(content);
            let headers: Vec<_> = brought.iter().map(|token| ("berth-session", token.as_str())).collect();
            let answer = ask(&api, "GET", &format!("{path}?consistency=session"), &headers, "").await;
            assert_eq!((answer.status, answer.header("berth-lag")), (200, None));
            let [(address, consistency)] = &asked(&api)[..] else { panic!("one question") };
            assert_eq!((is_replica(address), *consistency), (expected != Consistency::Linearizable, expected));
        }
    }
}

/// Of a client that has seen so many shards that its token cannot tell whether this one was among them.
fn overflowed() -> String {
    let mut token: Option<Token> = None;
    for other in (0..=128).map(|n| ShardId(n * 100)) {
        let one = Token::single(CLUSTER, other, Seen { incarnation: 1, index: 1 });
        match &mut token {
            None => token = Some(one),
            Some(token) => token.merge(&one),
        }
    }
    let token = token.unwrap();
    assert_eq!(token.requirement(shard()), Requirement::Owner);
    token.encode()
}

#[tokio::test(start_paused = true)]
async fn the_owner_is_asked_at_once_for_what_a_replica_does_not_have() {
    for refuse in [Reply::WrongOwner { owner: None }, Reply::Refused(refused(Code::Unavailable))] {
        let refuse = peer::encode(&refuse).unwrap();
        let api = api(move |question, n| if n == 1 { Ok(refuse.clone()) } else { content(question, n) });
        let began = api.seams.clock.now();
        let brought = token(CLUSTER, shard(), 9);
        let headers = [("berth-session", brought.as_str())];
        let answer = ask(&api, "GET", &format!("{ALICE}?consistency=session"), &headers, "").await;
        assert_eq!((answer.status, api.seams.clock.now().since(began)), (200, Duration::ZERO));
        let asked = asked(&api);
        assert!(is_replica(&asked[0].0));
        assert_eq!(asked[1], ("node-1:1".to_owned(), Consistency::Linearizable));
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_are_asked_in_turns_with_an_owner_that_is_away() {
    let away = |question: &Question<'_>, n: usize| match n {
        5 => content(question, n),
        _ => Err(CallError::NotExecuted),
    };
    let api = api(away);
    assert_eq!(ask(&api, "GET", &format!("{ALICE}?consistency=session"), &[], "").await.status, 200);
    let at_replica: Vec<bool> = asked(&api).iter().map(|(address, _)| is_replica(address)).collect();
    assert_eq!(at_replica, [true, false, true, false, true]);
    let addresses: Vec<String> = asked(&api).into_iter().map(|asked| asked.0).collect();
    assert_ne!(addresses[0], addresses[2], "another one");
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_says_how_far_behind_it_may_be() {
    for (lag_micros, header) in [(Some(0), "0"), (Some(1), "1"), (Some(12_345), "13"), (None, "unknown")] {
        let script = move |question: &Question<'_>, _n: usize| match question {
            Question::Read { consistency: Consistency::Stale, .. } => {
                stale(lag_micros, &Reply::State { version: 3, state: b"{\"value\":5}", seen: SEEN })
            }
            Question::Events { consistency: Consistency::Stale, .. } => {
                let refusal = Refusal { seen: Some(SEEN), ..refused(Code::NotFound) };
                stale(lag_micros, &Reply::Refused(refusal))
            }
            other => panic!("{other:?}"),
        };
        let api = api(script);
        let answer = ask(&api, "GET", &format!("{ALICE}?consistency=stale"), &[], "").await;
        assert_eq!((answer.status, answer.header("berth-lag")), (200, Some(header)));
        assert_eq!(answer.json()["state"], json!({"value": 5}));
        let unchanged = [("if-none-match", "\"3\"")];
        let answer = ask(&api, "GET", &format!("{ALICE}?consistency=stale"), &unchanged, "").await;
        assert_eq!((answer.status, answer.header("berth-lag")), (304, Some(header)));
        let missing = ask(&api, "GET", &format!("{EVENTS}?consistency=stale"), &[], "").await;
        assert_eq!((missing.status, missing.header("berth-lag")), (404, Some(header)));
        let token = Token::decode(missing.header("berth-session").unwrap()).unwrap();
        assert_eq!(token.requirement(shard()), Requirement::AtLeast(SEEN), "what was not there was seen, too");
        assert!(asked(&api).iter().all(|(address, _)| is_replica(address)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_does_not_make_a_token_older() {
    let api = api(|_: &Question<'_>, _| stale(None, &Reply::State { version: 3, state: b"{}", seen: SEEN }));
    for (brought, kept) in [(100, 100), (SEEN.index, SEEN.index), (7, SEEN.index)] {
        let brought = token(CLUSTER, shard(), brought);
        let headers = [("berth-session", brought.as_str())];
        let answer = ask(&api, "GET", &format!("{ALICE}?consistency=stale"), &headers, "").await;
        let token = Token::decode(answer.header("berth-session").unwrap()).unwrap();
        assert_eq!(token.requirement(shard()), Requirement::AtLeast(Seen { incarnation: 1, index: kept }));
    }
}

/// Nodes are trusted to be what they are, not to be right.
#[tokio::test(start_paused = true)]
async fn a_stale_answer_that_makes_no_sense_is_asked_for_again() {
    let inner = peer::encode(&Reply::State { version: 3, state: b"{}", seen: SEEN }).unwrap();
    let nested = peer::encode(&Reply::Stale { lag_micros: None, answer: &inner }).unwrap();
    for nonsense in [nested, Bytes::from_static(b"\xff\xff"), Bytes::new()] {
        let api = api(move |_: &Question<'_>, n| match n {
            1 => reply(&Reply::Stale { lag_micros: Some(1), answer: &nonsense }),
            _ => stale(Some(1), &Reply::State { version: 3, state: b"{}", seen: SEEN }),
        });
        assert_eq!(ask(&api, "GET", &format!("{ALICE}?consistency=stale"), &[], "").await.status, 200);
        assert_eq!(api.forward.nodes().asked(), 2);
    }
}

/// The waits that nodes were asked for, in milliseconds.
fn waits(api: &Api<Scripted>) -> Vec<u32> {
    let nodes = api.forward.nodes();
    let wait = |n| {
        nodes.question(n, |_, question| match question {
            Question::Events { wait_millis, .. } => wait_millis,
            other => panic!("{other:?}"),
        })
    };
    (1..=nodes.asked()).map(wait).collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_waits_at_the_node_within_its_deadline() {
    for (query, headers, wait) in [
        ("", &[][..], 0),
        ("?wait=0", &[], 0),
        ("?wait=7", &[], 7000),
        ("?wait=30", &[], 30_000),
        ("?wait=30", &[("prefer", "wait=8")], 6000),
        ("?wait=2", &[("prefer", "wait=8")], 2000),
    ] {
        let api = api(content);
        assert_eq!(ask(&api, "GET", &format!("{EVENTS}{query}"), headers, "").await.status, 200);
        assert_eq!(waits(&api), [wait], "{query} {headers:?}");
        let polled = api.forward.nodes().polled.load(Ordering::Relaxed);
        assert_eq!(polled, usize::from(wait > 0), "those that wait go their own way");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_that_is_sent_on_waits_for_what_is_left() {
    let api = api(|question, n| match n {
        1..=3 => reply(&Reply::WrongOwner { owner: None }),
        _ => content(question, n),
    });
    let began = api.seams.clock.now();
    assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=20"), &[], "").await.status, 200);
    let waits = waits(&api);
    assert!(waits.is_sorted_by(|a, b| a > b) && waits[0] == 20_000, "{waits:?}");
    let passed = u32::try_from(api.seams.clock.now().since(began).as_millis()).unwrap();
    assert!(waits[3].abs_diff(20_000 - passed) <= 1, "{waits:?} after {passed} ms");
}

#[tokio::test(start_paused = true)]
async fn without_an_owner_a_long_poll_ends_at_its_deadline() {
    let api = api(|_: &Question<'_>, _| Err(CallError::NotExecuted));
    let began = api.seams.clock.now();
    assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=3"), &[], "").await.code(), "unavailable");
    let passed = api.seams.clock.now().since(began);
    assert!((Duration::from_millis(7800)..=Duration::from_secs(8)).contains(&passed), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_takes_no_place_of_other_requests() {
    let api = Arc::new(api_with(1, Box::new(content)));
    let _permit = api.admission.enter().unwrap();
    assert_eq!(ask(&api, "GET", EVENTS, &[], "").await.code(), "overloaded");
    assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=1"), &[], "").await.status, 200);
    let _place = api.streams.enter().unwrap();
    assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=1"), &[], "").await.code(), "overloaded");
}
