//! `?version=` and `?at=`: the state of an entity as of then. Pure.

use serde_json::json;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat};

use super::super::parameter::{in_query, number, text};

pub(super) fn add(operation: OperationBuilder) -> OperationBuilder {
    let version = number(0).maximum(Some(usize::MAX)).build();
    let at =
        text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).examples([json!("2026-01-01T00:00:00Z")]);
    operation
        .parameter(in_query(
            "version",
            "The state at this version; 404 where it is not reached yet. Not together with `at`.",
            version,
        ))
        .parameter(in_query(
            "at",
            "The state as of this time (RFC 3339), which must be more than a second ago. Not together with `version`.",
            at.build(),
        ))
}
