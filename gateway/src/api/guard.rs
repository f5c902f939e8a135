//! Who asks, and whether they may ask for that: which role a request needs, and of which kind. And whether a request says without
//! doubt whom it is for.

use berth_shared::auth::{Guard, Principal, Role};
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

use super::path::Resource;
use super::problem::Problem;

/// Who asks.
pub(super) fn authenticate(
    guard: &Guard,
    parts: &Parts,
    resource: Option<&Resource<'_>>,
) -> Result<Principal, Problem> {
    if is_for_everybody(parts, resource) {
        return Ok(Principal::nobody());
    }
    let headers = parts.headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    guard.authenticate(headers).map_err(Problem::of_guard)
}

/// Whether they may ask for that. Without a resource, they are told what is wrong with the path.
pub(super) fn authorize(
    guard: &Guard,
    principal: &Principal,
    parts: &Parts,
    resource: Option<&Resource<'_>>,
) -> Result<(), Problem> {
    let Some(resource) = resource else { return Ok(()) };
    if is_for_everybody(parts, Some(resource)) {
        return Ok(());
    }
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    let role = if reads { Role::Read } else { Role::Write };
    guard.authorize(principal, role, kind_of(resource)).map_err(Problem::of_guard)
}

/// Whether no credential is asked for. Browsers ask before they show one, and are told nothing but methods. They cannot show one for
/// a page, and what is on it is not of this cluster.
fn is_for_everybody(parts: &Parts, resource: Option<&Resource<'_>>) -> bool {
    parts.method == Method::OPTIONS || matches!(resource, Some(Resource::Docs(_)))
}

/// Refuses what a program in front may have understood as meant for somebody else (RFC 9112, 3.2, and RFC 9113, 8.3.1). Who names no
/// host means this one.
pub(super) fn check_host(parts: &Parts) -> Result<(), Problem> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) };
    let host = host.as_bytes();
    let is_host = |authority: Authority| !authority.as_str().contains('@');
    let plain = host.is_empty() || Authority::try_from(host).is_ok_and(is_host);
    let is_same = |authority: &Authority| authority.as_str().as_bytes().eq_ignore_ascii_case(host);
    let agrees = parts.version != Version::HTTP_2 || parts.uri.authority().is_none_or(is_same);
    if plain && agrees && hosts.next().is_none() {
        Ok(())
    } else {
        Err(Problem::invalid("Host must be one host, with or without a port, and the one that is asked"))
    }
}

/// The kind that a resource is of; all together have none.
fn kind_of<'a>(resource: &'a Resource<'_>) -> Option<&'a str> {
    match resource {
        Resource::Kinds | Resource::OpenApi | Resource::Docs(_) => None,
        Resource::Entity(key) | Resource::Command(key, _) => Some(key.kind()),
        Resource::Listing(kind) | Resource::Kind(kind) => Some(kind),
    }
}
