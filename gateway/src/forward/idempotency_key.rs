//! Idempotency keys that a gateway makes for commands without one (rule G1): `gw-<created>-<random>`, in hexadecimal.
//! They carry when they were made, so that every node can tell a forgotten one from a new one. Pure.

use berth_shared::message::KeyOrigin;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

const PREFIX: &str = "gw-";
const CREATED_DIGITS: usize = 16;
const RANDOM_DIGITS: usize = 32;
const KEY_BYTES: usize = PREFIX.len() + CREATED_DIGITS + 1 + RANDOM_DIGITS;

/// A key made at `created_micros` (since 1970) out of 128 random bits.
pub(crate) fn make(created_micros: u64, random: u128) -> HeaderValue {
    let mut key = BytesMut::with_capacity(KEY_BYTES);
    key.put_slice(PREFIX.as_bytes());
    put_hex(&mut key, u128::from(created_micros), CREATED_DIGITS);
    key.put_u8(b'-');
    put_hex(&mut key, random, RANDOM_DIGITS);
    visible(key.freeze())
}

/// Whose key this is: a client may send back one that a gateway made.
pub(crate) fn origin(key: &str) -> KeyOrigin {
    match created_micros(key) {
        Some(created_micros) => KeyOrigin::Gateway { created_micros },
        None => KeyOrigin::Client,
    }
}

fn created_micros(key: &str) -> Option<u64> {
    let (created, random) = key.strip_prefix(PREFIX)?.split_once('-')?;
    let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed =
        created.len() == CREATED_DIGITS && random.len() == RANDOM_DIGITS && hexadecimal(created) && hexadecimal(random);
    if well_formed { u64::from_str_radix(created, 16).ok() } else { None }
}

fn put_hex(out: &mut BytesMut, value: u128, digits: usize) {
    for position in (0..digits).rev() {
        let digit = (value >> (position * 4)) as usize & 0xf;
        out.put_u8(b"0123456789abcdef"[digit]);
    }
}

fn visible(key: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(key).unwrap_or_else(|_| unreachable!("hexadecimal digits and hyphens are visible"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_made_key_says_when_it_was_made(created_micros: u64, random: u128) {
            let key = make(created_micros, random);
            prop_assert_eq!(origin(key.to_str().unwrap()), KeyOrigin::Gateway { created_micros });
        }

        #[test]
        fn any_other_key_is_the_clients(key in "[!-~]{1,60}") {
            prop_assert_eq!(origin(&key), KeyOrigin::Client);
        }
    }

    #[test]
    fn only_the_exact_shape_is_a_gateways() {
        let key = make(1_767_225_600_000_000, 7);
        assert_eq!(key, "gw-0006474846204000-00000000000000000000000000000007");
        for other in [
            "gw-",
            "gw-0006474846204000-7",
            "GW-0006474846204000-00000000000000000000000000000007",
            "gw-000647484620400A-00000000000000000000000000000007",
        ] {
            assert_eq!(origin(other), KeyOrigin::Client, "{other}");
        }
    }
}
