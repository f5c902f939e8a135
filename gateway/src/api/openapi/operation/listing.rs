//! `GET /v1/entities/{kind}`: the living entities of a kind, page by page. Pure.

use berth_shared::key::ID_BYTES_MAX;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::SchemaFormat;

use super::super::document::{ENTITIES, Paths};
use super::super::parameter::{self, PREFIX_PATTERN, in_query, text};
use super::super::response;
use super::get;

pub(super) fn add(paths: Paths) -> Paths {
    let page = response::json("A page of ids in their byte order.", "Listing")
        .header("Link", response::header("`rel=\"next\"`: the next page, if there is one (RFC 8288)."));
    let (name, session) = response::berth_session();
    let page = page.header(name, session);
    let prefix = text().max_length(Some(ID_BYTES_MAX)).pattern(Some(PREFIX_PATTERN)).build();
    let cursor = text().format(Some(SchemaFormat::Custom("berth-cursor".into()))).build();
    let operation = OperationBuilder::new()
        .tag(ENTITIES)
        .operation_id(Some("listEntities"))
        .summary(Some("The living entities of a kind"))
        .description(Some(
            "Not a snapshot: what is written meanwhile may or may not be seen. Deleted entities are left out.",
        ))
        .parameter_ref(parameter::kind())
        .parameter(in_query("prefix", "Only ids that begin with this.", prefix))
        .parameter_ref(parameter::limit())
        .parameter(in_query("cursor", "The `next` of the page before, which was of the same kind and prefix.", cursor))
        .parameter_ref(parameter::berth_session())
        .parameter_ref(parameter::prefer_wait())
        .response("200", page);
    let operation = parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref);
    paths.path("/v1/entities/{kind}", get(response::refused(operation, &response::READ)))
}
