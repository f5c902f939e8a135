//! Reads an enum whose variant name and content arrive apart: a command from URL and body, an event from type and data.
//! The content is parsed straight from its text, without a value in between.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

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
    T::deserialize(Variant { name, content, unit })
}

#[derive(Clone, Copy)]
struct Variant<'a> {
    name: &'a str,
    content: &'a str,
    unit: UnitContent,
}

/// Parses all of `content`: what follows the value is an error.
fn parse<'de, T>(
    content: &'de str,
    value: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'de>>) -> serde_json::Result<T>,
) -> Result<T, Error> {
    let mut deserializer = serde_json::Deserializer::from_str(content);
    let value = value(&mut deserializer).map_err(Error::Content)?;
    deserializer.end().map_err(Error::Content)?;
    Ok(value)
}

impl<'de> Deserializer<'de> for Variant<'de> {
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

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.unit {
            UnitContent::Empty => parse(self.content, |json| Nothing::deserialize(json)).map(|Nothing {}| ()),
            UnitContent::Any => parse(self.content, |json| IgnoredAny::deserialize(json)).map(|_| ()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        parse(self.content, |json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        parse(self.content, |json| json.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        // As a map, because serde_json would also read a struct from an array.
        parse(self.content, |json| json.deserialize_map(visitor))
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
