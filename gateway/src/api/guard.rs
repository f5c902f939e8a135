//! Who asks, and whether they may ask for that: which role a request needs, and of which kind.

use std::sync::Arc;

use berth_shared::auth::{Guard, Role};
use http::Method;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;

use super::path::Resource;
use super::problem::Problem;

/// The name of who asks, and nothing for everybody. Without a resource, only who it is is asked: they are then told what is wrong
/// with the path.
pub(super) fn check(guard: &Guard, parts: &Parts, resource: Option<&Resource<'_>>) -> Result<Arc<str>, Problem> {
    // Browsers ask before they show a credential, and are told nothing but methods.
    if parts.method == Method::OPTIONS {
        return Ok("".into());
    }
    let headers = parts.headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let principal = guard.authenticate(headers).map_err(Problem::of_guard)?;
    if let Some(resource) = resource {
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        let role = if reads { Role::Read } else { Role::Write };
        guard.authorize(&principal, role, kind_of(resource)).map_err(Problem::of_guard)?;
    }
    Ok(principal.name)
}

/// The kind that a resource is of; all together have none.
fn kind_of<'a>(resource: &'a Resource<'_>) -> Option<&'a str> {
    match resource {
        Resource::Listing | Resource::Kinds => None,
        Resource::Entity(key) | Resource::Command(key, _) => Some(key.kind()),
        Resource::Kind(kind) => Some(kind),
    }
}
