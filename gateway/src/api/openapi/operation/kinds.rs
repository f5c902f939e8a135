//! `GET /v1/kinds` and `GET /v1/kinds/{kind}`. Pure.

use utoipa::openapi::path::OperationBuilder;

use super::super::document::{DESCRIPTIONS, Paths};
use super::super::{parameter, response};
use super::get;

pub(super) fn add(paths: Paths) -> Paths {
    let all = described("Kinds", "listKinds", "The kinds that are served, with their schemas");
    let one = described("Kind", "getKind", "One kind, with its schemas").parameter_ref(parameter::kind());
    paths
        .path("/v1/kinds", get(response::refused(all, &[])))
        .path("/v1/kinds/{kind}", get(response::refused(one, &[404])))
}

fn described(schema: &str, id: &str, summary: &str) -> OperationBuilder {
    let operation = OperationBuilder::new()
        .tag(DESCRIPTIONS)
        .operation_id(Some(id))
        .summary(Some(summary))
        .parameter_ref(parameter::prefer_wait())
        .response("200", response::json("The nodes' own description.", schema));
    parameter::common().into_iter().fold(operation, OperationBuilder::parameter_ref)
}
