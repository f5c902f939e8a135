//! The operations that there are for any kind, one or a few to a file. Pure.

pub(super) mod command;
pub(super) mod delete;
mod description;
mod history;
mod kinds;
mod listing;
mod live;
pub(super) mod state;
mod time_travel;
mod wait;

use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};

use super::document::Paths;

/// Everything but what is made of kinds.
pub(super) fn all() -> Paths {
    let paths = command::add(Paths::new());
    let paths = state::add(paths);
    let paths = delete::add(paths);
    let paths = history::add(paths);
    let paths = listing::add(paths);
    let paths = kinds::add(paths);
    description::add(paths)
}

pub(super) fn get(operation: OperationBuilder) -> PathItem {
    PathItem::new(HttpMethod::Get, operation)
}
