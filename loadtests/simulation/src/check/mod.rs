//! The promises, each checked by a file of its own: pure functions from what was recorded to what is wrong with it.

mod agreement;
mod complete;
mod departed;
mod durable;
mod exactly_once;
mod linearizable;
mod listed;
mod ordered;
mod placed;
mod planned;
mod prepared;
mod progress;
mod removed;
#[cfg(test)]
mod samples;
mod searched;
mod session;
mod single_writer;

pub use complete::incomplete;
pub use placed::unplaced;

use crate::history::{History, Violation};

/// Everything that is wrong with `history`.
pub fn all(history: &History) -> Vec<Violation> {
    let checks = [
        durable::check,
        single_writer::check,
        exactly_once::check,
        linearizable::check,
        searched::check,
        session::check,
        listed::check,
        ordered::check,
        agreement::check,
        progress::check,
        placed::check,
        complete::check,
        prepared::check,
        departed::check,
        removed::check,
        planned::check,
    ];
    checks.iter().flat_map(|check| check(history)).collect()
}

/// What can be wrong with a cluster that has only begun.
pub fn beginning(history: &History) -> Vec<Violation> {
    [single_writer::check, agreement::check].iter().flat_map(|check| check(history)).collect()
}
