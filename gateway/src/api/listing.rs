//! Listings: `GET /v1/entities/{kind}`, page by page in the byte order of ids.

use std::fmt::Write as _;

use berth_shared::key;
use http::Response;
use http::header::{HeaderValue, LINK};
use http::request::Parts;

use super::header::{BERTH_SESSION, Preferences};
use super::problem::Problem;
use super::session::Session;
use super::{Api, Body, answer, cursor, header, query, refuse_conditions, uncached};
use crate::forward::listing::{Failure, Listing};
use crate::nodes::Nodes;

/// Entities on a page when the client does not say.
const LIMIT_DEFAULT: usize = 100;
/// Most entities on a page.
const LIMIT_MAX: u64 = 1000;

/// What a listing is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    prefix: String,
    limit: usize,
    /// The page comes after this id; empty for the first one.
    after: String,
}

impl<N: Nodes> Api<N> {
    pub(super) async fn listing(
        &self,
        kind: &str,
        parts: &Parts,
        traceparent: &str,
    ) -> Result<Response<Body>, Problem> {
        let Asked { prefix, limit, after } = parse(kind, parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        refuse_conditions(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        // What a session has seen, a listing shows, because owners are asked.
        let session = Session::parse(&parts.headers)?;
        let _permit = self.admit()?;
        let listing = Listing { kind, prefix: &prefix, after: &after, limit, traceparent };
        let page = self.forward.list(listing, preferences.deadline).await.map_err(|failure| match failure {
            Failure::GivenUp(code) => Problem::new(code, given_up(code)),
            Failure::Refused(code, detail) => Problem::new(code, detail),
        })?;
        let session = session.after_all(self.forward.nodes().cluster(), page.seen);
        let next = page.more_after.map(|after| cursor::encode(kind, &prefix, &after));
        let mut response = answer::listing(kind, &page.entities, next.as_deref());
        if let Some(link) = next.and_then(|next| link(kind, &prefix, limit, &next)) {
            response.headers_mut().insert(LINK, link);
        }
        if let Some(session) = session {
            response.headers_mut().insert(BERTH_SESSION, session);
        }
        Ok(uncached(response))
    }
}

fn given_up(code: berth_shared::problem::Code) -> &'static str {
    match code {
        berth_shared::problem::Code::Overloaded => "too many listings or requests are in flight; try again later",
        _ => "the owner of some shard did not answer in time",
    }
}

pub(super) fn parse(kind: &str, query: Option<&str>) -> Result<Asked, Problem> {
    let [prefix, limit, cursor] = query::parameters(query, ["prefix", "limit", "cursor"])?;
    let prefix = prefix.unwrap_or_default();
    key::check_prefix(&prefix).map_err(|_| {
        Problem::invalid("prefix must be what an id may begin with: at most 512 bytes, without control characters")
    })?;
    let limit = match limit {
        None => LIMIT_DEFAULT,
        Some(text) => match query::number(&text) {
            Some(limit @ 1..=LIMIT_MAX) => limit as usize,
            _ => return Err(Problem::invalid("limit must be 1 to 1000")),
        },
    };
    let after = match cursor {
        None => String::new(),
        Some(text) => cursor::decode(kind, &prefix, &text).map_err(|error| Problem::invalid(error.to_string()))?,
    };
    Ok(Asked { prefix, limit, after })
}

/// The next page (RFC 8288), relative to wherever this gateway is reached.
fn link(kind: &str, prefix: &str, limit: usize, cursor: &str) -> Option<HeaderValue> {
    let mut link = format!("</v1/entities/{kind}?");
    if !prefix.is_empty() {
        link.push_str("prefix=");
        put_encoded(&mut link, prefix);
        link.push('&');
    }
    // Writing into text does not fail.
    let _ = write!(link, "limit={limit}&cursor={cursor}>; rel=\"next\"");
    HeaderValue::try_from(link).ok()
}

/// Percent-encodes everything but unreserved characters (RFC 3986, 2.3).
fn put_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(query: &str) -> Result<Asked, &'static str> {
        parse("cart", Some(query)).map_err(|problem| problem.code())
    }

    #[test]
    fn a_listing_has_defaults_and_bounds() {
        let first = Asked { prefix: String::new(), limit: 100, after: String::new() };
        assert_eq!(parse("cart", None).ok(), Some(first.clone()));
        assert_eq!(parsed("limit=1000"), Ok(Asked { limit: 1000, ..first.clone() }));
        assert_eq!(parsed("prefix=a%2F%C3%BC"), Ok(Asked { prefix: "a/ü".to_owned(), ..first.clone() }));
        let cursor = cursor::encode("cart", "a", "ab");
        let next = Asked { prefix: "a".to_owned(), after: "ab".to_owned(), ..first };
        assert_eq!(parsed(&format!("cursor={cursor}&prefix=a")), Ok(next));
        let long = format!("prefix={}", "x".repeat(513));
        let elsewhere = format!("cursor={cursor}&prefix=b");
        for query in [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit=x",
            "limit=1&limit=1",
            "prefix=%0A",
            "prefix=%ff",
            "cursor=",
            "cursor=x",
            "after=1",
            "consistency=strict",
            &long,
            &elsewhere,
        ] {
            assert_eq!(parsed(query), Err("invalid-request"), "{query}");
        }
    }

    proptest! {
        #[test]
        fn the_link_asks_for_the_next_page(prefix in "\\PC{0,20}", rest in "\\PC{1,9}", limit in 1_usize..=1000) {
            let after = format!("{prefix}{rest}");
            let link = link("cart", &prefix, limit, &cursor::encode("cart", &prefix, &after)).unwrap();
            let link = link.to_str().unwrap();
            let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
            let uri: http::Uri = target.parse().unwrap();
            prop_assert_eq!(uri.path(), "/v1/entities/cart");
            prop_assert_eq!(parse("cart", uri.query()).ok(), Some(Asked { prefix, limit, after }));
        }
    }
}
