//! `DELETE /v1/entities/{kind}/{id}`, for any kind and for one. Pure.

use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathItem};
use utoipa::openapi::response::ResponseBuilder;

use super::super::document::{ENTITIES, Paths};
use super::super::{parameter, response};

pub(super) fn add(paths: Paths) -> Paths {
    let operation = operation()
        .tag(ENTITIES)
        .operation_id(Some("deleteEntity"))
        .summary(Some("Deletes an entity"))
        .parameter_ref(parameter::kind())
        .parameter_ref(parameter::id());
    paths.path("/v1/entities/{kind}/{id}", PathItem::new(HttpMethod::Delete, operation))
}

/// Of one kind.
pub(in super::super) fn of_kind(kind: &str) -> Operation {
    operation()
        .tag(kind)
        .operation_id(Some(format!("deleteEntity.{kind}")))
        .summary(Some(format!("Deletes an entity of the kind {kind}")))
        .parameter_ref(parameter::id())
        .build()
}

fn operation() -> OperationBuilder {
    let headers = [
        response::entity_tag(),
        response::berth_session(),
        response::idempotency_key(),
        response::idempotency_replayed(),
    ];
    let deleted = ResponseBuilder::new().description("It is deleted, now or before.");
    let deleted = headers.into_iter().fold(deleted, |deleted, (name, header)| deleted.header(name, header));
    let operation = OperationBuilder::new()
        .description(Some(
            "Its history is kept, and a deletion is an event of it; later reads answer 410. A later command starts from the \
             initial state, and versions go on. Deleting again writes no event.",
        ))
        .parameter_ref(parameter::idempotency_key())
        .parameter_ref(parameter::if_match())
        .parameter_ref(parameter::if_absent())
        .parameter_ref(parameter::berth_session())
        .parameter_ref(parameter::prefer_wait())
        .response("204", deleted);
    let operation = parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref);
    // A body is not taken, and may be refused for what it is before that.
    response::refused(response::refused(operation, &response::WRITE), &response::BODY)
}
