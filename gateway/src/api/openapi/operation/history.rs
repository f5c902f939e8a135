//! `GET /v1/entities/{kind}/{id}/events`: an entity's history, page by page. Pure.

use utoipa::openapi::path::OperationBuilder;

use super::super::document::{ENTITIES, Paths};
use super::super::{parameter, response};
use super::{get, live, wait};

pub(super) fn add(paths: Paths) -> Paths {
    let (name, session) = response::berth_session();
    let page = response::json("A page of the history, oldest first.", "History").header(name, session);
    let (name, lag) = response::berth_lag();
    let page = page.header(name, lag);
    let operation = OperationBuilder::new()
        .tag(ENTITIES)
        .operation_id(Some("getHistory"))
        .summary(Some("The history of an entity"))
        .parameter_ref(parameter::kind())
        .parameter_ref(parameter::id())
        .parameter_ref(parameter::after())
        .parameter_ref(parameter::limit())
        .parameter_ref(parameter::consistency())
        .parameter_ref(parameter::berth_session())
        .parameter_ref(parameter::prefer_wait());
    let operation = live::add(wait::add(operation), page);
    let operation = parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref);
    paths.path("/v1/entities/{kind}/{id}/events", get(response::refused(operation, &response::READ)))
}
