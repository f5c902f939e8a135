//! Live histories, asked of the public port with a script in the place of the nodes.

use berth_shared::ids::Version;
use parking_lot::Mutex;

use super::*;

const EVENTS: &str = "/v1/entities/counter/alice/events";
const STREAM: (&str, &str) = ("accept", "text/event-stream");

/// An entity's history as one node has it, which the test writes. Polls of what is not there yet are answered "nothing" after a
/// while, as nodes do.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    last: Version,
    /// What the next questions get in place of an answer.
    trouble: Vec<Result<Bytes, CallError>>,
}

impl Book {
    fn write(&self, count: Version) {
        self.0.lock().last += count;
    }

    fn trouble(&self, trouble: impl IntoIterator<Item = Result<Bytes, CallError>>) {
        self.0.lock().trouble.extend(trouble);
    }

    fn answer(&self, question: &Question<'_>) -> Result<Bytes, CallError> {
        let Question::Events { after, limit, wait_millis, .. } = question else { panic!("{question:?}") };
        let mut pages = self.0.lock();
        if !pages.trouble.is_empty() {
            return pages.trouble.remove(0);
        }
        let last = pages.last.min(after + Version::from(*limit));
        let event =
            |version| Event { version, event_type: "added", time_micros: 1_767_225_600_000_000, data: b"{\"by\":1}" };
        let events: Vec<Event<'_>> = (after + 1..=last).map(event).collect();
        if events.is_empty() && *wait_millis > 0 {
            // As if the wait had been in vain.
            return Err(CallError::NotExecuted);
        }
        reply(&Reply::Events { events, next: (last < pages.last).then_some(last), seen: SEEN })
    }
}

fn following(book: &Book) -> Api<Scripted> {
    let book = book.clone();
    api_with(4, Box::new(move |question, _| book.answer(question)))
}

/// The reader of one stream.
struct Reader {
    seams: Seams,
    body: Body,
    text: String,
}

