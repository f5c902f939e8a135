//! `GET /openapi.json` and `GET /docs`: this document, and a page that shows it. Pure.

use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Schema};

use super::super::document::{DESCRIPTIONS, Paths};
use super::super::parameter::{self, text};
use super::super::response;
use super::get;

pub(super) fn add(paths: Paths) -> Paths {
    let document = ObjectBuilder::new().schema_type(Type::Object).build();
    let openapi = operation("getOpenApi", "This document", "application/json", document.into())
        .parameter_ref(parameter::prefer_wait());
    let docs =
        operation("getDocs", "A page to read this document and to try calls", "text/html", text().build().into());
    paths.path("/openapi.json", get(response::refused(openapi, &[]))).path("/docs", get(response::refused(docs, &[])))
}

fn operation(id: &str, summary: &str, media_type: &str, schema: Schema) -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new().description(summary).content(media_type, content);
    let operation = OperationBuilder::new()
        .tag(DESCRIPTIONS)
        .operation_id(Some(id))
        .summary(Some(summary))
        .response("200", response);
    parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref)
}
