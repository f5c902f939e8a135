//! Live history: server-sent events, where `Accept` asks for them. Pure.

use serde_json::json;
use utoipa::openapi::ContentBuilder;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::response::ResponseBuilder;

use super::super::parameter::{in_header, text};

/// Adds the answer, which is `page` where it is not live.
pub(super) fn add(operation: OperationBuilder, page: ResponseBuilder) -> OperationBuilder {
    let stream = text().description(Some(
        "Server-sent events that do not end: `id` is the version, `data` one CloudEvents 1.0 event in JSON. A comment comes \
         at least every 15 s.",
    ));
    let live = ContentBuilder::new().schema(Some(stream.build())).build();
    let version = text().pattern(Some("^[0-9]{1,20}$")).build();
    operation
        .description(Some("With `Accept: text/event-stream` the history is live: it goes on as events happen."))
        .parameter(in_header(
            "Last-Event-ID",
            "Of a live history: the version after which it begins, which a client sends when it comes back.",
            version,
            Some(json!("7")),
        ))
        .response("200", page.content("text/event-stream", live))
}
