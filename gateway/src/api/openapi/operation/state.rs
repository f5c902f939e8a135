//! `GET /v1/entities/{kind}/{id}`, for any kind and for one. Pure.

use utoipa::openapi::path::{Operation, OperationBuilder};
use utoipa::openapi::response::ResponseBuilder;

use super::super::document::{ENTITIES, Paths};
use super::super::{parameter, response};
use super::{get, time_travel};

pub(super) fn add(paths: Paths) -> Paths {
    let operation = operation("Entity")
        .tag(ENTITIES)
        .operation_id(Some("getEntity"))
        .summary(Some("The state of an entity"))
        .parameter_ref(parameter::kind())
        .parameter_ref(parameter::id());
    paths.path("/v1/entities/{kind}/{id}", get(operation))
}

/// Of one kind, whose entities are described by the schema of this name.
pub(in super::super) fn of_kind(kind: &str, entity: &str) -> Operation {
    operation(entity)
        .tag(kind)
        .operation_id(Some(format!("getEntity.{kind}")))
        .summary(Some(format!("The state of an entity of the kind {kind}")))
        .parameter_ref(parameter::id())
        .build()
}

fn operation(entity: &str) -> OperationBuilder {
    let (tag, session) = (response::entity_tag(), response::berth_session());
    let found = response::json("The state.", entity).header(tag.0, tag.1).header(session.0, session.1);
    let (name, lag) = response::berth_lag();
    let found = found.header(name, lag);
    let (tag, session) = (response::entity_tag(), response::berth_session());
    let unchanged = ResponseBuilder::new()
        .description("The client has this version already.")
        .header(tag.0, tag.1)
        .header(session.0, session.1);
    let operation = time_travel::add(OperationBuilder::new())
        .parameter_ref(parameter::consistency())
        .parameter_ref(parameter::berth_session())
        .parameter_ref(parameter::if_none_match())
        .parameter_ref(parameter::if_match())
        .parameter_ref(parameter::prefer_wait())
        .response("200", found)
        .response("304", unchanged);
    let operation = parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref);
    response::refused(response::refused(operation, &response::READ), &[410, 412])
}
