//! How a node's facts are written in gossip: short texts by name, because that is what the library carries and sends again
//! only where they change. Pure. Texts of other nodes are not trusted: what is not understood makes a node no member.
//!
//! | name | text |
//! | --- | --- |
//! | `address` | `host:port` |
//! | `zone` | the zone, or nothing |
//! | `state` | `joining`, `recovering`, `ready` or `leaving` |
//! | `plan` | epoch of the newest plan that the node knows; 0 for none |
//! | `unsettled` | how many of the shards that it owns are not where the plan wants them |
//! | `weight` | how much of the replicas it should hold, relative to other nodes; not 0 |
//! | `version` | name and version of the program |
//! | `load` | hundredths of a processor, bytes in memory and requests per second, with a blank between them |
//! | `system` | the term in which the node leads the system shard, or nothing |
//! | `led.N` | the shards from 1024 × N on, below the next N, that the node owns, with their terms: base64 of a postcard list of pairs, how far the shard is from the one after the last (variable length) and how far the term is from the last (zigzag) |
//!
//! A shard takes two or three bytes that way. A part holds at most 1,024 of them, 16 KiB at the very worst, so that it fits
//! into one message of the library (64 KiB), whatever the number of shards; only parts that change travel.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use berth_shared::ids::{ShardId, Term};
use berth_shared::report::{Load, NodeState};

use super::Facts;

/// Longest texts that are taken from others, in bytes.
const ADDRESS_BYTES_MAX: usize = 300;
const WORD_BYTES_MAX: usize = 100;
const PART_BYTES_MAX: usize = 20 << 10;
/// Shards of one part.
const PART_SHARDS: u16 = 1024;
/// Parts there are, for 16,384 shards.
const PARTS: u16 = 16;

/// The texts of `facts`, by name; always the same names.
pub(super) fn write(facts: &Facts) -> Vec<(String, String)> {
    let Load { cpu_percent, resident_bytes, requests_per_second } = facts.load;
    let mut texts = vec![
        ("address".to_owned(), facts.address.clone()),
        ("zone".to_owned(), facts.zone.clone().unwrap_or_default()),
        ("state".to_owned(), state_name(facts.state).to_owned()),
        ("plan".to_owned(), facts.plan.to_string()),
        ("unsettled".to_owned(), facts.unsettled.to_string()),
        ("weight".to_owned(), facts.weight.to_string()),
        ("version".to_owned(), facts.version.clone()),
        ("load".to_owned(), format!("{cpu_percent} {resident_bytes} {requests_per_second}")),
        ("system".to_owned(), facts.system.map(|term| term.to_string()).unwrap_or_default()),
    ];
    let mut parts: BTreeMap<u16, Vec<(ShardId, Term)>> = (0..PARTS).map(|part| (part, Vec::new())).collect();
    for (shard, term) in &facts.led {
        if let Some(part) = parts.get_mut(&(shard.0 / PART_SHARDS)) {
            part.push((*shard, *term));
        }
    }
    texts.extend(parts.into_iter().map(|(part, led)| (format!("led.{part}"), write_part(part, &led))));
    texts
}

/// The facts that these texts are, if they are all there and make sense.
pub(super) fn read<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Facts> {
    let texts: BTreeMap<&str, &str> = texts.collect();
    let word = |name: &str| texts.get(name).copied().filter(|text| is_plain(text, WORD_BYTES_MAX));
    let mut led = Vec::new();
    for part in 0..PARTS {
        if let Some(text) = texts.get(format!("led.{part}").as_str()) {
            led.extend(read_part(part, text)?);
        }
    }
    Some(Facts {
        address: texts.get("address").filter(|text| is_address(text))?.to_string(),
        zone: Some(word("zone")?).filter(|zone| !zone.is_empty()).map(str::to_owned),
        state: state_named(word("state")?)?,
        plan: word("plan")?.parse().ok()?,
        unsettled: word("unsettled")?.parse().ok()?,
        weight: word("weight")?.parse().ok()?,
        version: word("version")?.to_owned(),
        load: read_load(word("load")?)?,
        led,
        system: Some(word("system")?).filter(|term| !term.is_empty()).map(str::parse).transpose().ok()?,
    })
}

/// Whether `text` may be the address of a node.
pub(super) fn is_address(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    is_plain(text, ADDRESS_BYTES_MAX)
        && text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && is_port(port))
}

/// It may stand in a log line.
fn is_plain(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

fn read_load(text: &str) -> Option<Load> {
    let mut numbers = text.split(' ');
    let mut number = || numbers.next()?.parse::<u64>().ok();
    let (cpu_percent, resident_bytes, requests_per_second) = (u32::try_from(number()?).ok()?, number()?, number()?);
    numbers.next().is_none().then_some(Load { cpu_percent, resident_bytes, requests_per_second })
}

fn write_part(part: u16, led: &[(ShardId, Term)]) -> String {
    let (mut shard, mut term): (u16, Term) = (part * PART_SHARDS, 0);
    let mut distances: Vec<(u16, i64)> = Vec::with_capacity(led.len());
    for (next_shard, next_term) in led {
        distances.push((next_shard.0.wrapping_sub(shard), next_term.wrapping_sub(term).cast_signed()));
        (shard, term) = (next_shard.0.wrapping_add(1), *next_term);
    }
    if distances.is_empty() {
        return String::new();
    }
    // Numbers always encode.
    STANDARD_NO_PAD.encode(postcard::to_stdvec(&distances).unwrap_or_default())
}

fn read_part(part: u16, text: &str) -> Option<Vec<(ShardId, Term)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    if text.len() > PART_BYTES_MAX {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(text).ok()?;
    let (distances, rest): (Vec<(u16, i64)>, _) = postcard::take_from_bytes(&bytes).ok()?;
    let (mut shard, mut term): (u16, Term) = (part * PART_SHARDS, 0);
    let end = shard + PART_SHARDS;
    let mut led = Vec::with_capacity(distances.len().min(usize::from(PART_SHARDS)));
    for (shards, terms) in distances {
        let next = shard.checked_add(shards).filter(|next| *next < end)?;
        term = term.wrapping_add_signed(terms);
        led.push((ShardId(next), term));
        shard = next + 1;
    }
    rest.is_empty().then_some(led)
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Recovering => "recovering",
        NodeState::Ready => "ready",
        NodeState::Leaving => "leaving",
    }
}

