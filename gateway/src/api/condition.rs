//! `If-Match` and `If-None-Match` (RFC 9110, 13.1): an entity tag is the entity's version in quotes. Pure.

use berth_shared::ids::Version;
use berth_shared::message::Precondition;
use http::header::{self, HeaderMap, HeaderName};

use super::problem::Problem;

/// The value of one of the two headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntityTags {
    /// `*`
    Any,
    /// Those tags of the list that can be a version's; the others match nothing.
    Versions(Vec<Version>),
}

impl EntityTags {
    /// Whether an entity that exists at `version` matches.
    pub(crate) fn match_version(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// On which versions a command runs.
pub(crate) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let if_match = entity_tags(headers, &header::IF_MATCH)?;
    let if_none_match = entity_tags(headers, &header::IF_NONE_MATCH)?;
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (Some(EntityTags::Any), None) => Ok(Precondition::Exists),
        (Some(EntityTags::Versions(versions)), None) => Ok(Precondition::Versions(versions)),
        (None, Some(EntityTags::Any)) => Ok(Precondition::Absent),
        (_, Some(EntityTags::Versions(_))) => Err(Problem::invalid("If-None-Match of a command must be *")),
        // An entity that exists and does not: both have to hold (RFC 9110, 13.2.2), and no version can.
        (Some(_), Some(EntityTags::Any)) => Ok(Precondition::Versions(Vec::new())),
    }
}

/// The tags in all lines of the header `name`.
pub(crate) fn entity_tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<EntityTags>, Problem> {
    let mut lines = headers.get_all(name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let malformed = || Problem::invalid(format!("{name} must be * or a list of entity tags such as \"3\""));
    let mut any = false;
    let mut tags = 0;
    let mut versions = Vec::new();
    for line in lines {
        let mut rest = line.as_bytes().trim_ascii();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(b"*") {
                any = true;
                rest = after;
            } else if !rest.starts_with(b",") {
                let (opaque, after) = split_tag(rest).ok_or_else(malformed)?;
                tags += 1;
                versions.extend(version_of(opaque));
                rest = after;
            }
            rest = rest.trim_ascii_start();
            if !rest.is_empty() {
                rest = rest.strip_prefix(b",").ok_or_else(malformed)?.trim_ascii_start();
            }
        }
    }
    match (any, tags) {
        (true, 0) => Ok(Some(EntityTags::Any)),
        (false, 1..) => Ok(Some(EntityTags::Versions(versions))),
        _ => Err(malformed()),
    }
}

/// Takes `"opaque"` or `W/"opaque"` off the front.
fn split_tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let quoted = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"")?;
    let end = quoted.iter().position(|byte| *byte == b'"')?;
    Some((&quoted[..end], &quoted[end + 1..]))
}

/// Proxies that compress an answer mark its tag; exactly one such mark is taken off.
fn version_of(opaque: &[u8]) -> Option<Version> {
    let marks: [&[u8]; 4] = [b"--gzip", b"-gzip", b"-br", b"-zstd"];
    let digits = marks.iter().find_map(|mark| opaque.strip_suffix(*mark)).unwrap_or(opaque);
    let canonical =
        digits == b"0" || (digits.first().is_some_and(|first| *first != b'0') && digits.iter().all(u8::is_ascii_digit));
    if !canonical {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tags(lines: &[&str]) -> Result<Option<EntityTags>, &'static str> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_MATCH, HeaderValue::from_str(line).unwrap());
        }
        entity_tags(&headers, &header::IF_MATCH).map_err(|problem| problem.code())
    }

    fn versions(versions: &[Version]) -> EntityTags {
        EntityTags::Versions(versions.to_vec())
    }

    #[test]
    fn versions_are_read_through_what_proxies_add() {
        for tag in
            ["\"7\"", "W/\"7\"", "\"7-gzip\"", "\"7-br\"", "\"7-zstd\"", "\"7--gzip\"", "W/\"7-gzip\"", " \"7\" "]
        {
            assert_eq!(tags(&[tag]), Ok(Some(versions(&[7]))), "{tag}");
        }
        assert_eq!(tags(&["\"18446744073709551615\""]), Ok(Some(versions(&[u64::MAX]))));
        assert_eq!(tags(&["\"0\""]), Ok(Some(versions(&[0]))));
    }

    #[test]
    fn lists_may_span_lines() {
        assert_eq!(tags(&["\"1\", \"2\",W/\"3\"", "\"4\""]), Ok(Some(versions(&[1, 2, 3, 4]))));
        assert_eq!(tags(&[" , \"1\" ,, \"2\","]), Ok(Some(versions(&[1, 2]))));
        assert_eq!(tags(&["\"a,b\", \"2\""]), Ok(Some(versions(&[2]))));
        assert_eq!(tags(&["*"]), Ok(Some(EntityTags::Any)));
        assert_eq!(tags(&[]), Ok(None));
    }

    #[test]
    fn tags_that_are_no_version_match_nothing() {
        for tag in [
            "\"\"",
            "\"abc\"",
            "\"07\"",
            "\"+7\"",
            "\"-7\"",
            "\"7-deflate\"",
            "\"7-gzip-gzip\"",
            "\"7-br-gzip\"",
            "\"7 \"",
            "\"18446744073709551616\"",
            "\"7-GZIP\"",
            "\"-gzip\"",
        ] {
            assert_eq!(tags(&[tag]), Ok(Some(versions(&[]))), "{tag}");
        }
    }

    #[test]
    fn malformed_lists_are_refused() {
        for line in [
            "",
            "7",
            "\"7",
            "7\"",
            "w/\"7\"",
            "W/7",
            "\"1\" \"2\"",
            "*, \"1\"",
            "\"1\", *",
            "**",
            ",",
            "\"1\"x",
            "W/ \"7\"",
        ] {
            assert_eq!(tags(&[line]), Err("invalid-request"), "{line:?}");
        }
    }

    #[test]
    fn the_preconditions_of_a_command_have_to_hold_together() {
        let of = |if_match: Option<&str>, if_none_match: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_str(value).unwrap());
                }
            }
            precondition(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(of(None, None), Ok(Precondition::None));
        assert_eq!(of(Some("*"), None), Ok(Precondition::Exists));
        assert_eq!(of(Some("\"3\""), None), Ok(Precondition::Versions(vec![3])));
        assert_eq!(of(Some("\"x\""), None), Ok(Precondition::Versions(vec![])), "no version matches");
        assert_eq!(of(None, Some("*")), Ok(Precondition::Absent));
        assert_eq!(of(None, Some("\"3\"")), Err("invalid-request"));
        // Both hold of nothing.
        assert_eq!(of(Some("*"), Some("*")), Ok(Precondition::Versions(vec![])));
        assert_eq!(of(Some("\"1\""), Some("*")), Ok(Precondition::Versions(vec![])));
        assert_eq!(of(Some("*"), Some("\"1\"")), Err("invalid-request"));
    }
}
