//! A listing has every entity once that is there all the time while it is made, and none that is not there at any time of it:
//! ascending, and however many pages it took.

use crate::history::{Call, Entity, History, Listing, Operation, Outcome, Violation, Write};

const PROMISE: &str = "listed";

pub(super) fn check(history: &History) -> Vec<Violation> {
    history.listings.iter().flat_map(|listing| check_one(history, listing)).collect()
}

fn check_one(history: &History, listing: &Listing) -> Vec<Violation> {
    let mut wrong = Vec::new();
    if !listing.ids.is_sorted_by(|one, next| one < next) {
        wrong.push("ids do not ascend".to_owned());
    }
    let of_kind = history.entities().into_iter().filter(|entity| entity.kind == listing.kind);
    let (mut known, mut missing) = (Vec::new(), Vec::new());
    for entity in of_kind {
        let is_listed = listing.ids.contains(&entity.id);
        if !is_listed && is_there_throughout(history, entity, listing) {
            missing.push(&entity.id);
        }
        if is_there_sometimes(history, entity, listing) {
            known.push(&entity.id);
        }
    }
    if !missing.is_empty() {
        wrong.push(format!("{missing:?} are missing"));
    }
    let strange: Vec<&String> = listing.ids.iter().filter(|id| !known.contains(id)).collect();
    if !strange.is_empty() {
        wrong.push(format!("{strange:?} are not there"));
    }
    wrong.into_iter().map(|what| Violation::new(PROMISE, format!("{listing:?}: {what}"))).collect()
}

/// It was known to be there before the listing began, and nobody had asked to delete it until the listing ended.
fn is_there_throughout(history: &History, entity: &Entity, listing: &Listing) -> bool {
    let mut is_known = false;
    for operation in history.of(entity) {
        if operation.write() == Some(Write::Delete) && operation.invoked <= listing.completed {
            return false;
        }
        let is_seen = match operation.outcome {
            Outcome::Applied { .. } => operation.write() != Some(Write::Delete),
            Outcome::State { .. } => true,
            _ => false,
        };
        is_known |= is_seen && operation.completed < listing.invoked;
    }
    is_known
}

/// Somebody had asked for something of it until the listing ended; and if its end was known before the listing began, for
/// something after that.
fn is_there_sometimes(history: &History, entity: &Entity, listing: &Listing) -> bool {
    let is_end = |operation: &&Operation| {
        operation.write() == Some(Write::Delete)
            && matches!(operation.outcome, Outcome::Applied { replayed: false, .. })
    };
    let ends = history.of(entity).filter(is_end).filter(|end| end.completed < listing.invoked);
    let ended = ends.map(|end| end.invoked).max();
    history.of(entity).any(|operation| {
        let makes = matches!(operation.call, Call::Write(write) if write != Write::Delete);
        // What was asked for before its end may have come after it, if it took as long, or nobody knows how long it took.
        let lasts = |until| operation.completed > until || matches!(operation.outcome, Outcome::Unknown { .. });
        makes && operation.invoked <= listing.completed && ended.is_none_or(lasts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acknowledged, added, deleted, deletion, history};
    use crate::history::Kind;

    fn check_listing(operations: impl IntoIterator<Item = Operation>, ids: &[&str]) -> usize {
        let mut history = history(operations, [added(1, 10), deleted(2)]);
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        history.listings.push(Listing { kind: Kind::Counter, ids, invoked: 10, completed: 20 });
        check(&history).len()
    }

    #[test]
    fn what_is_there_throughout_is_listed_once() {
        let there = || [acknowledged(1, 10, 0..5)];
        assert_eq!(check_listing(there(), &["c"]), 0);
        assert_eq!(check_listing(there(), &[]), 1);
        assert_eq!(check_listing(there(), &["c", "c"]), 1);
        assert_eq!(check_listing([acknowledged(1, 10, 0..15)], &[]), 0, "it may have come later");
    }

    #[test]
    fn what_was_never_there_or_is_gone_is_not_listed() {
        assert_eq!(check_listing([acknowledged(1, 10, 0..5)], &["b", "c"]), 1);
        assert_eq!(check_listing([acknowledged(1, 10, 25..30)], &["c"]), 1, "nobody had asked for it");
        let gone = |time| [acknowledged(1, 10, 0..5), deletion(2, time)];
        assert_eq!((check_listing(gone(6..8), &[]), check_listing(gone(6..8), &["c"])), (0, 1));
        assert_eq!((check_listing(gone(6..12), &[]), check_listing(gone(6..12), &["c"])), (0, 0));
    }
}
