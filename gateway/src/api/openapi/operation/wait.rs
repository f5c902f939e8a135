//! `?wait=` on a history page: a long poll. Pure.

use serde_json::json;
use utoipa::openapi::path::OperationBuilder;

use super::super::parameter::{in_query, number};

/// Longest wait for the next event, in seconds.
const WAIT_SECONDS_MAX: usize = 30;

pub(super) fn add(operation: OperationBuilder) -> OperationBuilder {
    let description = "How many seconds an empty page may wait for the next event.";
    let wait = number(0).maximum(Some(WAIT_SECONDS_MAX)).default(Some(json!(0))).build();
    operation.parameter(in_query("wait", description, wait))
}
