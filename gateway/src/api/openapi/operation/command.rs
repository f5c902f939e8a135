//! `POST /v1/entities/{kind}/{id}/{command}`, for any kind and for one command of one kind. Pure.

use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, Schema};

use super::super::document::{ENTITIES, Paths};
use super::super::{parameter, response};

pub(super) fn add(paths: Paths) -> Paths {
    let arguments = ObjectBuilder::new().schema_type(Type::Object).description(Some("What the command's schema says."));
    let operation = operation(RefOr::T(arguments.build().into()), false, "Outcome")
        .tag(ENTITIES)
        .operation_id(Some("runCommand"))
        .summary(Some("Runs a command of any kind"))
        .parameter_ref(parameter::kind())
        .parameter_ref(parameter::id())
        .parameter_ref(parameter::command());
    paths.path("/v1/entities/{kind}/{id}/{command}", PathItem::new(HttpMethod::Post, operation))
}

/// One command of one kind. `arguments` and `outcome` are names of schemas.
pub(in super::super) fn of_kind(
    kind: &str,
    command: &str,
    description: Option<&str>,
    arguments: &str,
    needs_body: bool,
    outcome: &str,
) -> Operation {
    operation(Ref::from_schema_name(arguments).into(), needs_body, outcome)
        .tag(kind)
        .operation_id(Some(format!("{kind}.{command}")))
        .summary(Some(format!("{command}: a command of {kind}")))
        .description(description)
        .parameter_ref(parameter::id())
        .build()
}

/// Without its name and path parameters.
fn operation(arguments: RefOr<Schema>, needs_body: bool, outcome: &str) -> OperationBuilder {
    let required = if needs_body { Required::True } else { Required::False };
    let body = RequestBodyBuilder::new()
        .description(Some("The arguments. No body at all stands for `{}`. At most 1 MiB, nested at most 64 deep."))
        .required(Some(required))
        .content("application/json", ContentBuilder::new().schema(Some(arguments)).build());
    let answers = [
        response::entity_tag(),
        response::berth_session(),
        response::idempotency_key(),
        response::idempotency_replayed(),
        ("Preference-Applied", response::header("`return=minimal`, if that was asked for.")),
    ];
    let done = response::json("What the command came to; durable on a majority of the replicas.", outcome);
    let done = answers.into_iter().fold(done, |done, (name, header)| done.header(name, header));
    let operation = OperationBuilder::new()
        .parameter_ref(parameter::idempotency_key())
        .parameter_ref(parameter::if_match())
        .parameter_ref(parameter::if_absent())
        .parameter_ref(parameter::berth_session())
        .parameter_ref(parameter::prefer())
        .request_body(Some(body.build()))
        .response("200", done);
    let operation = parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref);
    response::refused(response::refused(operation, &response::WRITE), &response::BODY)
}