impl Reader {
    async fn open(api: &Api<Scripted>, path: &str, headers: &[(&str, &str)]) -> Result<(Self, HeaderMap), Answer> {
        let mut request = Request::builder().uri(path).header(STREAM.0, STREAM.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = api.answer(request.body(Full::new(Bytes::new())).unwrap()).await;
        if response.status() != StatusCode::OK {
            return Err(finish(response).await);
        }
        let (parts, body) = response.into_parts();
        Ok((Self { seams: api.seams.clone(), body, text: String::new() }, parts.headers))
    }

    /// Reads on, for so long at most, until `holds` of the text; says whether it came to that.
    async fn until(&mut self, time: Duration, holds: impl Fn(&str) -> bool) -> bool {
        let spawner = self.seams.spawner;
        let reading = async {
            while !holds(&self.text) {
                let Some(Ok(frame)) = self.body.frame().await else { return false };
                self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
            true
        };
        spawner.timeout(time, reading).await.unwrap_or(false)
    }

    fn ids(&self) -> Vec<Version> {
        self.text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    }

    async fn reads(&mut self, last: Version) {
        let is_last = |text: &str| text.contains(&format!("id: {last}\n"));
        assert!(self.until(Duration::from_secs(60), is_last).await, "{}", self.text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_history_begins_with_what_is_there_and_goes_on() {
    let book = Book::default();
    book.write(3);
    let api = following(&book);
    let (mut reader, headers) = Reader::open(&api, EVENTS, &[]).await.ok().unwrap();
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
    {
        assert_eq!(headers[name], value);
    }
    assert!(headers.contains_key("berth-session") && !headers.contains_key("content-length"));
    reader.reads(3).await;
    assert!(reader.text.starts_with(": ping\n\nretry: "), "{}", reader.text);
    for last in 4..40 {
        book.write(1);
        reader.reads(last).await;
    }
    assert!(reader.ids().into_iter().eq(1..40));
    let data = reader.text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&event["id"], &event["source"]), (&json!("1"), &json!("/v1/entities/counter/alice")));
}

#[tokio::test(start_paused = true)]
async fn a_live_history_goes_on_where_its_reader_was() {
    let book = Book::default();
    book.write(9);
    let api = following(&book);
    for (path, headers, first) in [
        (EVENTS.to_owned(), &[("last-event-id", "4")][..], 5),
        (format!("{EVENTS}?after=7"), &[], 8),
        // The reader comes back to the address that it began with.
        (format!("{EVENTS}?after=7"), &[("last-event-id", "8")], 9),
        (format!("{EVENTS}?limit=2"), &[("last-event-id", "")], 1),
    ] {
        let (mut reader, _) = Reader::open(&api, &path, headers).await.ok().unwrap();
        reader.reads(9).await;
        assert!(reader.ids().into_iter().eq(first..=9), "{path} {headers:?}");
    }
    for bad in ["x", "-1", "1.5", "18446744073709551616"] {
        let refused = Reader::open(&api, EVENTS, &[("last-event-id", bad)]).await.err().unwrap();
        assert_eq!(refused.code(), "invalid-request", "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_trouble_with_nodes_makes_a_gap_or_a_double() {
    let book = Book::default();
    book.write(2);
    let api = following(&book);
    let (mut reader, _) = Reader::open(&api, EVENTS, &[]).await.ok().unwrap();
    reader.reads(2).await;
    let page = |versions: &[Version]| {
        let event = |version: &Version| Event { version: *version, event_type: "added", time_micros: 1, data: b"{}" };
        reply(&Reply::Events { events: versions.iter().map(event).collect(), next: None, seen: SEEN })
    };
    for round in 0..20_u64 {
        let last = 2 + 3 * round;
        book.trouble([
            Err(CallError::MaybeExecuted),
            reply(&Reply::WrongOwner { owner: None }),
            reply(&Reply::Refused(refused(Code::Unavailable))),
            // What it has already, and what does not follow.
            page(&[last - 1, last]),
            page(&[last + 2, last + 3]),
            page(&[]),
            reply(&Reply::Refused(refused(Code::Overloaded))),
        ]);
        book.write(3);
        reader.reads(last + 3).await;
    }
    assert!(reader.ids().into_iter().eq(1..=62), "{:?}", reader.ids());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_history_is_kept_alive_while_no_owner_can_be_found_as_well() {
    let book = Book::default();
    book.write(1);
    let api = following(&book);
    let (mut reader, _) = Reader::open(&api, EVENTS, &[]).await.ok().unwrap();
    reader.reads(1).await;
    let mut began = api.seams.clock.now();
    for pings in 2..20 {
        let has_pinged = |text: &str| text.matches(": ping\n\n").count() == pings;
        assert!(reader.until(Duration::from_secs(60), has_pinged).await);
        let now = api.seams.clock.now();
        assert!(now.since(began) <= Duration::from_secs(15), "{pings}");
        began = now;
    }
    book.write(1);
    reader.reads(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_followed_is_refused_before_the_stream_begins() {
    let refusing = |code| api(move |_: &Question<'_>, _| reply(&Reply::Refused(refused(code))));
    for code in [Code::NotFound, Code::UnknownKind] {
        let refused = Reader::open(&refusing(code), EVENTS, &[]).await.err().unwrap();
        assert_eq!((refused.status, refused.code().as_str()), (404, code.as_str()));
    }
    let api = following(&Book::default());
    assert!(Reader::open(&api, ALICE, &[]).await.is_err_and(|refused| refused.code() == "not-acceptable"));
    assert!(Reader::open(&api, &format!("{EVENTS}?limit=0"), &[]).await.is_err_and(|refused| refused.status == 400));
    let head = ask(&api, "HEAD", EVENTS, &[STREAM], "").await;
    assert_eq!((head.status, head.header("content-type"), head.header("content-length")), (200, Some(STREAM.1), None));
    assert_eq!(api.streams.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn json_is_answered_to_who_likes_it_better() {
    let api = api(content);
    for (accept, expected) in [
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, */*", "text/event-stream"),
        ("application/json;q=0.5, text/event-stream;q=0.8", "text/event-stream"),
        ("application/json, text/event-stream;q=0.9", "application/json"),
        ("text/event-stream;q=0, */*", "application/json"),
        ("*/*", "application/json"),
    ] {
        let answer = ask(&api, "HEAD", EVENTS, &[("accept", accept)], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(expected)), "{accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn live_histories_are_counted_and_bounded_and_give_their_places_back() {
    let book = Book::default();
    book.write(1);
    let api = following(&book);
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(Reader::open(&api, EVENTS, &[]).await.ok().unwrap().0);
    }
    let refused = Reader::open(&api, EVENTS, &[]).await.err().unwrap();
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("overloaded", Some("1")));
    assert_eq!((api.streams.taken(), api.admission.taken()), (4, 0), "they take no place of other requests");
    drop(readers.pop());
    api.seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(api.streams.taken(), 3);
    assert!(Reader::open(&api, EVENTS, &[]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_gateway_ends_live_histories_with_a_hint_when_to_come_again() {
    let book = Book::default();
    book.write(1);
    let api = following(&book);
    let (mut reader, _) = Reader::open(&api, EVENTS, &[]).await.ok().unwrap();
    reader.reads(1).await;
    api.streams.end();
    assert!(!reader.until(Duration::from_secs(1), |_| false).await);
    assert!(reader.body.frame().await.is_none(), "a whole stream");
    let hints: Vec<&str> = reader.text.lines().filter(|line| line.starts_with("retry: ")).collect();
    let millis: u64 = hints[1].strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((500..=2500).contains(&millis) && hints.len() == 2, "{}", reader.text);
    assert!(reader.text.ends_with("\n\n"));
    assert_eq!(api.streams.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_off_and_can_come_back() {
    let book = Book::default();
    book.write(100_000);
    let api = following(&book);
    let (mut reader, _) = Reader::open(&api, EVENTS, &[]).await.ok().unwrap();
    api.seams.spawner.sleep(Duration::from_secs(29)).await;
    assert_eq!(api.streams.taken(), 1);
    api.seams.spawner.sleep(Duration::from_secs(2)).await;
    assert_eq!(api.streams.taken(), 0, "nothing waits for it any more");
    let asked = api.forward.nodes().asked();
    assert!(asked <= 3, "{asked} pages were fetched ahead");
    assert!(!reader.until(Duration::from_secs(1), |_| false).await);
    assert_eq!(reader.body.frame().await.map(|frame| frame.is_err()), None, "its end was seen");
    let had = *reader.ids().last().unwrap();
    assert!(reader.ids().into_iter().eq(1..=had) && had < 1000);
    let (mut again, _) = Reader::open(&api, EVENTS, &[("last-event-id", &had.to_string())]).await.ok().unwrap();
    again.reads(had + 500).await;
    assert_eq!(again.ids()[0], had + 1);
}
