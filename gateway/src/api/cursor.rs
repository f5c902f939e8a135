//! The cursor of a listing: where the next page begins, in a form that a client carries in a URL. Pure.
//!
//! To clients a cursor is opaque. It is base64url without padding (RFC 4648) of these bytes; numbers are little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 1 | layout version, 1 |
//! | 4 | CRC32C of the kind, a zero byte, the prefix, a zero byte, and the id |
//! | 1 to 512 | the id that the next page comes after |
//!
//! It stands after an id and not at a place, so it stays good whatever is written, and whoever owns the shards. The checksum
//! finds mistakes, such as a cursor of another listing, and not forgeries: whoever makes one up could as well have asked for
//! another prefix.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_shared::key;

const LAYOUT_VERSION: u8 = 1;
const PREFIX_BYTES: usize = 5;
/// Longest text of a cursor; longer ones are not even decoded.
const TEXT_BYTES_MAX: usize = (PREFIX_BYTES + key::ID_BYTES_MAX).div_ceil(3) * 4;

/// Why text is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("a cursor is what an earlier page gave as its next, unchanged")]
    Text,
    #[error("the cursor is of a version that this gateway does not know")]
    LayoutVersion,
    #[error("the cursor belongs to a listing of another kind or prefix, or was changed")]
    Checksum,
}

/// The cursor behind `after`, which is not empty, of a listing of `kind` and `prefix`.
pub(super) fn encode(kind: &str, prefix: &str, after: &str) -> String {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + after.len());
    bytes.push(LAYOUT_VERSION);
    bytes.extend_from_slice(&checksum(kind, prefix, after.as_bytes()).to_le_bytes());
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The id that [`encode`] was given.
pub(super) fn decode(kind: &str, prefix: &str, text: &str) -> Result<String, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::Text);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::Text)?;
    let Some(([version, sum @ ..], after)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Err(Error::Text) };
    if *version != LAYOUT_VERSION {
        return Err(Error::LayoutVersion);
    }
    if checksum(kind, prefix, after).to_le_bytes() != *sum {
        return Err(Error::Checksum);
    }
    let after = std::str::from_utf8(after).map_err(|_| Error::Text)?;
    key::check_prefix(after).map_err(|_| Error::Text)?;
    if after.is_empty() { Err(Error::Text) } else { Ok(after.to_owned()) }
}

fn checksum(kind: &str, prefix: &str, after: &[u8]) -> u32 {
    let parts: [&[u8]; 5] = [kind.as_bytes(), &[0], prefix.as_bytes(), &[0], after];
    parts.into_iter().fold(0, crc32c::crc32c_append)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_that_was_given_out_is_read_for_ever() {
        let text = encode("cart", "a/", "a/ü 7");
        assert_eq!(text, "AbCI2mNhL8O8IDc");
        assert_eq!(decode("cart", "a/", &text).as_deref(), Ok("a/ü 7"));
    }

    #[test]
    fn a_cursor_belongs_to_its_kind_and_prefix() {
        let text = encode("cart", "a", "ab");
        assert_eq!(decode("cart", "a", &text).as_deref(), Ok("ab"));
        for (kind, prefix) in [("card", "a"), ("cart", ""), ("cart", "ab"), ("carta", "")] {
            assert_eq!(decode(kind, prefix, &text), Err(Error::Checksum), "{kind} {prefix}");
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let longest = encode("cart", "", &"x".repeat(512));
        assert_eq!(longest.len(), 690);
        assert!(decode("cart", "", &longest).is_ok());
        for text in ["", "a", "AQ", "AQAAAAA", "!!!!", "AbCI2mNhL8O8IDc=", "AbCI2mNhL8O8ID+", &"A".repeat(2000)] {
            assert!(decode("cart", "a/", text).is_err(), "{text}");
        }
        for after in ["", "a\n", &"x".repeat(513)] {
            assert_eq!(decode("cart", "", &encode("cart", "", after)), Err(Error::Text), "{after:?}");
        }
    }

    proptest! {
        #[test]
        fn every_id_comes_back_and_every_changed_byte_is_noticed(
            kind in "[a-z][a-z0-9-]{0,10}",
            prefix in "\\PC{0,4}",
            rest in "\\PC{1,20}",
            place: prop::sample::Index,
            change in 1_u8..,
        ) {
            let after = format!("{prefix}{rest}");
            let text = encode(&kind, &prefix, &after);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            prop_assert_eq!(decode(&kind, &prefix, &text), Ok(after));
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            prop_assert!(decode(&kind, &prefix, &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn hostile_text_never_panics(text in "[A-Za-z0-9_=+/-]{0,60}") {
            let _ = decode("cart", "", &text);
        }
    }
}
