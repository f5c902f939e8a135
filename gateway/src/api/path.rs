//! What a request path names. Works on the raw path, because an id may contain an encoded slash; pure.

use std::borrow::Cow;

use berth_shared::key::{self, EntityKey};
use berth_shared::problem::Code;

use super::docs;
use super::problem::Problem;

/// A thing that the public port serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// `/v1/entities/{kind}`
    Listing(Cow<'a, str>),
    /// `/v1/entities/{kind}/{id}`
    Entity(EntityKey),
    /// `/v1/entities/{kind}/{id}/{command}`; `events` is the entity's history when it is read.
    Command(EntityKey, Cow<'a, str>),
    /// `/v1/kinds`
    Kinds,
    /// `/v1/kinds/{kind}`
    Kind(Cow<'a, str>),
    /// `/openapi.json`
    OpenApi,
    /// `/docs` and what belongs to it
    Docs(docs::File),
}

/// The last segment of an entity's history. No command has this name.
pub(crate) const EVENTS: &str = "events";

impl<'a> Resource<'a> {
    pub(crate) fn parse(path: &'a str) -> Result<Self, Problem> {
        if let Some(rest) = path.strip_prefix("/v1/entities/") {
            return Self::parse_entity(rest);
        }
        if path == "/openapi.json" {
            return Ok(Self::OpenApi);
        }
        if let Some(file) = docs::File::parse(path) {
            return Ok(Self::Docs(file));
        }
        match path.strip_prefix("/v1/kinds") {
            Some("") => Ok(Self::Kinds),
            Some(rest) => match rest.strip_prefix('/') {
                Some(kind) if !kind.contains('/') => Ok(Self::Kind(parse_kind(kind)?)),
                _ => Err(unknown_path()),
            },
            None => Err(unknown_path()),
        }
    }

    fn parse_entity(rest: &'a str) -> Result<Self, Problem> {
        let mut segments = rest.splitn(4, '/');
        let kind = parse_kind(segments.next().unwrap_or_default())?;
        let Some(id) = segments.next() else {
            return Ok(Self::Listing(kind));
        };
        let command = segments.next();
        if segments.next().is_some() || command == Some("") {
            return Err(unknown_path());
        }
        let key = EntityKey::new(&kind, &decode(id)?).map_err(|error| Problem::invalid(error.to_string()))?;
        match command {
            None => Ok(Self::Entity(key)),
            Some(command) => Ok(Self::Command(key, decode(command)?)),
        }
    }

    /// The methods of this resource, as an `Allow` header lists them.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Command(_, command) if command == EVENTS => "GET, HEAD, OPTIONS",
            Self::Command(..) => "OPTIONS, POST",
            Self::Entity(_) => "DELETE, GET, HEAD, OPTIONS",
            Self::Listing(_) | Self::Kinds | Self::Kind(_) | Self::OpenApi | Self::Docs(_) => "GET, HEAD, OPTIONS",
        }
    }
}

fn unknown_path() -> Problem {
    Problem::new(Code::NotFound, "nothing is served at this path")
}

/// A name that cannot be a kind's is a kind that does not exist.
fn parse_kind(segment: &str) -> Result<Cow<'_, str>, Problem> {
    let kind = decode(segment)?;
    match key::check_kind(&kind) {
        Ok(()) => Ok(kind),
        Err(error) => Err(Problem::new(Code::UnknownKind, error.to_string())),
    }
}

/// Percent-decodes once (RFC 3986); `+` stands for itself.
pub(crate) fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.as_bytes().contains(&b'%') {
        return Ok(Cow::Borrowed(text));
    }
    let bad_escape = || Problem::invalid("a '%' must be followed by two hexadecimal digits");
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex_digit).ok_or_else(bad_escape)?;
        let low = bytes.next().and_then(hex_digit).ok_or_else(bad_escape)?;
        decoded.push(high << 4 | low);
    }
    let not_utf8 = |_| Problem::invalid("a decoded name must be valid UTF-8");
    String::from_utf8(decoded).map(Cow::Owned).map_err(not_utf8)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, id: &str) -> EntityKey {
        EntityKey::new(kind, id).unwrap()
    }

    #[test]
    fn an_id_is_decoded_exactly_once_and_never_split() {
        for (raw, id) in [
            ("alice", "alice"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("a%252Fb", "a%2Fb"),
            ("a+b%20c", "a+b c"),
            ("%C3%BC", "ü"),
            ("a%3Fb%23c", "a?b#c"),
            ("%2E%2E%2E", "..."),
            ("a%22b%5Cc", "a\"b\\c"),
        ] {
            let path = format!("/v1/entities/cart/{raw}");
            assert_eq!(Resource::parse(&path).unwrap(), Resource::Entity(key("cart", id)), "{raw}");
        }
    }

    #[test]
    fn hostile_ids_are_invalid() {
        let long = "x".repeat(513);
        for raw in
            ["", ".", "..", "%2e", "%2E%2e", "%", "%4", "%zz", "%+1", "%FF", "%C3", "%00", "a%0Ab", "%C2%85", &long]
        {
            let problem = Resource::parse(&format!("/v1/entities/cart/{raw}")).unwrap_err();
            assert_eq!(problem.code(), "invalid-request", "{raw}");
        }
    }

    #[test]
    fn each_path_names_one_resource() {
        let parse = |path: &'static str| Resource::parse(path).map_err(|problem| problem.code());
        assert_eq!(parse("/v1/entities/cart"), Ok(Resource::Listing("cart".into())));
        assert_eq!(parse("/v1/entities/cart/a/add-item"), Ok(Resource::Command(key("cart", "a"), "add-item".into())));
        assert_eq!(parse("/v1/entities/c%61rt/a/%61dd"), Ok(Resource::Command(key("cart", "a"), "add".into())));
        assert_eq!(parse("/v1/kinds"), Ok(Resource::Kinds));
        assert_eq!(parse("/v1/kinds/cart"), Ok(Resource::Kind("cart".into())));
        assert_eq!(parse("/openapi.json"), Ok(Resource::OpenApi));
        assert_eq!(parse("/docs/script.js"), Ok(Resource::Docs(docs::File::Script)));
        for path in [
            "",
            "/",
            "*",
            "/docs/",
            "/docs/x",
            "/openapi",
            "/openapi.json/",
            "/v1",
            "/v1/",
            "/v1/entities",
            "/v1/kinds/cart/x",
            "/v1/kindsx",
            "/v2/kinds",
        ] {
            assert_eq!(parse(path), Err("not-found"), "{path}");
        }
        for path in ["/v1/entities/cart/a/", "/v1/entities/cart/a/b/c", "/v1/entities/cart/a/b/"] {
            assert_eq!(parse(path), Err("not-found"), "{path}");
        }
        for path in ["/v1/entities/", "/v1/entities/Cart/a", "/v1/entities//a/b", "/v1/kinds/", "/v1/kinds/a_b"] {
            assert_eq!(parse(path), Err("unknown-kind"), "{path}");
        }
    }
}
