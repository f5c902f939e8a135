//! An entity's state at an earlier version or time: `GET /v1/entities/{kind}/{id}?version=` or `?at=`.

use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Moment};
use http::Response;
use http::header as names;
use http::request::Parts;

use super::asked::AskedState;
use super::header::Preferences;
use super::problem::Problem;
use super::session::Session;
use super::{Api, Body, answer, condition, header, path, query, uncached};
use crate::nodes::Nodes;

/// How long ago a time must be. Clocks differ, and what the owner decides at this moment has a time of its own clock.
const AGE_MICROS_MIN: u64 = 1_000_000;

/// Whether this query of a read names an earlier state.
pub(super) fn is_asked_for(query: Option<&str>) -> bool {
    let names = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    // What is malformed is refused by whoever reads all parameters.
    names.filter_map(|name| path::decode(name).ok()).any(|name| matches!(&*name, "version" | "at"))
}

impl<N: Nodes> Api<N> {
    pub(super) async fn past(
        &self,
        key: &EntityKey,
        parts: &Parts,
        traceparent: &str,
    ) -> Result<Response<Body>, Problem> {
        let (moment, consistency) = parse(parts.uri.query(), self.seams.clock.wall_micros())?;
        header::check_accept(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let if_match = condition::entity_tags(&parts.headers, &names::IF_MATCH)?;
        let if_none_match = condition::entity_tags(&parts.headers, &names::IF_NONE_MATCH)?;
        let session = Session::parse(&parts.headers)?;
        let _places = self.admit_read(key)?;
        let asked = AskedState {
            key,
            moment: Some(moment),
            consistency,
            if_match,
            if_none_match,
            session: &session,
            time: preferences.deadline,
            traceparent,
        };
        Ok(uncached(self.read(asked, |found| answer::found(key, found)).await?))
    }
}

/// The parameters of such a read: `version` or `at`, and `consistency`.
pub(super) fn parse(query: Option<&str>, now_micros: u64) -> Result<(Moment, Consistency), Problem> {
    let [version, at, consistency] = query::parameters(query, ["version", "at", "consistency"])?;
    let moment = match (version, at) {
        (Some(_), Some(_)) => return Err(Problem::invalid("version and at name two states; give one of them")),
        (Some(version), None) => {
            let invalid = || Problem::invalid("version must be a positive integer");
            Moment::Version(query::number(&version).ok_or_else(invalid)?)
        }
        (None, at) => Moment::Time(parse_time(&at.unwrap_or_default(), now_micros)?),
    };
    Ok((moment, query::parse_consistency(consistency.as_deref())?))
}

/// Microseconds since 1970; a time before that is as good as 1970.
pub(crate) fn parse_time(text: &str, now_micros: u64) -> Result<u64, Problem> {
    let invalid = || Problem::invalid("at must be a time as in RFC 3339, such as 2026-01-31T12:00:00.5Z");
    // Timestamps are read in more forms than RFC 3339 has.
    let time: jiff::Timestamp =
        Some(text).filter(|text| is_rfc_3339(text)).ok_or_else(invalid)?.parse().map_err(|_| invalid())?;
    let micros = u64::try_from(time.as_microsecond()).unwrap_or(0);
    if micros.saturating_add(AGE_MICROS_MIN) > now_micros {
        return Err(Problem::invalid(
            "at must be more than a second ago, because until then the state may still change",
        ));
    }
    Ok(micros)
}

/// The form of `date-time` in RFC 3339, 5.6; whether there is such a day and hour is not looked at.
fn is_rfc_3339(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    const OFFSET: &[u8] = b"+00:00";
    let fits = |text: &[u8], form: &[u8]| {
        text.len() == form.len()
            && text.iter().zip(form).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                b'T' => byte.eq_ignore_ascii_case(&b'T'),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte == other,
            })
    };
    let Some((time, mut rest)) = text.as_bytes().split_at_checked(FORM.len()) else { return false };
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    fits(time, FORM) && (rest.eq_ignore_ascii_case(b"Z") || fits(rest, OFFSET))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600_000_000;

    fn parsed(query: &str) -> Result<(Moment, Consistency), &'static str> {
        parse(Some(query), NOW).map_err(|problem| problem.code())
    }

    #[test]
    fn a_version_or_a_time_is_asked_for() {
        let linearizable = Consistency::Linearizable;
        for (query, moment) in [
            ("version=3", Moment::Version(3)),
            ("version=0", Moment::Version(0)),
            ("version=18446744073709551615", Moment::Version(u64::MAX)),
            ("at=2025-12-31T23:59:59Z", Moment::Time(NOW - 1_000_000)),
            ("at=2025-12-31T23:59:58.123456789Z", Moment::Time(NOW - 2_000_000 + 123_456)),
            ("at=2025-12-31t23:59:58z", Moment::Time(NOW - 2_000_000)),
            ("at=2026-01-01T01:00:00.5%2B02:00", Moment::Time(NOW - 3_599_500_000)),
            ("at=2026-01-01T01:00:00+02:00", Moment::Time(NOW - 3_600_000_000)),
            ("at=2025-12-31T20:59:00-03:00", Moment::Time(NOW - 60_000_000)),
            ("at=1969-12-31T23:59:59Z", Moment::Time(0)),
            ("at=0001-01-01T00:00:00Z", Moment::Time(0)),
        ] {
            assert!(is_asked_for(Some(query)), "{query}");
            assert_eq!(parsed(query), Ok((moment, linearizable)), "{query}");
        }
        assert_eq!(parsed("version=3&consistency=strict"), Ok((Moment::Version(3), Consistency::Strict)));
        assert!(is_asked_for(Some("consistency=strict&%61t=x")) && is_asked_for(Some("version")));
        assert!(!is_asked_for(None) && !is_asked_for(Some("consistency=strict&versions=1&x=at")));
    }

    #[test]
    fn what_is_no_version_or_time_is_invalid() {
        for query in [
            "version=",
            "version",
            "version=-1",
            "version=%2B1",
            "version=1.0",
            "version=18446744073709551616",
            "version=1&version=1",
            "version=1&at=2025-01-01T00:00:00Z",
            "version=1&after=1",
            "at=",
            "at=now",
            "at=2025-01-01",
            "at=2025-01-01T00:00:00",
            "at=2025-01-01%2000:00:00Z",
            "at=2025-01-01T00:00Z",
            "at=20250101T000000Z",
            "at=2025-02-30T00:00:00Z",
            "at=2025-01-01T25:00:00Z",
            "at=2025-01-01T00:00:00.Z",
            "at=2025-01-01T00:00:00.0123456789Z",
            "at=2025-01-01T00:00:00+0100",
            "at=2025-01-01T00:00:00+01",
            "at=2025-01-01T00:00:00Z[UTC]",
            "at=%2B002025-01-01T00:00:00Z",
            "at=ü",
            "at=%ff",
        ] {
            assert_eq!(parsed(query), Err("invalid-request"), "{query}");
        }
    }

    #[test]
    fn a_time_must_be_more_than_a_second_ago() {
        for (at, is_taken) in [
            ("2025-12-31T23:59:59Z", true),
            ("2025-12-31T23:59:59.000001Z", false),
            ("2026-01-01T00:00:00Z", false),
            ("9999-12-31T00:00:00Z", false),
        ] {
            assert_eq!(parsed(&format!("at={at}")).is_ok(), is_taken, "{at}");
        }
    }
}
