//! What a gateway takes on: so much in all, of one entity, of one caller, and for no longer than the caller waits.

use std::num::NonZeroUsize;

use futures_util::future::join_all;
use futures_util::stream;

use super::*;
use crate::admission::rate;
use berth_shared::auth::{self, ApiKey, Mode};

const MANY: usize = 40;

/// Requests for as many entities, at once; how many were refused.
async fn refused_of(api: &Api<Scripted>, query: &str) -> usize {
    let asking = (0..MANY).map(|number| async move {
        let path = format!("/v1/entities/counter/{number}{query}");
        let answer = ask(api, "GET", &path, &[], "").await;
        assert!(answer.status == 200 || answer.status == 503 || answer.code() == "overloaded", "{}", answer.status);
        usize::from(answer.status == 429)
    });
    join_all(asking).await.into_iter().sum()
}

fn takes(api: &Api<Scripted>, millis: u64) {
    *api.forward.nodes().takes.lock() = Duration::from_millis(millis);
}

#[tokio::test(start_paused = true)]
async fn fewer_requests_are_taken_on_when_nodes_are_slow_and_more_when_they_are_quick_again() {
    let api = api_with(MANY, Box::new(content));
    takes(&api, 100);
    for _ in 0..20 {
        assert_eq!(refused_of(&api, "").await, 0);
    }
    takes(&api, 900);
    for _ in 0..10 {
        refused_of(&api, "").await;
    }
    let limit = api.admission.limit();
    assert!(limit < MANY / 2, "{limit}");
    assert_eq!(refused_of(&api, "").await, MANY - limit);
    takes(&api, 100);
    for _ in 0..100 {
        refused_of(&api, "").await;
    }
    assert_eq!((api.admission.limit(), refused_of(&api, "").await), (MANY, 0));
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_by_its_nature_or_is_cut_short_is_no_congestion() {
    let past = api_with(MANY, Box::new(|_, _| reply(&Reply::State { version: 1, state: b"1", seen: SEEN })));
    takes(&past, 3000);
    for _ in 0..10 {
        assert_eq!(refused_of(&past, "?version=1").await, 0);
    }
    let cut = api_with(MANY, Box::new(|_, _| Err(CallError::MaybeExecuted)));
    // Four times within a request's deadline.
    takes(&cut, 1200);
    for _ in 0..10 {
        assert_eq!(refused_of(&cut, "").await, 0);
    }
    assert_eq!((past.admission.limit(), cut.admission.limit()), (MANY, MANY));
    // An attempt lasts two seconds; then its node has not answered.
    takes(&cut, 2000);
    for _ in 0..5 {
        refused_of(&cut, "").await;
    }
    assert!(cut.admission.limit() < MANY);
}

/// What waits for what is yet to happen, and what takes no place.
#[tokio::test(start_paused = true)]
async fn waits_are_no_congestion() {
    let shard = EntityKey::new("counter", "alice").unwrap().shard(64);
    let token = Token::single(CLUSTER, shard, SEEN).encode();
    let session = [("berth-session", token.as_str())];
    let live = [("accept", "text/event-stream")];
    // Those that take no place find all places taken, so that there is something to be congested.
    for (query, headers, held, is_congested) in [
        ("/events", &live[..], MANY, false),
        ("?consistency=session", &session, 0, false),
        ("?consistency=linearizable", &[], 0, true),
        ("?consistency=stale", &[], 0, true),
    ] {
        let api = api_with(MANY, Box::new(content));
        let now = api.seams.clock.now();
        let _held: Vec<_> = (0..held).map(|_| api.admission.enter_node("node-1:1", now).unwrap()).collect();
        takes(&api, 900);
        for _ in 0..10 {
            let path = format!("{ALICE}{query}");
            let statuses = join_all((0..MANY).map(|_| ask(&api, "GET", &path, headers, ""))).await;
            let served = statuses.iter().filter(|answer| answer.status == 200).count();
            assert!(served == MANY || is_congested, "{query}: {served}");
            // Live histories whose readers have left end.
            api.seams.spawner.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(api.admission.least_node_limit() < MANY, is_congested, "{query}");
    }
    let waiting = api_with(MANY, Box::new(empty));
    for _ in 0..10 {
        takes(&waiting, 5);
        let path = format!("{ALICE}/events?wait=5");
        let asking = join_all((0..MANY).map(|_| ask(&waiting, "GET", &path, &[], "")));
        let slower = async {
            waiting.seams.spawner.sleep(Duration::from_millis(2)).await;
            takes(&waiting, 900);
        };
        let (answers, ()) = tokio::join!(asking, slower);
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    assert_eq!((waiting.admission.limit(), waiting.forward.nodes().polled.load(Ordering::Relaxed)), (MANY, 10 * MANY));
}

/// Of histories that are empty after what the client has seen.
fn empty(question: &Question<'_>, n: usize) -> Result<Bytes, CallError> {
    match question {
        Question::Events { .. } => reply(&Reply::Events { events: vec![], next: None, seen: SEEN }),
        other => content(other, n),
    }
}

/// A read at a replica that does not answer is made at the owner with the time that is left, and the replica is soon asked
/// no more than it keeps up with.
#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_answer_costs_the_owner_nothing() {
    let owners = (0..64).map(|shard| owner(shard, 1, 1)).collect();
    let api = api_of(MANY, owners, Box::new(|_, question, n| content(question, n)));
    takes(&api, 3000);
    *api.forward.nodes().takes_at.lock() = Some(("node-1:1", Duration::from_millis(5)));
    for _ in 0..20 {
        assert_eq!(refused_of(&api, "?consistency=stale").await, 0);
    }
    assert!(api.admission.least_node_limit() < MANY / 2, "{}", api.admission.least_node_limit());
    let began = api.seams.clock.now();
    let quick = refused_of(&api, "").await;
    assert_eq!((quick, api.seams.clock.now().since(began)), (0, Duration::from_millis(5)));
}

/// An id of an entity of a shard of this owner, of three that own each third shard.
fn id_at(node: u16, number: usize) -> String {
    let ids = (0..).map(|attempt| format!("{number}-{attempt}"));
    let mut of_node = ids.filter(|id| EntityKey::new("counter", id).unwrap().shard(64).0 % 3 == node - 1);
    of_node.next().unwrap()
}

/// A gateway whose requests in flight fit three nodes, of which each owns each third shard.
fn of_three() -> Api<Scripted> {
    let owners = (0..64).map(|shard| owner(shard, 1 + u64::from(shard) % 3, 1)).collect();
    let bounds =
        Bounds { in_flight_max: 4 * MANY, in_flight_min: 16, in_flight_per_node_max: 2 * MANY, ..bounds(MANY) };
    api_within(bounds, owners, Box::new(|_, question, n| content(question, n)))
}

/// Commands at all three nodes, so many each 50 ms, for 30 s: how many were not served at each node, of how many.
async fn commands_at_all(api: &Api<Scripted>, each: usize) -> [(usize, usize); 3] {
    let asking = (0..600_usize).flat_map(|round| (0..3 * each).map(move |number| (round, number)));
    let asking = asking.map(|(round, number)| async move {
        let node = number % 3;
        api.seams.spawner.sleep(Duration::from_millis(50 * round as u64)).await;
        let path = format!("/v1/entities/counter/{}/add", id_at(node as u16 + 1, number));
        let answer = ask(api, "POST", &path, &[], "").await;
        if answer.status == 429 {
            assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("overloaded", Some("1")));
            assert!(answer.json()["detail"].as_str().unwrap().contains("applied"), "{}", answer.json());
        }
        (node, answer.status)
    });
    let mut refused = [(0, 0); 3];
    for (node, status) in join_all(asking).await {
        refused[node].0 += usize::from(status != 200);
        refused[node].1 += 1;
    }
    refused
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_stalls_costs_the_shards_of_others_nothing() {
    for stalls in [1900, 2500] {
        let api = of_three();
        takes(&api, 5);
        *api.forward.nodes().takes_at.lock() = Some(("node-1:1", Duration::from_millis(stalls)));
        let [(slow, asked), second, third] = commands_at_all(&api, 8).await;
        assert_eq!((second, third), ((0, asked), (0, asked)), "{stalls} ms");
        assert!(slow > asked / 2, "{slow} of {asked} refused where an attempt takes {stalls} ms");
        assert!(api.admission.least_node_limit() <= 24, "{}", api.admission.least_node_limit());
        assert_eq!(api.admission.limit(), 4 * MANY, "the others keep up with everything");
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_nodes_are_slow_the_gateway_takes_on_less() {
    let api = of_three();
    takes(&api, 1900);
    for (refused, asked) in commands_at_all(&api, 8).await {
        assert!(refused > asked / 2, "{refused} of {asked}");
    }
    assert!(api.admission.limit() <= 72, "{}", api.admission.limit());
    assert_eq!(api.admission.taken(), 0);
    // Hardly any load, and the nodes are quick again.
    takes(&api, 5);
    for number in 0..300 {
        let path = format!("/v1/entities/counter/{}", id_at(number as u16 % 3 + 1, number));
        assert_eq!(ask(&api, "GET", &path, &[], "").await.status, 200);
        api.seams.spawner.sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((api.admission.limit(), api.admission.least_node_limit()), (4 * MANY, 2 * MANY));
}

/// One place of the gateway's for an entity's commands and one for its reads.
fn two_places_per_entity() -> Api<Scripted> {
    let owners = (0..64).map(|shard| owner(shard, 1, 1)).collect();
    let bounds = Bounds { in_flight_per_entity_max: 2, ..bounds(MANY) };
    api_within(bounds, owners, Box::new(|_, question, n| content(question, n)))
}

#[tokio::test(start_paused = true)]
async fn an_entity_has_only_so_many_places_wherever_it_is_read_and_streams_take_none() {
    let api = &two_places_per_entity();
    takes(api, 100);
    let reads = async |query: &str, headers: &[(&str, &str)]| {
        let path = format!("{ALICE}{query}");
        let asking = (0..4).map(|_| ask(api, "GET", &path, headers, ""));
        let answers = join_all(asking).await;
        answers.iter().filter(|answer| answer.status == 200).count()
    };
    for query in [
        "",
        "?consistency=session",
        "?consistency=stale",
        "?version=1",
        "/events",
        "/events?consistency=stale",
        // There are events, so that there is nothing to wait for.
        "/events?wait=1",
    ] {
        assert_eq!(reads(query, &[]).await, 2, "{query}");
    }
    assert_eq!(reads("/events", &[("accept", "text/event-stream")]).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_hot_entity_is_429_while_others_are_served() {
    let api = two_places_per_entity();
    takes(&api, 100);
    let hot = join_all((0..5).map(|_| ask(&api, "POST", ADD, &[], "")));
    let others = join_all((0..5).map(|number| {
        let path = format!("/v1/entities/counter/other-{number}/add");
        let api = &api;
        async move { ask(api, "POST", &path, &[], "").await.status }
    }));
    let (hot, others) = tokio::join!(hot, others);
    let statuses: Vec<_> = hot.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    assert_eq!((hot[2].code().as_str(), hot[2].header("retry-after")), ("overloaded", Some("1")));
    assert_eq!(others, [200; 5]);
    assert_eq!((ask(&api, "POST", ADD, &[], "").await.status, api.admission.taken()), (200, 0));
}

/// A gateway whose nodes take 100 ms for whatever they are asked, and where two commands of an entity may be under way while
/// others are asked for.
fn shares_of_two() -> Api<Scripted> {
    let owners = (0..64).map(|shard| owner(shard, 1, 1)).collect();
    let bounds = Bounds { entity_share: 2, in_flight_per_entity_max: 8, ..bounds(MANY) };
    let api = api_within(bounds, owners, Box::new(|_, question, n| content(question, n)));
    takes(&api, 100);
    api
}

/// Sends ten commands to the hot entity at once, each of which has `seconds`: how each is answered, and after how long.
async fn crowd(api: &Api<Scripted>, seconds: u64) -> Vec<(u16, u128)> {
    let began = api.seams.clock.now();
    let prefer = format!("wait={seconds}");
    let asking = (0..10).map(|_| async {
        let status = ask(api, "POST", ADD, &[("prefer", &prefer)], "").await.status;
        (status, api.seams.clock.now().since(began).as_millis())
    });
    join_all(asking).await
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_hot_entity_wait_for_their_turn_while_others_are_asked_for_and_only_then() {
    let api = shares_of_two();
    let (at_once, refused) = ([(200, 100); 8], [(429, 0); 2]);
    assert_eq!(crowd(&api, 5).await, [&at_once[..], &refused].concat());
    assert_eq!(ask(&api, "POST", "/v1/entities/counter/other/add", &[], "").await.status, 200);
    let turns: Vec<_> = (0..8).map(|place| (200, 100 * (place / 2 + 1))).collect();
    assert_eq!(crowd(&api, 5).await, [&turns[..], &refused].concat());
    api.seams.spawner.sleep(Duration::from_secs(1)).await;
    assert_eq!(crowd(&api, 5).await, [&at_once[..], &refused].concat());
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_turn_does_not_come_in_half_of_its_time_is_refused_and_sent_to_nobody() {
    let api = shares_of_two();
    takes(&api, 400);
    assert_eq!(ask(&api, "POST", "/v1/entities/counter/other/add", &[], "").await.status, 200);
    let asked = api.forward.nodes().asked.lock().len();
    let mut answers = crowd(&api, 1).await;
    answers.sort_unstable();
    // Those whose turn comes after 400 ms still have the time that it takes.
    let expected = [vec![(200, 400); 2], vec![(200, 800); 2], vec![(429, 0); 2], vec![(429, 500); 4]].concat();
    assert_eq!(answers, expected);
    assert_eq!(api.forward.nodes().asked.lock().len() - asked, 4);
    assert_eq!(ask(&api, "POST", ADD, &[], "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_gives_up_its_turn() {
    let api = shares_of_two();
    assert_eq!(ask(&api, "POST", "/v1/entities/counter/other/add", &[], "").await.status, 200);
    // All are gone while two are under way and six wait.
    let gone = api.seams.spawner.timeout(Duration::from_millis(50), crowd(&api, 5)).await;
    assert!(gone.is_none());
    let began = api.seams.clock.now();
    assert_eq!(ask(&api, "DELETE", ALICE, &[], "").await.status, 204);
    assert_eq!((api.seams.clock.now().since(began).as_millis(), api.admission.taken()), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn slow_reads_of_an_entity_leave_room_for_its_commands() {
    let api = two_places_per_entity();
    takes(&api, 2900);
    let path = format!("{ALICE}?version=1");
    let reads = join_all((0..3).map(|_| ask(&api, "GET", &path, &[], "")));
    let command = async {
        api.seams.spawner.sleep(Duration::from_millis(100)).await;
        takes(&api, 5);
        ask(&api, "POST", ADD, &[], "").await.status
    };
    let (reads, command) = tokio::join!(reads, command);
    let reads: Vec<_> = reads.iter().map(|answer| answer.status).collect();
    assert_eq!((reads.as_slice(), command), (&[200, 200, 429][..], 200));
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_no_body_keeps_nobody_from_the_entity() {
    let api = two_places_per_entity();
    let without_bodies = join_all((0..5).map(|_| ask_slowly(&api, "wait=5", 20_000)));
    let others = async {
        api.seams.spawner.sleep(Duration::from_millis(100)).await;
        assert_eq!(api.admission.taken(), 5, "these hold places of the gateway");
        join_all((0..2).map(|_| ask(&api, "POST", ADD, &[], ""))).await
    };
    let (without_bodies, others) = tokio::join!(without_bodies, others);
    assert!(without_bodies.iter().all(|answer| answer.status == 408));
    assert!(others.iter().all(|answer| answer.status == 200));
}

/// Each listing in progress holds pages of all nodes, and a place among all requests.
#[tokio::test(start_paused = true)]
async fn one_listing_too_many_is_refused_at_once() {
    let api = api_with(MANY, Box::new(content));
    takes(&api, 1900);
    let listings = join_all((0..MANY).map(|_| ask(&api, "GET", "/v1/entities/counter", &[("prefer", "wait=30")], "")));
    let between = async {
        api.seams.spawner.sleep(Duration::from_millis(10)).await;
        assert_eq!(api.admission.taken(), 32, "the others have left");
        takes(&api, 5);
        ask(&api, "POST", ADD, &[], "").await.status
    };
    let (listings, between) = tokio::join!(listings, between);
    let statuses: Vec<_> = listings.iter().map(|answer| answer.status).collect();
    assert_eq!((statuses.as_slice(), between), (&[[200; 32].as_slice(), &[429; 8]].concat()[..], 200));
    assert_eq!((listings[32].code().as_str(), listings[32].header("retry-after")), ("overloaded", Some("1")));
}

#[tokio::test(start_paused = true)]
async fn every_answer_tells_what_the_caller_has_left_and_one_too_many_is_429() {
    let mut api = api(content);
    assert_eq!(ask(&api, "GET", ALICE, &[], "").await.header("ratelimit"), None, "there is no limit");
    let callers_max = NonZeroUsize::MIN;
    api.rates = Some(Rates::new(rate::Config { requests: 3, window: Duration::from_secs(60), callers_max }));
    for (method, path, status, left) in
        [("GET", ALICE, 200, 2), ("POST", ADD, 200, 1), ("GET", "/nothing", 404, 0), ("POST", ADD, 429, 0)]
    {
        let answer = ask(&api, method, path, &[], "").await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (status, Some("\"caller\";q=3;w=60")), "{path}");
        assert_eq!(answer.header("ratelimit"), Some(format!("\"caller\";r={left};t=20").as_str()), "{path}");
        let refused = (status == 429).then_some("20");
        assert_eq!(answer.header("retry-after"), refused, "{path}");
    }
    assert_eq!(api.forward.nodes().asked(), 3, "what is refused is not passed on");
    api.seams.spawner.sleep(Duration::from_secs(20)).await;
    assert_eq!(ask(&api, "GET", ALICE, &[], "").await.status, 200);
}

/// Of callers with these keys, each of whom may do `requests` in a minute.
async fn guarded(requests: u32) -> Api<Scripted> {
    let mut api = api(content);
    let key = |name: &str, hash: &str, role: &str| ApiKey {
        name: name.to_owned(),
        hash: format!("sha256:{hash}"),
        roles: vec![role.to_owned()],
    };
    let keys = vec![
        key("reader", "ec4408df15da46b328f6f3246fa723d0aa6cb0f0a0dd9c4626080ab1b02aa3b2", "read"),
        key("writer", "3aec1946afb01344ae0065f3b123820a2144e455c13e5816dbd439e6634f7f26", "write"),
    ];
    let config = auth::Config { mode: Mode::ApiKeys, keys, ..auth::Config::default() };
    let metrics = telemetry::Metrics::new(&[]).unwrap();
    api.guard = Guard::start(&config, &metrics, crate::metrics::REFUSALS, "public", &api.seams).await.unwrap();
    let callers_max = NonZeroUsize::new(8).unwrap();
    api.rates = Some(Rates::new(rate::Config { requests, window: Duration::from_secs(60), callers_max }));
    api
}

#[tokio::test(start_paused = true)]
async fn each_credential_has_a_quota_of_its_own_and_refusals_spend_it() {
    let api = guarded(2).await;
    let (reader, writer) = (("authorization", "Bearer reader-key"), ("authorization", "Bearer writer-key"));
    for (method, path, credential, status, left) in [
        ("GET", ALICE, reader, 200, "r=1;"),
        ("POST", ADD, reader, 403, "r=0;"),
        ("GET", ALICE, reader, 429, "r=0;"),
        ("POST", ADD, reader, 429, "r=0;"),
        ("POST", ADD, writer, 200, "r=1;"),
        ("GET", "/nothing", writer, 404, "r=0;"),
        ("POST", ADD, writer, 429, "r=0;"),
    ] {
        let answer = ask(&api, method, path, &[credential], "").await;
        let quota = answer.header("ratelimit").unwrap();
        assert!(answer.status == status && quota.contains(left), "{method} {path}: {} {quota}", answer.status);
        assert_eq!((answer.status == 429).then_some("30"), answer.header("retry-after"), "{method} {path}");
    }
    assert_eq!(api.forward.nodes().asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_known_spends_what_all_of_them_share_and_nothing_of_anybody_else() {
    let api = guarded(3).await;
    let long = "x".repeat(9000);
    let wrong = ("authorization", "Bearer guess");
    for (headers, status, left) in [
        (&[][..], 401, "r=2;"),
        (&[wrong], 401, "r=1;"),
        (&[("x-long", long.as_str()), ("authorization", "Bearer reader-key")], 431, "r=0;"),
        (&[wrong], 429, "r=0;"),
        (&[], 429, "r=0;"),
        (&[("authorization", "Bearer reader-key")], 200, "r=2;"),
    ] {
        let answer = ask(&api, "GET", ALICE, headers, "").await;
        let quota = answer.header("ratelimit").unwrap();
        assert!(answer.status == status && quota.contains(left), "{headers:?}: {} {quota}", answer.status);
    }
    assert_eq!(ask(&api, "GET", "/docs", &[], "").await.status, 429, "whoever may see it without a credential");
    // Proxies ask for this to see whether there is a gateway.
    for _ in 0..10 {
        let there = ask(&api, "OPTIONS", "/v1/kinds", &[], "").await;
        assert_eq!((there.status, there.header("ratelimit")), (204, None));
    }
    assert_eq!(api.forward.nodes().asked(), 1);
}

/// A command whose body takes so long to arrive.
async fn ask_slowly(api: &Api<Scripted>, wait: &str, millis: u64) -> Answer {
    let spawner = api.seams.spawner;
    let arriving = Box::pin(stream::once(async move {
        spawner.sleep(Duration::from_millis(millis)).await;
        Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from_static(b"{}")))
    }));
    let request = Request::post(ADD).header("prefer", wait).body(StreamBody::new(arriving)).unwrap();
    finish(api.answer(request).await).await
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_headers_and_goes_to_the_node() {
    let api = api(content);
    let start = api.seams.clock.now();
    assert_eq!(ask_slowly(&api, "wait=3", 2500).await.status, 200);
    let deadline = api.forward.nodes().deadlines.lock()[0];
    assert_eq!(deadline.since(start), Duration::from_secs(3));
    let late = ask_slowly(&api, "wait=3", 3500).await;
    assert_eq!((late.status, late.code().as_str()), (408, "request-timeout"));
    assert_eq!(api.forward.nodes().asked(), 1);
}
