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

/// A node that has no event yet when it is asked at once, and one when it is waited for.
fn later(question: &Question<'_>, n: usize) -> Result<Bytes, CallError> {
    match question {
        Question::Events { wait_millis: 0, .. } => {
            reply(&Reply::Events { events: vec![], next: None, seen: Seen { incarnation: 1, index: 7 } })
        }
        other => content(other, n),
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_waits_at_the_node_within_its_deadline() {
    for (query, headers, expected) in [
        ("", &[][..], &[0][..]),
        ("?wait=0", &[], &[0]),
        ("?wait=7", &[], &[0, 7000]),
        ("?wait=30", &[], &[0, 30_000]),
        ("?wait=30", &[("prefer", "wait=8")], &[0, 6000]),
        ("?wait=2", &[("prefer", "wait=8")], &[0, 2000]),
    ] {
        let api = api(later);
        let answer = ask(&api, "GET", &format!("{EVENTS}{query}"), headers, "").await;
        let waited = expected.len() - 1;
        assert_eq!((answer.status, answer.json()["events"].as_array().unwrap().len()), (200, waited), "{query}");
        assert_eq!(waits(&api), expected, "{query} {headers:?}");
        let polled = api.forward.nodes().polled.load(Ordering::Relaxed);
        assert_eq!(polled, waited, "those that wait go their own way");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_told_without_waiting_and_the_time_until_then_counts() {
    let there = api(content);
    assert_eq!(ask(&there, "GET", &format!("{EVENTS}?wait=7"), &[], "").await.status, 200);
    assert_eq!(waits(&there), [0]);
    for (takes, expected) in [(1000, &[0, 1000][..]), (1990, &[0, 10])] {
        let api = api(later);
        *api.forward.nodes().takes.lock() = Duration::from_millis(takes);
        ask(&api, "GET", &format!("{EVENTS}?wait=2"), &[], "").await;
        assert_eq!(waits(&api)[..2], *expected, "{takes}");
    }
    let late = api(later);
    *late.forward.nodes().takes.lock() = Duration::from_millis(1500);
    let answer = ask(&late, "GET", &format!("{EVENTS}?wait=1"), &[], "").await;
    assert_eq!((answer.status, answer.json()["events"].as_array().unwrap().len()), (200, 0));
    assert_eq!(waits(&late), [0], "no time is left to wait in");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_that_is_sent_on_waits_for_what_is_left() {
    let api = api(|question, n| match n {
        2..=4 => reply(&Reply::WrongOwner { owner: None }),
        _ => later(question, n),
    });
    let began = api.seams.clock.now();
    assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=20"), &[], "").await.status, 200);
    let waits = waits(&api);
    assert!(waits[1..].is_sorted_by(|a, b| a > b) && waits[..2] == [0, 20_000], "{waits:?}");
    let passed = u32::try_from(api.seams.clock.now().since(began).as_millis()).unwrap();
    assert!(waits[4].abs_diff(20_000 - passed) <= 1, "{waits:?} after {passed} ms");
}

/// It is given no more time for what is to be told at once than any other page.
#[tokio::test(start_paused = true)]
async fn without_an_owner_a_long_poll_ends_at_its_deadline() {
    for (owned, seconds) in [(0, 5), (1, 8)] {
        let api = api(move |question, n| if n > owned { Err(CallError::NotExecuted) } else { later(question, n) });
        let began = api.seams.clock.now();
        assert_eq!(ask(&api, "GET", &format!("{EVENTS}?wait=3"), &[], "").await.code(), "unavailable");
        let (passed, deadline) = (api.seams.clock.now().since(began), Duration::from_secs(seconds));
        assert!(passed <= deadline && passed + Duration::from_millis(200) >= deadline, "{passed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_takes_a_place_for_what_is_there_and_none_while_it_waits() {
    let api = Arc::new(api_with(1, Box::new(later)));
    let poll = format!("{EVENTS}?wait=1");
    let permit = api.admission.enter().unwrap();
    assert_eq!(ask(&api, "GET", EVENTS, &[], "").await.code(), "overloaded");
    assert_eq!(ask(&api, "GET", &poll, &[], "").await.code(), "overloaded");
    drop(permit);
    let polling = async {
        *api.forward.nodes().takes.lock() = Duration::from_millis(900);
        ask(&api, "GET", &poll, &[], "").await.status
    };
    let beside = async {
        api.seams.spawner.sleep(Duration::from_millis(950)).await;
        assert_eq!((api.admission.taken(), api.streams.taken()), (0, 1));
        *api.forward.nodes().takes.lock() = Duration::ZERO;
        ask(&api, "GET", ALICE, &[], "").await.status
    };
    assert_eq!(tokio::join!(polling, beside), (200, 200));
    let _place = api.streams.enter().unwrap();
    assert_eq!(ask(&api, "GET", &poll, &[], "").await.code(), "overloaded");
    assert_eq!(ask(&api, "GET", EVENTS, &[], "").await.status, 200);
}

/// What was read before the wait is still what there is.
#[tokio::test(start_paused = true)]
async fn where_the_gateway_ends_a_long_poll_is_answered_at_once_with_what_there_was() {
    let api = api(later);
    *api.forward.nodes().takes.lock() = Duration::from_millis(900);
    let ending = async {
        api.seams.spawner.sleep(Duration::from_millis(1000)).await;
        api.streams.end();
    };
    let began = api.seams.clock.now();
    let poll = format!("{EVENTS}?wait=20");
    let (answer, ()) = tokio::join!(ask(&api, "GET", &poll, &[], ""), ending);
    assert_eq!((answer.status, answer.json()["events"].as_array().unwrap().len()), (200, 0));
    assert!(answer.header("berth-session").is_some());
    assert_eq!((api.seams.clock.now().since(began), api.forward.nodes().asked()), (Duration::from_secs(1), 2));
}

#[tokio::test(start_paused = true)]
async fn the_session_token_grows_with_every_answer() {
    let api = api(content);
    let shard = EntityKey::new("counter", "alice").unwrap().shard(64);
    let first = ask(&api, "GET", ALICE, &[], "").await;
    let token = Token::decode(first.header("berth-session").unwrap()).unwrap();
    assert_eq!((token.cluster(), token.requirement(shard)), (CLUSTER, Requirement::AtLeast(SEEN)));

    let elsewhere = ShardId(u16::from(shard.0 == 0));
    let brought = Token::single(CLUSTER, elsewhere, SEEN).encode();
    for (method, path) in [("GET", ALICE), ("POST", ADD)] {
        let answer = ask(&api, method, path, &[("berth-session", &brought)], "").await;
        let token = Token::decode(answer.header("berth-session").unwrap()).unwrap();
        assert_eq!(token.requirement(shard), Requirement::AtLeast(SEEN));
        assert_eq!(token.requirement(elsewhere), Requirement::AtLeast(SEEN), "what was brought is kept");
        assert_eq!(ask(&api, method, path, &[("berth-session", &brought[..40])], "").await.code(), "invalid-request");
    }
}

/// The owner has seen everything that there still is, so it answers, and what a token says of an incarnation before, however
/// much that was, is replaced by what there is now.
#[tokio::test(start_paused = true)]
async fn a_session_of_before_a_shard_was_recovered_is_answered_by_the_owner_with_a_new_token() {
    let shard = EntityKey::new("counter", "alice").unwrap().shard(64);
    for before in [Seen { incarnation: 0, index: u64::MAX }, Seen { incarnation: 0, index: 1 }] {
        let api = api(content);
        let brought = Token::single(CLUSTER, shard, before).encode();
        for (n, (method, path)) in [("GET", ALICE), ("POST", ADD)].into_iter().enumerate() {
            let answer = ask(&api, method, path, &[("berth-session", &brought)], "").await;
            assert_eq!((answer.status, api.forward.nodes().asked()), (200, n + 1), "{method}");
            api.forward.nodes().question(n + 1, |address, question| {
                assert_eq!(address, "node-1:1", "the owner");
                let is_linearizable =
                    !matches!(question, Question::Read { consistency, .. } if consistency != Consistency::Linearizable);
                assert!(is_linearizable, "{question:?}");
            });
            let token = Token::decode(answer.header("berth-session").unwrap()).unwrap();
            assert_eq!(token.requirement(shard), Requirement::AtLeast(SEEN), "{method}");
        }
    }
}
