//! Durations and byte sizes as people write them: `250ms`, `64MiB`. Configuration never has a bare number for either,
//! because nobody can see whether it meant seconds or milliseconds. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration written as a whole number and a unit: `us`, `ms`, `s`, `min`, `h` or `d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// A number of bytes written as a whole number and a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`,
/// `GB`, `TB` (powers of 1000).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is no duration or byte size; says what would be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a duration is a whole number and a unit: us, ms, s, min, h or d, such as \"250ms\"")]
    Duration,
    #[error("a byte size is a whole number and a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as \"64MiB\"")]
    ByteSize,
}

/// Units from large to small, in microseconds.
const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Units in bytes; a size is written in the first that divides it, which is why powers of 1024 come first.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl HumanDuration {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl ByteSize {
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Clamped where this machine cannot address as much.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// `number` and `unit` of `text`, multiplied; `None` when it has another form or is too large.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*scale)
}

fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let smallest = units[units.len() - 1];
    let whole = units.iter().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale));
    let (name, scale) = whole.copied().unwrap_or(smallest);
    write!(f, "{}{name}", value / scale)
}

impl FromStr for HumanDuration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text, &DURATION_UNITS).map(|micros| Self(Duration::from_micros(micros))).ok_or(Error::Duration)
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text, &SIZE_UNITS).map(Self).ok_or(Error::ByteSize)
    }
}

impl fmt::Display for HumanDuration {
    /// Parts below a microsecond are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX), &DURATION_UNITS)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZE_UNITS)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("a duration such as \"250ms\", \"5s\" or \"2min\"", str::parse))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("a byte size such as \"512KiB\", \"64MiB\" or \"1GB\"", str::parse))
    }
}

/// Reads a text, and says what is expected where it finds something else.
struct Text<T>(&'static str, fn(&str) -> Result<T, Error>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("2min", 120_000), ("24h", 86_400_000), (" 7 s ", 7_000)]
        {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration, HumanDuration::from_millis(millis), "{text}");
        }
        assert_eq!(HumanDuration::from_millis(250).to_string(), "250ms");
        assert_eq!(HumanDuration::from_millis(120_000).to_string(), "2min");
        assert_eq!(HumanDuration::from_millis(0).to_string(), "0us");
    }

    #[test]
    fn byte_sizes_know_both_families_of_units() {
        for (text, bytes) in [("64MiB", 64 << 20), ("50MB", 50_000_000), ("1 KiB", 1024), ("0B", 0), ("3kB", 3_000)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert_eq!(ByteSize(50_000_000).to_string(), "50MB");
        assert_eq!(ByteSize(1_234_567).to_string(), "1234567B");
    }

    #[test]
    fn a_number_without_a_unit_or_out_of_range_is_refused() {
        for text in ["", "5", "-5s", "1.5s", "5 sec", "s", "s5", "99999999999999999999s", "18446744073709551615d", "5S"]
        {
            assert_eq!(text.parse::<HumanDuration>(), Err(Error::Duration), "{text}");
        }
        for text in ["", "5", "5mb", "MiB", "18446744073709551615TiB", "½MiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(Error::ByteSize), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in any::<u64>(), bytes in any::<u64>()) {
            let duration = HumanDuration(Duration::from_micros(micros));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
