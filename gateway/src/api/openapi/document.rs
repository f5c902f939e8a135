//! Puts the document together: operations, what they share, and the kinds. Pure.

use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::openapi::path::PathsBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder};

use super::kind;
use super::{operation, parameter, response, schema};

const TITLE: &str = "Berth";
const DESCRIPTION: &str = "Event-sourced entities, each addressed by kind and id. A command runs at the node that owns \
the entity and is answered once its events are on the disks of a majority. Every answer carries the entity's version, as \
`ETag` and in the body. 429, 503 and 409 promise that the request was not applied; 504 says that this is not known, and \
names the `Idempotency-Key` to ask again with. Where requests are limited by credential, every answer tells in `RateLimit` \
and `RateLimit-Policy` what is left. Pages in browsers may call where their origin is configured (CORS), and see all headers \
that are described here. Answers over 1 KiB may be compressed, live histories never; the `ETag` is the same.";
/// The name of the security scheme.
const BEARER: &str = "bearer";

/// The tag of operations that work for any kind.
pub(super) const ENTITIES: &str = "entities";
/// The tag of what describes the API.
pub(super) const DESCRIPTIONS: &str = "descriptions";

/// The whole document, for the kinds in the nodes' own description of them.
pub(super) fn compose(kinds: &[u8]) -> serde_json::Result<Bytes> {
    let kinds: Vec<kind::Description> = serde_json::from_slice(kinds)?;
    let mut schemas = schema::all();
    let mut paths = operation::all();
    let mut tags =
        vec![tag(ENTITIES, "Entities of any kind."), tag(DESCRIPTIONS, "What there is, for people and for programs.")];
    for kind in &kinds {
        paths = kind.add_paths(paths);
        kind.add_schemas(&mut schemas);
        tags.push(tag(&kind.kind, &format!("Entities of the kind {}.", kind.kind)));
    }
    let document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title(TITLE)
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .tags(Some(tags))
        .paths(paths.build())
        .components(Some(components().build()))
        // The first, empty one: where the cluster runs without authentication, nothing is asked for.
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, [])]));
    let mut document = serde_json::to_value(document.build())?;
    document["jsonSchemaDialect"] = json!("https://json-schema.org/draft/2020-12/schema");
    // Schemas are JSON made by schemars, here and in the nodes, which knows more keywords than the types of this document.
    document["components"]["schemas"] = Value::Object(schemas);
    serde_json::to_vec(&document).map(Bytes::from)
}

fn tag(name: &str, description: &str) -> utoipa::openapi::Tag {
    TagBuilder::new().name(name).description(Some(description)).build()
}

fn components() -> ComponentsBuilder {
    let mut components = ComponentsBuilder::new();
    for (name, parameter) in parameter::all() {
        components = components.parameter(name, parameter);
    }
    for (name, response) in response::all() {
        components = components.response(name, response);
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key or a JWT, where the cluster asks for credentials."));
    components.security_scheme(BEARER, SecurityScheme::Http(bearer.build()))
}

/// A shorthand for files that add operations.
pub(super) type Paths = PathsBuilder;
