//! The query parameters of reads. Whatever is not served is refused by name, never silently ignored. Pure.

use std::time::Duration;

use berth_shared::message::Consistency;

use super::path;
use super::problem::Problem;
use crate::forward::Page;

/// Events on a history page when the client does not say.
pub(crate) const LIMIT_DEFAULT: u32 = 100;
/// Most events on a history page.
pub(crate) const LIMIT_MAX: u32 = 1000;
/// Bytes of events on a history page, past which it is cut.
const PAGE_BYTES_MAX: u32 = 1024 * 1024;
/// Longest wait for the next event.
pub(crate) const WAIT_SECONDS_MAX: u64 = 30;

/// The parameters of a history page: `after`, `limit`, `wait` and `consistency`.
pub(crate) fn page(query: Option<&str>) -> Result<Page, Problem> {
    let [after, limit, wait, consistency] = parameters(query, ["after", "limit", "wait", "consistency"])?;
    let consistency = parse_consistency(consistency.as_deref())?;
    let after = match after {
        None => 0,
        Some(text) => {
            number(&text).ok_or_else(|| Problem::invalid("after must be a version: 0 or a positive integer"))?
        }
    };
    let limit = match limit {
        None => LIMIT_DEFAULT,
        Some(text) => match number(&text).map(u32::try_from) {
            Some(Ok(limit @ 1..=LIMIT_MAX)) => limit,
            _ => return Err(Problem::invalid("limit must be 1 to 1000")),
        },
    };
    let wait = match wait {
        None => Duration::ZERO,
        Some(text) => match number(&text) {
            Some(seconds @ 0..=WAIT_SECONDS_MAX) => Duration::from_secs(seconds),
            _ => return Err(Problem::invalid("wait must be 0 to 30 seconds")),
        },
    };
    Ok(Page { after, limit, bytes_max: PAGE_BYTES_MAX, consistency, wait, is_live: false })
}

/// The parameters of a read of the current state: `consistency`.
pub(crate) fn state(query: Option<&str>) -> Result<Consistency, Problem> {
    let [consistency] = parameters(query, ["consistency"])?;
    parse_consistency(consistency.as_deref())
}

/// A resource without parameters.
pub(crate) fn none(query: Option<&str>) -> Result<(), Problem> {
    parameters(query, []).map(|[]| ())
}

pub(super) fn parse_consistency(consistency: Option<&str>) -> Result<Consistency, Problem> {
    match consistency {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("strict") => Ok(Consistency::Strict),
        // What the client has seen stands in its token.
        Some("session") => Ok(Consistency::Session { at_least: None }),
        Some("stale") => Ok(Consistency::Stale),
        Some(_) => Err(Problem::invalid("consistency must be linearizable, strict, session or stale")),
    }
}

/// The decoded values of the parameters `names`, each of which may be given once; any other parameter is an error.
pub(super) fn parameters<const N: usize>(
    query: Option<&str>,
    names: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = path::decode(name)?;
        let Some(position) = names.iter().position(|known| *known == name) else {
            return Err(unknown(&name));
        };
        if values[position].replace(path::decode(value)?.into_owned()).is_some() {
            return Err(Problem::invalid(format!("the parameter {name} is given twice")));
        }
    }
    Ok(values)
}

fn unknown(name: &str) -> Problem {
    match name {
        "consistency" | "after" | "limit" | "wait" | "version" | "at" | "prefix" | "cursor" => {
            Problem::invalid(format!("the parameter {name} does not apply here"))
        }
        _ => Problem::invalid("the query has a parameter that is not known"),
    }
}

pub(super) fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(query: &str) -> Result<(u64, u32), &'static str> {
        page(Some(query)).map(|page| (page.after, page.limit)).map_err(|problem| problem.code())
    }

    #[test]
    fn a_page_has_defaults_and_bounds() {
        assert_eq!(page(None).map(|page| (page.after, page.limit)).ok(), Some((0, 100)));
        assert_eq!(page_of(""), Ok((0, 100)));
        assert_eq!(page_of("after=7&limit=1000&consistency=linearizable"), Ok((7, 1000)));
        assert_eq!(page_of("%61fter=%37"), Ok((7, 100)));
        let wait = |query| page(query).map(|page| page.wait.as_secs()).ok();
        assert_eq!([wait(None), wait(Some("wait=0")), wait(Some("wait=30"))], [Some(0), Some(0), Some(30)]);
        for query in [
            "after=",
            "after=-1",
            "after=+1",
            "after=x",
            "after=18446744073709551616",
            "limit=0",
            "limit=1001",
            "limit=",
            "after=1&after=1",
            "after=%",
            "limit=4294967297",
            "wait=",
            "wait=31",
            "wait=-1",
            "wait=1.5",
            "wait=1&wait=1",
        ] {
            assert_eq!(page_of(query), Err("invalid-request"), "{query}");
        }
    }

    #[test]
    fn a_read_is_linearizable_unless_it_asks_for_something_else() {
        for (query, consistency) in [
            (None, Consistency::Linearizable),
            (Some("consistency=linearizable"), Consistency::Linearizable),
            (Some("consistency=strict"), Consistency::Strict),
            (Some("consistency=session"), Consistency::Session { at_least: None }),
            (Some("consistency=stale"), Consistency::Stale),
        ] {
            assert_eq!(state(query).ok(), Some(consistency));
            assert_eq!(page(query).map(|page| page.consistency).ok(), Some(consistency));
        }
        assert_eq!(state(Some("consistency=strict&consistency=strict")).unwrap_err().code(), "invalid-request");
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (query, named) in [
            ("prefix=a", "the parameter prefix does not apply here"),
            ("consistency=Strict", "must be linearizable, strict, session or stale"),
            ("consistency=", "must be linearizable, strict, session or stale"),
            ("limit=3", "limit"),
            ("wait=3", "wait"),
        ] {
            let problem = state(Some(query)).unwrap_err();
            assert!(format!("{problem:?}").contains(named), "{query}");
        }
        assert!(page(Some("version=5")).is_err());
        assert!(state(Some("x=y")).is_err());
        assert!(none(Some("")).is_ok());
        assert!(none(Some("x")).is_err());
    }
}
