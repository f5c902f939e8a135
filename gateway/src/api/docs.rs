//! `/docs`: a page to read the description of the API and to try calls. It is part of the program, fetches nothing but
//! from this gateway, and its policy lets it run nothing but its own script.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::Body;

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    Page,
    Script,
    Style,
}

/// No inline script or style, no other host, no embedding, no form that leads elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

impl File {
    pub(crate) fn parse(path: &str) -> Option<Self> {
        match path {
            "/docs" => Some(Self::Page),
            "/docs/script.js" => Some(Self::Script),
            "/docs/style.css" => Some(Self::Style),
            _ => None,
        }
    }

    pub(crate) fn answer(self) -> Response<Body> {
        let (media_type, content) = match self {
            Self::Page => ("text/html; charset=utf-8", include_str!("docs/page.html")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("docs/script.js")),
            Self::Style => ("text/css; charset=utf-8", include_str!("docs/style.css")),
        };
        let mut response = Response::new(Body::new(Bytes::from_static(content.as_bytes())));
        *response.status_mut() = StatusCode::OK;
        let headers: [(HeaderName, &'static str); 4] = [
            (header::CONTENT_TYPE, media_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 3] =
        [include_str!("docs/page.html"), include_str!("docs/script.js"), include_str!("docs/style.css")];

    #[test]
    fn the_page_names_no_other_host_and_keeps_to_its_policy() {
        for file in FILES {
            assert!(!file.contains("//cdn") && !file.contains("http://") && !file.contains("https://"));
        }
        let page = FILES[0];
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("<script src=\"docs/script.js\" defer></script>"));
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!FILES[1].contains(markup), "{markup}");
        }
    }

    #[test]
    fn each_file_is_served_under_a_strict_policy() {
        for (path, media_type) in
            [("/docs", "text/html"), ("/docs/script.js", "text/javascript"), ("/docs/style.css", "text/css")]
        {
            let response = File::parse(path).unwrap().answer();
            assert!(response.headers()["content-type"].to_str().unwrap().starts_with(media_type));
            let policy = response.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
        }
        assert_eq!(File::parse("/docs/"), None);
    }
}
