//! The bytes of events: the type is the variant's name, the data is the variant's content, as JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use berth_shared::key;

use super::variant::{self, UnitContent};
use super::{STORED_DEPTH_MAX, json};
use crate::record::EventBody;

/// Types that start so belong to Berth, which puts events of its own into histories.
const RESERVED_PREFIX: &[u8] = b"berth-";

/// Why an event cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is not the JSON of an externally tagged enum")]
    Form,
    #[error("its type is not a lower-case letter followed by up to 63 lower-case letters, digits or hyphens")]
    Type,
    #[error("its type starts with 'berth-', which is reserved")]
    Reserved,
    #[error("it is nested too deep")]
    TooDeep,
    #[error("its kind has no event of this type")]
    Unknown,
    #[error("{0}")]
    Json(String),
}

/// Serializes the event once and cuts type and data out of the bytes, `{"type":data}` or `"type"`.
pub(super) fn encode<E: Serialize>(event: &E) -> Result<EventBody, Error> {
    let mut json = Vec::with_capacity(128);
    serde_json::to_writer(&mut json, event).map_err(|error| Error::Json(error.to_string()))?;
    let json = Bytes::from(json);
    let name_at = match json.first() {
        Some(b'"') => 1,
        Some(b'{') if json.get(1) == Some(&b'"') => 2,
        _ => return Err(Error::Form),
    };
    let name_len = json[name_at..].iter().position(|byte| *byte == b'"').ok_or(Error::Form)?;
    let name_end = name_at + name_len;
    let event_type = json.slice(name_at..name_end);
    check_type(&event_type)?;
    let data = if name_at == 1 {
        Bytes::from_static(b"{}")
    } else if json.get(name_end + 1) == Some(&b':') {
        json.slice(name_end + 2..json.len() - 1)
    } else {
        return Err(Error::Form);
    };
    if json::is_deeper_than(STORED_DEPTH_MAX, &data) {
        return Err(Error::TooDeep);
    }
    Ok(EventBody { event_type, data })
}

pub(super) fn decode<E: DeserializeOwned>(event: &EventBody) -> Result<E, Error> {
    let event_type = std::str::from_utf8(&event.event_type).map_err(|_| Error::Type)?;
    let data = std::str::from_utf8(&event.data).map_err(|error| Error::Json(error.to_string()))?;
    variant::read(event_type, data, UnitContent::Any).map_err(|error| match error {
        variant::Error::UnknownVariant => Error::Unknown,
        variant::Error::NotAnEnum => Error::Form,
        other => Error::Json(other.to_string()),
    })
}

pub(super) fn check_type(event_type: &[u8]) -> Result<(), Error> {
    let name = std::str::from_utf8(event_type).map_err(|_| Error::Type)?;
    // Event types, commands and rejection codes share the grammar of kinds.
    key::check_kind(name).map_err(|_| Error::Type)?;
    if event_type.starts_with(RESERVED_PREFIX) { Err(Error::Reserved) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Event {
        Plain,
        OneField {
            text: String,
        },
        NoFields {},
        Wrapped(Value),
        Pair(u8, u8),
        #[serde(rename = "berth-deleted")]
        Reserved,
        #[serde(rename = "Shouting")]
        BadName {},
    }

    #[test]
    fn every_form_of_variant_comes_back() {
        for (event, event_type, data) in [
            (Event::Plain, "plain", "{}"),
            (Event::OneField { text: "a\"}:{".into() }, "one-field", r#"{"text":"a\"}:{"}"#),
            (Event::NoFields {}, "no-fields", "{}"),
            (Event::Wrapped(json!([1, {"a": null}])), "wrapped", r#"[1,{"a":null}]"#),
            (Event::Pair(1, 2), "pair", "[1,2]"),
        ] {
            let body = encode(&event).unwrap();
            assert_eq!((&body.event_type[..], &body.data[..]), (event_type.as_bytes(), data.as_bytes()));
            assert_eq!(decode::<Event>(&body).unwrap(), event);
        }
    }

    #[test]
    fn events_outside_the_rules_are_refused() {
        assert!(matches!(encode(&Event::Reserved), Err(Error::Reserved)));
        assert!(matches!(encode(&Event::BadName {}), Err(Error::Type)));
        assert!(matches!(encode(&5), Err(Error::Form)));
        assert!(matches!(encode(&()), Err(Error::Form)));
        let deep = (0..STORED_DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        let body = encode(&Event::Wrapped(deep.clone())).unwrap();
        assert_eq!(decode::<Event>(&body).unwrap(), Event::Wrapped(deep.clone()));
        assert!(matches!(encode(&Event::Wrapped(json!([deep]))), Err(Error::TooDeep)));
    }

    #[test]
    fn an_event_that_lost_or_gained_fields_is_still_read() {
        let body = |event_type: &'static str, data: &'static str| EventBody {
            event_type: Bytes::from_static(event_type.as_bytes()),
            data: Bytes::from_static(data.as_bytes()),
        };
        assert_eq!(decode::<Event>(&body("plain", r#"{"old":1}"#)).unwrap(), Event::Plain);
        let gained = decode::<Event>(&body("one-field", r#"{"text":"a","new":1}"#)).unwrap();
        assert_eq!(gained, Event::OneField { text: "a".into() });
        assert!(matches!(decode::<Event>(&body("other", "{}")), Err(Error::Unknown)));
        assert!(matches!(decode::<Event>(&body("one-field", "{}")), Err(Error::Json(_))));
        assert!(matches!(decode::<Event>(&body("one-field", r#"{"text":"a"}}"#)), Err(Error::Json(_))));
    }
}
