//! What is done to every request and answer of the public port, whatever they are about: browsers are told which pages may
//! call (CORS), and long answers are compressed for those who like that. Both are tower-http's.

use std::convert::Infallible;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Either;
use tower::{Layer, ServiceExt, service_fn, util};
use tower_http::CompressionLevel;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{CompressionBody, CompressionLayer};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::api::header::{BERTH_LAG, BERTH_SESSION, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, PREFERENCE_APPLIED};

/// Every page may call.
pub(crate) const ANY_ORIGIN: &str = "*";
/// Shorter bodies are sent as they are.
const COMPRESSED_BYTES_MIN: u64 = 1025;
/// How long a browser may remember what it was told.
const MAX_AGE: Duration = Duration::from_hours(1);
/// Headers of the contract that a page may send.
const REQUEST_HEADERS: [HeaderName; 11] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    IDEMPOTENCY_KEY,
    BERTH_SESSION,
    HeaderName::from_static("prefer"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];
/// Headers of the contract that a page may see, besides those that it sees of everybody.
const ANSWER_HEADERS: [HeaderName; 13] = [
    header::ALLOW,
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    BERTH_SESSION,
    BERTH_LAG,
    PREFERENCE_APPLIED,
    IDEMPOTENCY_REPLAYED,
    IDEMPOTENCY_KEY,
    header::LINK,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];

/// An answer's body, compressed or not.
pub(crate) type Body<B> = Either<CompressionBody<B>, B>;

#[derive(Clone, Debug)]
pub(crate) struct Edge {
    /// Absent where no page may call: browsers are told nothing then, which is a no.
    cors: Option<CorsLayer>,
    /// Whether answers differ by who asks.
    varies_by_origin: bool,
    compression: CompressionLayer<And<SizeAbove, NotForContentType>>,
}

impl Edge {
    /// Pages of these origins may call, such as `https://shop.example`; of any, where [`ANY_ORIGIN`] is among them.
    pub(crate) fn new(origins: &[String]) -> Self {
        let is_any = origins.iter().any(|origin| origin == ANY_ORIGIN);
        let allowed = match is_any {
            true => AllowOrigin::any(),
            // The configuration has let only those through that are one.
            false => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
        };
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(ANSWER_HEADERS)
            .max_age(MAX_AGE);
        let compression = CompressionLayer::new()
            .quality(CompressionLevel::Fastest)
            // Events must arrive when they happen, and not when a block is full.
            .compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN).and(NotForContentType::SSE));
        let allows_any = !origins.is_empty();
        Self { cors: allows_any.then_some(cors), varies_by_origin: allows_any && !is_any, compression }
    }

    pub(crate) async fn answer<A, F, I, B>(&self, mut request: Request<I>, mut answer: A) -> Response<Body<B>>
    where
        A: FnMut(Request<I>) -> F,
        F: Future<Output = Response<B>>,
        B: hyper::body::Body + Default,
    {
        let (crosses, takes_gzip) = (crosses(&request), takes_gzip(request.headers()));
        let service = service_fn(|request| {
            let answered = answer(request);
            async move { Ok::<_, Infallible>(vary_by_encoding(answered.await)) }
        });
        let service = util::option_layer(self.cors.clone().filter(|_| crosses)).layer(service);
        // Only for those who take what it makes: it turns the answer of a command that was executed into a refusal for those
        // who take nothing that it knows, and lets us say nothing before the command.
        let mut response = if takes_gzip {
            // Whether it takes it was decided here; the layer reads weights in another way.
            request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            let response = self.compression.layer(service).oneshot(request).await;
            response.unwrap_or_else(|never| match never {}).map(Either::Left)
        } else {
            let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});
            response.map(Either::Right)
        };
        if self.varies_by_origin && !crosses {
            response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    }
}

/// Whether a page asks for, or a browser for its sake. OPTIONS alone is a question of the contract.
fn crosses<I>(request: &Request<I>) -> bool {
    let headers = request.headers();
    let asks = request.method() != Method::OPTIONS || headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    asks && headers.contains_key(header::ORIGIN)
}

/// Whether `Accept-Encoding` names gzip and does not refuse it. `*` is no wish for it.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start_matches('=').trim();
        name.trim().eq_ignore_ascii_case("gzip") && weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)
    })
}