fn state_named(name: &str) -> Option<NodeState> {
    let all = [NodeState::Joining, NodeState::Recovering, NodeState::Ready, NodeState::Leaving];
    all.into_iter().find(|state| state_name(*state) == name)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn facts(led: Vec<(ShardId, Term)>) -> Facts {
        Facts {
            address: "node-1:7400".to_owned(),
            zone: Some("a".to_owned()),
            state: NodeState::Ready,
            plan: 12,
            unsettled: 3,
            weight: NonZeroU32::new(2).unwrap(),
            version: "berth-node/0.1.0".to_owned(),
            load: Load { cpu_percent: 130, resident_bytes: 1 << 40, requests_per_second: 25_000 },
            led,
            system: None,
        }
    }

    fn read_back(texts: &[(String, String)]) -> Option<Facts> {
        read(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// What other versions write must stay readable.
    #[test]
    fn facts_have_these_texts() {
        let texts = write(&facts(vec![(ShardId(0), 3), (ShardId(1), 3), (ShardId(9), 2), (ShardId(1025), 1)]));
        let written: Vec<_> = texts.iter().filter(|(_, text)| !text.is_empty()).collect();
        let expected = [
            ("address", "node-1:7400"),
            ("zone", "a"),
            ("state", "ready"),
            ("plan", "12"),
            ("unsettled", "3"),
            ("weight", "2"),
            ("version", "berth-node/0.1.0"),
            ("load", "130 1099511627776 25000"),
            ("led.0", "AwAGAAAHAQ"),
            ("led.1", "AQEC"),
        ];
        assert_eq!(written.len(), expected.len());
        for ((name, text), expected) in written.into_iter().zip(expected) {
            assert_eq!((name.as_str(), text.as_str()), expected);
        }
    }

    #[test]
    fn all_shards_of_the_largest_cluster_fit_whatever_their_terms_are() {
        let even = facts((0..16_384).map(|shard| (ShardId(shard), 7)).collect());
        let texts = write(&even);
        assert!(texts.iter().map(|(_, text)| text.len()).sum::<usize>() < 50_000);
        assert_eq!(read_back(&texts), Some(even));
        let wild = facts((0..16_384).map(|shard| (ShardId(shard), if shard % 2 == 0 { 0 } else { 1 << 63 })).collect());
        let texts = write(&wild);
        assert!(texts.iter().all(|(_, text)| text.len() <= PART_BYTES_MAX));
        assert_eq!(read_back(&texts), Some(wild));
    }

    #[test]
    fn what_makes_no_sense_is_no_member() {
        let good = write(&facts(vec![(ShardId(5), 1)]));
        assert!(read_back(&good).is_some());
        for (name, text) in [
            ("address", "node-1"),
            ("address", "node-1:0"),
            ("address", "a\nb:1"),
            ("zone", &"z".repeat(101)),
            ("state", "asleep"),
            ("plan", "-1"),
            ("plan", "18446744073709551616"),
            ("unsettled", "4294967296"),
            ("weight", "0"),
            ("weight", "heavy"),
            ("version", "a\u{1b}[0m"),
            ("load", "1 2"),
            ("load", "1 2 3 4"),
            ("load", "1 -2 3"),
            ("led.0", "!"),
            ("led.0", "AwAG"),
            ("led.0", "AQEC00"),
            ("led.1", &write_part(0, &[(ShardId(1024), 1)])),
            ("led.3", &"A".repeat(PART_BYTES_MAX + 1)),
        ] {
            let replaced = |(known, before): &(String, String)| {
                (known.clone(), if known == name { text.to_owned() } else { before.clone() })
            };
            let texts: Vec<_> = good.iter().map(replaced).collect();
            assert_eq!(read_back(&texts), None, "{name} {text}");
        }
        for name in ["address", "zone", "state", "plan", "unsettled", "weight", "version", "load"] {
            let without: Vec<_> = good.iter().filter(|(known, _)| known != name).cloned().collect();
            assert_eq!(read_back(&without), None, "without {name}");
        }
    }

    proptest! {
        #[test]
        fn facts_read_back(shards in prop::collection::btree_map(0_u16..16_384, any::<u64>(), 0..300)) {
            let facts = facts(shards.into_iter().map(|(shard, term)| (ShardId(shard), term)).collect());
            prop_assert_eq!(read_back(&write(&facts)), Some(facts));
        }

        #[test]
        fn hostile_texts_never_panic_and_never_name_shards_that_there_are_not(
            texts in prop::collection::vec((0_u16..20, prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            address in any::<String>(), load in any::<String>(),
        ) {
            let mut all = write(&facts(vec![]));
            all.extend(texts.iter().map(|(part, bytes)| (format!("led.{part}"), STANDARD_NO_PAD.encode(bytes))));
            let _ = is_address(&address);
            if let Some(read) = read_back(&all) {
                prop_assert!(read.led.iter().all(|(shard, _)| shard.0 < 16_384));
                prop_assert!(read.led.is_sorted_by(|a, b| a.0 < b.0));
            }
            all.push(("address".to_owned(), address));
            all.push(("load".to_owned(), load));
            let _ = read_back(&all);
        }
    }
}
