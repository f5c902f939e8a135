//! What a fuzzer tries on snapshots that come from other nodes; see `loadtests/fuzz`. It panics where something that must
//! hold does not.

use bytes::Bytes;

use berth_shared::ids::ShardId;

use super::chunk::Received;

const HEADER_BYTES: usize = 18;

/// The chunks of a snapshot, each after two bytes with its length: as they are, and with right headers and checksums.
pub fn chunks(data: &[u8]) {
    let mut plain = Received::new(ShardId(3), 2);
    let mut sealed = plain.clone();
    let mut rest = data;
    let mut number = 0_u32;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (chunk, after) = after.split_at(length);
        rest = after;
        if let Ok(taken) = plain.take(&Bytes::copy_from_slice(chunk)) {
            plain = taken.received;
        }
        let is_last = u8::from(rest.is_empty());
        let mut bytes = [&[1, 0, 0, 0, 0][..], &[9; 8], &number.to_le_bytes(), &[is_last], chunk].concat();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), &bytes[5..]);
        bytes[1..5].copy_from_slice(&sum.to_le_bytes());
        assert!(bytes.len() >= HEADER_BYTES);
        let Ok(taken) = sealed.take(&Bytes::from(bytes)) else { continue };
        assert!(taken.rows.iter().all(|row| row.key.len() + row.row.len() <= chunk.len() + 32));
        sealed = taken.received;
        assert!(!sealed.is_whole() || sealed.head().is_some(), "a whole snapshot has a head");
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("snapshot_chunk", super::chunks);
    }
}