/// Tells caches what they would have been told with a compressed answer, also where the answer stands for one that they have
/// (RFC 9110, 15.4.5) or is only its head.
fn vary_by_encoding<B: hyper::body::Body>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_long = SizeAbove::new(COMPRESSED_BYTES_MIN).and(NotForContentType::SSE).should_compress(&response)
        || response.status() == StatusCode::NOT_MODIFIED
        || length.is_some_and(|length: u64| length >= COMPRESSED_BYTES_MIN);
    if is_long {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};

    use super::*;

    const PAGE: &str = "https://shop.example";

    fn edge(origins: &[&str]) -> Edge {
        Edge::new(&origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>())
    }

    async fn ask(edge: &Edge, method: &str, headers: &[(&str, &str)], content: &str, bytes: usize) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri("/v1/kinds");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = async |_| {
            let body = Full::new(Bytes::from(vec![b'x'; bytes]));
            Response::builder().header("content-type", content).header("etag", "\"3\"").body(body).unwrap()
        };
        let (parts, body) = edge.answer(request.body(()).unwrap(), answer).await.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_page_that_may_call_sees_the_headers_of_the_contract() {
        let edge = edge(&["https://other.example", PAGE]);
        let answer = ask(&edge, "GET", &[("origin", PAGE)], "application/json", 3).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(PAGE));
        let exposed = header(&answer, "access-control-expose-headers").unwrap();
        let contract = "allow,etag,location,retry-after,link,www-authenticate,berth-session,berth-lag,preference-applied,\
            idempotency-replayed,idempotency-key,ratelimit,ratelimit-policy";
        for name in contract.split(',') {
            assert!(exposed.split(',').any(|exposed| exposed == name), "{name} is not in {exposed}");
        }
        assert!(header(&answer, "vary").unwrap().contains("origin"));
        assert!(header(&ask(&edge, "GET", &[], "application/json", 3).await, "vary").unwrap().contains("origin"));
    }

    #[tokio::test]
    async fn a_page_that_may_not_call_is_not_told_that_it_may() {
        for edge in [edge(&[]), edge(&[PAGE])] {
            let stranger = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
            for method in ["GET", "OPTIONS"] {
                let answer = ask(&edge, method, &stranger, "application/json", 3).await;
                assert_eq!(header(&answer, "access-control-allow-origin"), None, "{method}");
            }
        }
        let open = ask(&edge(&["*"]), "GET", &[("origin", "https://evil.example")], "application/json", 3).await;
        assert_eq!(header(&open, "access-control-allow-origin"), Some("*"));
    }

    #[tokio::test]
    async fn without_origins_nothing_is_added_whoever_asks() {
        let edge = edge(&[]);
        for method in ["GET", "OPTIONS"] {
            let asks = [("origin", PAGE), ("access-control-request-method", "POST")];
            let answer = ask(&edge, method, &asks, "application/json", 3).await;
            let names: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["content-type", "etag"], "{method}: it is passed on, and left as it is");
        }
    }

    #[tokio::test]
    async fn a_browser_may_ask_first_and_others_may_ask_for_methods() {
        let edge = edge(&[PAGE]);
        let asks = [
            ("origin", PAGE),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "authorization,idempotency-key"),
        ];
        let answer = ask(&edge, "OPTIONS", &asks, "application/json", 3).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, None), "it is not passed on");
        assert!(header(&answer, "access-control-allow-methods").unwrap().contains("DELETE"));
        let allowed = header(&answer, "access-control-allow-headers").unwrap();
        for name in ["authorization", "idempotency-key", "if-match", "berth-session", "prefer", "last-event-id"] {
            assert!(allowed.split(',').any(|allowed| allowed == name), "{name} is not in {allowed}");
        }
        for headers in [&[][..], &[("origin", PAGE)]] {
            let answer = ask(&edge, "OPTIONS", headers, "application/json", 3).await;
            assert_eq!(header(&answer, "etag"), Some("\"3\""), "it is passed on");
        }
    }

    #[tokio::test]
    async fn long_answers_are_compressed_for_those_who_name_gzip_and_events_never() {
        let edge = edge(&[]);
        for (accepts, content, bytes, encoding, varies) in [
            ("gzip", "application/json", 1025, Some("gzip"), true),
            ("br, GZIP;q=0.5", "application/problem+json", 5000, Some("gzip"), true),
            ("gzip", "application/json", 1024, None, false),
            ("gzip", "text/event-stream", 5000, None, false),
            ("gzip;q=0", "application/json", 5000, None, true),
            ("br, *", "application/json", 5000, None, true),
            ("br, *;q=0", "application/json", 5000, None, true),
            ("identity;q=0", "application/json", 5000, None, true),
            ("", "application/json", 5000, None, true),
            // The layer reads these in another way, and would refuse what was executed.
            ("gzip;q=0.0001, identity;q=0", "application/json", 5000, Some("gzip"), true),
            ("gzip;q=5, identity;q=0", "application/json", 5000, Some("gzip"), true),
            ("gzip;q=0, gzip, *;q=0", "application/json", 5000, Some("gzip"), true),
        ] {
            let answer = ask(&edge, "GET", &[("accept-encoding", accepts)], content, bytes).await;
            let case = format!("{accepts}, {content}, {bytes}");
            assert_eq!((answer.status().as_u16(), header(&answer, "content-encoding")), (200, encoding), "{case}");
            assert_eq!(header(&answer, "vary").is_some(), varies, "{case}");
            assert_eq!(header(&answer, "etag"), Some("\"3\""), "{case}");
            assert_eq!(answer.body().len() == bytes, encoding.is_none(), "{case}");
        }
    }

    #[tokio::test]
    async fn what_stands_for_a_long_answer_varies_as_it_does() {
        for (method, status, length, varies) in
            [("GET", 304, None, true), ("HEAD", 200, Some("1025"), true), ("HEAD", 200, Some("1024"), false)]
        {
            for accepts in ["gzip", "identity"] {
                let request = Request::builder().method(method).header("accept-encoding", accepts).body(()).unwrap();
                let answer = async |_| {
                    let mut response = Response::builder().status(status).body(Full::<Bytes>::default()).unwrap();
                    if let Some(length) = length {
                        response.headers_mut().insert("content-length", HeaderValue::from_static(length));
                    }
                    response
                };
                let answer = edge(&[]).answer(request, answer).await;
                let told: Vec<_> = answer.headers().get_all("vary").iter().collect();
                assert_eq!(told.len(), usize::from(varies), "{method} {status} {length:?} {accepts}: {told:?}");
            }
        }
    }
}
