//! The wall-clock time of a record, as kinds see it. It is only ever passed in; nothing here reads a clock.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01 UTC, at most the end of the year 9999. Prints, and is written in JSON, as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// The last microsecond of the second-last day of the year 9999, the last whole day whose time is printable in every zone.
const MICROS_MAX: u64 = 253_402_207_199_999_999;

/// A text is not an RFC 3339 time between 1970 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as in RFC 3339, such as 2026-01-31T12:00:00Z, and lies between 1970 and 9999")]
pub struct Error;

impl Timestamp {
    /// Later times than the last one that can be printed become that one.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(MICROS_MAX))
    }

    pub fn as_micros(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        let time = jiff::Timestamp::from_microsecond(micros).map_err(|_| fmt::Error)?;
        write!(f, "{time:.6}")
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let time: jiff::Timestamp = text.parse().map_err(|_| Error)?;
        let micros = u64::try_from(time.as_microsecond()).map_err(|_| Error)?;
        if micros <= MICROS_MAX { Ok(Self(micros)) } else { Err(Error) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_prints_as_rfc_3339_to_the_microsecond_and_reads_back() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_767_225_600_000_001, "2026-01-01T00:00:00.000001Z"),
            (MICROS_MAX, "9999-12-30T21:59:59.999999Z"),
        ] {
            let time = Timestamp::from_micros(micros);
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
            assert_eq!(serde_json::from_str::<Timestamp>(&serde_json::to_string(&time).unwrap()).unwrap(), time);
        }
    }

    #[test]
    fn a_time_past_the_end_is_the_last_one() {
        assert_eq!(Timestamp::from_micros(u64::MAX).to_string(), Timestamp::from_micros(MICROS_MAX).to_string());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "now", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "2026-01-01"] {
            assert_eq!(text.parse::<Timestamp>(), Err(Error), "{text:?}");
        }
    }
}
