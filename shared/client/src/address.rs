//! The addresses of gateways, and which of them is in use. The first one is, until it fails; then the next, and after the
//! last the first again. Pure but for one counter.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Uri;

/// Why text is not the address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is not the address of a gateway, such as http://localhost:8080")]
    Malformed(String),
    #[error("{0:?}: this client was built without its feature tls")]
    WithoutTls(String),
}

#[derive(Debug)]
pub(crate) struct Addresses {
    /// Invariant: not empty; each is a scheme, an authority, and a path without a slash at its end.
    all: Vec<String>,
    current: AtomicUsize,
}

impl Addresses {
    /// Of one or more addresses.
    pub(crate) fn new(texts: &[String]) -> Result<Self, Error> {
        let all = texts.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            Err(Error::Malformed(String::new()))
        } else {
            Ok(Self { all, current: AtomicUsize::new(0) })
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The one in use, and its number for [`Self::avoid`].
    pub(crate) fn current(&self) -> (usize, &str) {
        let number = self.current.load(Ordering::Relaxed);
        (number, &self.all[number])
    }

    /// Goes on to the next, unless somebody else who saw the same failure has done so.
    pub(crate) fn avoid(&self, number: usize) {
        let next = (number + 1) % self.all.len();
        let _ = self.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    #[cfg(feature = "tls")]
    pub(crate) fn need_tls(&self) -> bool {
        self.all.iter().any(|address| address.starts_with("https"))
    }
}

fn parse(text: &str) -> Result<String, Error> {
    let malformed = || Error::Malformed(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| malformed())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => return Err(Error::WithoutTls(text.to_owned())),
        _ => return Err(malformed()),
    }
    let authority = uri.authority().ok_or_else(malformed)?;
    // A name and password would end up in nobody's hands: gateways take bearer tokens.
    if authority.as_str().contains('@') || authority.host().is_empty() || uri.query().is_some() || text.contains('#') {
        return Err(malformed());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Result<Addresses, Error> {
        Addresses::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_address_is_a_url_without_extras() {
        for (text, kept) in [
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:1/", "http://[::1]:1"),
            ("http://proxy/berth/", "http://proxy/berth"),
            ("https://berth.example", "https://berth.example"),
        ] {
            assert_eq!(addresses(&[text]).unwrap().current(), (0, kept), "{text}");
        }
        for text in ["", "localhost:8080", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a/#b", "/v1"] {
            assert!(addresses(&[text]).is_err(), "{text}");
        }
        assert!(addresses(&[]).is_err());
    }

    #[test]
    fn a_failure_that_many_have_seen_moves_on_once() {
        let addresses = addresses(&["http://a", "http://b", "http://c"]).unwrap();
        let (number, _) = addresses.current();
        addresses.avoid(number);
        addresses.avoid(number);
        assert_eq!(addresses.current(), (1, "http://b"));
        addresses.avoid(1);
        addresses.avoid(2);
        assert_eq!(addresses.current(), (0, "http://a"));
    }
}
