//! Errors as people read them. Pure.

use std::error::Error;

/// An error and its causes in one line. A cause that the error before it has quoted already is not said again, and line
/// breaks become spaces.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = flat(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = flat(&error.to_string());
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Wrapped {
        #[error("quoting: {0}")]
        Quoting(#[source] io::Error),
        #[error("not\n  quoting")]
        NotQuoting(#[source] Box<Wrapped>),
    }

    #[test]
    fn every_cause_is_said_once() {
        let quoting = Wrapped::Quoting(io::Error::other("the disk is full"));
        assert_eq!(in_one_line(&quoting), "quoting: the disk is full");
        let both = Wrapped::NotQuoting(Box::new(quoting));
        assert_eq!(in_one_line(&both), "not quoting: quoting: the disk is full");
    }
}
