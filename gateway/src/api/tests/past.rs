//! Earlier states of an entity.

use berth_shared::message::Moment;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_earlier_state_is_asked_of_the_owner_and_answered_like_the_current_one() {
    let api = api(content);
    let now = api.seams.clock.wall_micros();
    let ago = jiff::Timestamp::from_microsecond(i64::try_from(now - 90_000_000).unwrap()).unwrap();
    for (n, (query, moment, asked)) in [
        ("version=2".to_owned(), Moment::Version(2), Consistency::Linearizable),
        ("version=0&consistency=strict".to_owned(), Moment::Version(0), Consistency::Strict),
        (format!("at={ago}"), Moment::Time(now - 90_000_000), Consistency::Linearizable),
        (format!("consistency=strict&at={ago}"), Moment::Time(now - 90_000_000), Consistency::Strict),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ask(&api, "GET", &format!("{ALICE}?{query}"), &[], "").await;
        assert_eq!((answer.status, answer.header("etag")), (200, Some("\"2\"")), "{query}");
        assert_eq!(answer.body, r#"{"kind":"counter","id":"alice","version":2,"state":{"value":4}}"#);
        assert!(answer.header("berth-session").is_some() && answer.header("cache-control") == Some("no-cache"));
        let shard = EntityKey::new("counter", "alice").unwrap().shard(64);
        api.forward.nodes().question(n + 1, |address, question| {
            let (kind, id, consistency, traceparent) = ("counter", "alice", asked, question_traceparent(&question));
            assert_eq!(address, "node-1:1");
            assert_eq!(question, Question::Past { shard, kind, id, moment, consistency, traceparent }, "{query}");
        });
    }
    let head = ask(&api, "HEAD", &format!("{ALICE}?version=2"), &[], "").await;
    assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, Some("\"2\"")));
}

fn question_traceparent<'a>(question: &Question<'a>) -> &'a str {
    match question {
        Question::Past { traceparent, .. } => traceparent,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_compare_with_the_version_of_then() {
    let api = api(content);
    let path = format!("{ALICE}?version=2");
    let unchanged = ask(&api, "GET", &path, &[("if-none-match", "\"2\"")], "").await;
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("etag")), (304, 0, Some("\"2\"")));
    assert_eq!(ask(&api, "GET", &path, &[("if-none-match", "\"3\"")], "").await.status, 200);
    let other = ask(&api, "GET", &path, &[("if-match", "\"3\"")], "").await;
    let current = other.json().get("currentVersion").cloned();
    assert_eq!((other.status, current), (412, None), "the entity's version was not looked at");
    for (consistency, lag) in [("session", None), ("stale", Some("0"))] {
        let content = ask(&api, "GET", &format!("{path}&consistency={consistency}"), &[], "").await;
        assert_eq!((content.status, content.header("berth-lag")), (200, lag), "the owner answers");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_is_404_and_what_was_deleted_is_410() {
    for (code, status) in [(Code::NotFound, 404), (Code::Deleted, 410), (Code::UnknownKind, 404)] {
        let api = api(move |_, _| reply(&Reply::Refused(refused(code))));
        let answer = ask(&api, "GET", &format!("{ALICE}?version=7"), &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code.as_str()));
    }
}

/// Each attempt would begin the fold anew.
#[tokio::test(start_paused = true)]
async fn a_fold_may_take_the_whole_deadline() {
    let api = api(content);
    let started = api.seams.clock.now();
    for path in [ALICE, &format!("{ALICE}?version=2")] {
        assert_eq!(ask(&api, "GET", path, &[("prefer", "wait=9")], "").await.status, 200);
    }
    let waited: Vec<_> = api.forward.nodes().deadlines.lock().iter().map(|until| until.since(started)).collect();
    assert_eq!(waited, [Duration::from_secs(2), Duration::from_secs(9)]);
}
