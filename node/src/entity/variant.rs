//! Reads an enum whose variant name and content arrive apart: a command from URL and body, an event from type and data.
//! The content is parsed straight from its text, without a value in between.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_path_to_error::Segment;

use super::json;

/// Why name and content are no value of the enum.
#[derive(Debug)]
pub(super) enum Error {
    /// The enum has no such variant.
    UnknownVariant,
    /// The type is not an enum, or not in serde's external form.
    NotAnEnum,
    Content(serde_json::Error),
    Message(String),
}

/// What the content of a variant without fields may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitContent {
    /// `{}` and nothing else, for commands: a caller should hear of arguments that do nothing.
    Empty,
    /// Any JSON, for events: an event type may have lost its fields since it was written.
    Any,
}

pub(super) fn read<T: DeserializeOwned>(name: &str, content: &str, unit: UnitContent) -> Result<T, Error> {
    T::deserialize(Variant::<'_, false> { name, content, unit, stopped_at: &Cell::new(None) })
}

/// Where in `content` reading stops, as a JSON Pointer (RFC 6901), and why; `None` if it does not. Slower than [`read`].
pub(super) fn stop<T: DeserializeOwned>(name: &str, content: &str, unit: UnitContent) -> Option<(String, Error)> {
    let stopped_at = Cell::new(None);
    let error = T::deserialize(Variant::<'_, true> { name, content, unit, stopped_at: &stopped_at }).err()?;
    Some((stopped_at.take().unwrap_or_default(), error))
}

/// `TRACKED`: whether the way to what cannot be read is followed.
#[derive(Clone, Copy)]
struct Variant<'a, const TRACKED: bool> {
    name: &'a str,
    content: &'a str,
    unit: UnitContent,
    stopped_at: &'a Cell<Option<String>>,
}

/// What is read from a content, whichever deserializer it comes from.
trait Reader<'de> {
    type Value;

    fn read<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error>;
}

impl<'de, const TRACKED: bool> Variant<'de, TRACKED> {
    /// Parses all of the content: what follows the value is an error.
    fn parse<R: Reader<'de>>(self, reader: R) -> Result<R::Value, Error> {
        let mut json = serde_json::Deserializer::from_str(self.content);
        let value = if TRACKED {
            let mut track = serde_path_to_error::Track::new();
            let value = reader.read(serde_path_to_error::Deserializer::new(&mut json, &mut track));
            value.inspect_err(|_| self.stopped_at.set(Some(pointer(&track.path()))))
        } else {
            reader.read(&mut json)
        };
        let value = value.map_err(Error::Content)?;
        json.end().map_err(Error::Content)?;
        Ok(value)
    }
}

/// Names of variants are left out where they are no member of the JSON; what cannot be named ends the pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => json::push_segment(&mut pointer, &index.to_string()),
            Segment::Map { key } => json::push_segment(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    pointer
}

impl<'de, const TRACKED: bool> Deserializer<'de> for Variant<'de, TRACKED> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::NotAnEnum)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, const TRACKED: bool> EnumAccess<'de> for Variant<'de, TRACKED> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'de, const TRACKED: bool> VariantAccess<'de> for Variant<'de, TRACKED> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.unit {
            UnitContent::Empty => self.parse(Of::<Nothing>(PhantomData)).map(|Nothing {}| ()),
            UnitContent::Any => self.parse(Of::<IgnoredAny>(PhantomData)).map(|_| ()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.parse(Seeded(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.parse(Tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.parse(Fields(visitor))
    }
}

struct Of<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Reader<'de> for Of<T> {
    type Value = T;

    fn read<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        T::deserialize(json)
    }
}

struct Seeded<S>(S);

impl<'de, S: DeserializeSeed<'de>> Reader<'de> for Seeded<S> {
    type Value = S::Value;

    fn read<D: Deserializer<'de>>(self, json: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(json)
    }
}

struct Tuple<V>(usize, V);

impl<'de, V: Visitor<'de>> Reader<'de> for Tuple<V> {
    type Value = V::Value;

    fn read<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        json.deserialize_tuple(self.0, self.1)
    }
}

struct Fields<V>(V);

impl<'de, V: Visitor<'de>> Reader<'de> for Fields<V> {
    type Value = V::Value;

    fn read<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        // As a map, because serde_json would also read a struct from an array.
        json.deserialize_map(self.0)
    }
}

/// `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }

    fn unknown_variant(_variant: &str, _expected: &'static [&'static str]) -> Self {
        Self::UnknownVariant
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVariant => f.write_str("there is no variant of this name"),
            Self::NotAnEnum => f.write_str("the type is not an externally tagged enum"),
            Self::Content(error) => error.fmt(f),
            Self::Message(message) => f.write_str(message),
        }
    }
}
