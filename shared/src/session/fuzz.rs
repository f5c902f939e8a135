//! What a fuzzer tries on session tokens; see `loadtests/fuzz`.

use base64::Engine;

use super::{ENTRIES_MAX, LAYOUT_VERSION, Requirement, Seen, ShardId, Token, URL_SAFE_NO_PAD, rank};

/// Text of a token, as it is and as a body with a right checksum. Panics where something that must hold does not.
pub fn token(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    let mut bytes = vec![LAYOUT_VERSION];
    bytes.extend(crc32c::crc32c(data).to_le_bytes());
    bytes.extend(data);
    check(&URL_SAFE_NO_PAD.encode(bytes));
}

fn check(text: &str) {
    let Ok(token) = Token::decode(text) else { return };
    assert_eq!(token.encode(), text, "a token has one spelling");
    let mut merged = token.clone();
    merged.merge(&token);
    assert_eq!(merged, token, "nothing is new in what is known");
    // What another shard has seen leaves every requirement as it is, or makes it stricter.
    merged.merge(&Token::single(token.cluster(), ShardId(7), Seen { incarnation: 1, index: 9 }));
    assert!(merged.entries.len() <= ENTRIES_MAX && merged.entries.is_sorted_by(|a, b| a.0 < b.0));
    for (shard, seen) in &token.entries {
        match merged.requirement(*shard) {
            Requirement::AtLeast(kept) => assert!(rank(kept) >= rank(*seen)),
            Requirement::Owner => assert!(merged.overflowed),
            Requirement::Nothing => panic!("{shard:?} is forgotten"),
        }
    }
    assert_eq!(Token::decode(&merged.encode()), Ok(merged));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("session_token", super::token);
    }
}
