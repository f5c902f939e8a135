//! Which pages in browsers may change anything. A browser asks first before it sends most requests for a page of another origin
//! (CORS), but not before a POST without a body, or with one that it does not call JSON. Such a request would be executed whether or
//! not the page may see the answer, and where no credential is asked for, any page that somebody has open could run commands. So the
//! gateway looks at what browsers say of where a request comes from, as `CrossOriginProtection` of Go's `net/http` does. Pure.

use http::header::{HOST, HeaderMap, ORIGIN};
use http::request::Parts;
use http::{HeaderName, Method};

use crate::edge::ANY_ORIGIN;

/// Fetch Metadata Request Headers, W3C: set by browsers and by nothing on a page.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Origins of pages that may call, besides the gateway's own.
#[derive(Clone, Debug)]
pub(crate) struct Origins(Vec<String>);

impl Origins {
    pub(crate) fn new(origins: &[String]) -> Self {
        Self(origins.to_vec())
    }

    /// Whether this request would change something for a page that may not call. What is no browser says nothing of the kind.
    pub(super) fn refuse(&self, parts: &Parts) -> bool {
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method) {
            return false;
        }
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("null"));
        let origin = text(ORIGIN);
        if self.0.iter().any(|allowed| allowed == ANY_ORIGIN || Some(allowed.as_str()) == origin) {
            return false;
        }
        match (text(SITE), origin) {
            (Some(site), _) => !matches!(site, "same-origin" | "none"),
            (None, Some(origin)) => !is_of_host(origin, parts),
            (None, None) => false,
        }
    }
}

/// Whether a page of this origin came from where the request goes. Older browsers say no more than that.
fn is_of_host(origin: &str, parts: &Parts) -> bool {
    let host = |headers: &HeaderMap| headers.get(HOST)?.to_str().ok().map(str::to_owned);
    let asked = parts.uri.authority().map(|authority| authority.as_str().to_owned()).or_else(|| host(&parts.headers));
    let of_page = origin.split_once("://").map(|(_, host)| host);
    asked.is_some_and(|asked| of_page.is_some_and(|page| page.eq_ignore_ascii_case(&asked)))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn is_refused(allowed: &[&str], method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request =
            Request::builder().method(method).uri("/v1/entities/counter/a/add").header("host", "shop:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let origins: Vec<String> = allowed.iter().map(|origin| (*origin).to_owned()).collect();
        Origins::new(&origins).refuse(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn pages_of_other_origins_may_change_nothing_unless_they_are_allowed() {
        let (page, evil) = ("https://page.example", ("origin", "https://evil.example"));
        for (headers, refused) in [
            (&[][..], false),
            (&[evil], true),
            (&[evil, ("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            // A proxy may have another name for the gateway than its pages have.
            (&[evil, ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "http://shop:8080")], false),
            (&[("origin", "http://SHOP:8080")], false),
            (&[("origin", "http://shop")], true),
            (&[("origin", "null")], true),
            (&[("origin", page), ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(is_refused(&[page], "POST", headers), refused, "{headers:?}");
            assert_eq!(is_refused(&[page], "DELETE", headers), refused, "{headers:?}");
            assert!(!is_refused(&[page], "GET", headers) && !is_refused(&["*"], "POST", headers), "{headers:?}");
        }
    }
}
