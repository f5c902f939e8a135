//! Promise 1: what was acknowledged is in the log, under the version that was acknowledged.

use crate::history::{History, Outcome, Violation};

const PROMISE: &str = "durable";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for operation in &history.operations {
        let (Some(write), Outcome::Applied { version, .. }) = (operation.write(), &operation.outcome) else { continue };
        let log = history.log(&operation.entity);
        let event = log.iter().find(|event| event.version == *version);
        if !event.is_some_and(|event| write.made(event)) {
            let what = format!("{operation:?} was acknowledged, and the log has {event:?} there");
            violations.push(Violation::new(PROMISE, what));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acknowledged, added, history};

    #[test]
    fn an_acknowledged_write_that_is_not_in_the_log_is_noticed() {
        let good = history([acknowledged(1, 10, 0..5), acknowledged(2, 20, 6..9)], [added(1, 10), added(2, 20)]);
        assert_eq!(check(&good), []);
        let mut lost = good.clone();
        lost.logs.values_mut().for_each(|log| _ = log.pop());
        assert_eq!(check(&lost).len(), 1);
        let mut replaced = good.clone();
        replaced.logs.values_mut().for_each(|log| log[1] = added(2, 30));
        assert_eq!(check(&replaced).len(), 1);
        let mut none = good;
        none.logs.clear();
        assert_eq!(check(&none).len(), 2);
    }
}
