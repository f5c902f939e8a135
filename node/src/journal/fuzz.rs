//! What a fuzzer tries on the bytes of the journal; see `loadtests/fuzz`. It panics where something that must hold does not.

use bytes::Bytes;

use berth_shared::ids::ShardId;

use super::Payload;
use super::layout;
use crate::record::Batch;

const SEQUENCE: u64 = 7;

/// A row of a log, of metadata, or a batch of records: as it is, and with right checksums.
pub fn record(data: &[u8]) {
    batch(data);
    row(data);
    let Some((layout_version, rest)) = data.split_first() else { return };
    let sealed = [&[*layout_version][..], &crc32c::crc32c(rest).to_le_bytes(), rest].concat();
    batch(&sealed);
    // As the payload of a row: its header has the version, the checksum, shard, term, index and kind.
    let mut whole = [&[1, 0, 0, 0, 0][..], &[3, 0], &[5; 16], &[1], &sealed[..]].concat();
    layout::move_row(&mut whole, SEQUENCE);
    row(&whole);
    let mut whole = [&[*layout_version, 0, 0, 0, 0][..], rest].concat();
    layout::move_row(&mut whole, SEQUENCE);
    row(&whole);
    let mut whole = [&[*layout_version, 0, 0, 0, 0][..], rest].concat();
    layout::seal(&mut whole, &3_u16.to_le_bytes());
    if let Ok(metadata) = layout::read_metadata(ShardId(3), &whole) {
        let again = layout::write_metadata(ShardId(3), &metadata);
        let read = layout::read_metadata(ShardId(3), &again);
        // What its flags say is not there is not written; a vote that is not there is not committed.
        assert_eq!(read.ok(), Some(metadata));
        assert!(layout::read_metadata(ShardId(4), &again).is_err(), "it belongs to one shard");
    }
}

fn row(data: &[u8]) {
    let header = layout::read_header(SEQUENCE, data);
    let Ok((shard, entry)) = layout::read_row(SEQUENCE, data) else { return };
    let header = header.expect("a row that can be read has a header");
    assert_eq!((header.shard, header.log_id), (shard, entry.log_id));
    if let Payload::Batch(batch) = &entry.payload {
        assert_eq!(&batch.bytes()[..], &data[data.len() - batch.bytes().len()..]);
    }
    let mut again = vec![0; layout::row_len(&entry)];
    layout::write_row(&mut again, SEQUENCE, shard, &entry);
    assert_eq!(again, data, "a row has one spelling");
    assert!(layout::read_row(SEQUENCE + 1, data).is_err(), "it belongs under one key");
}

fn batch(data: &[u8]) {
    let Ok(batch) = Batch::decode(Bytes::copy_from_slice(data)) else { return };
    let again = match (batch.incarnation(), batch.records()) {
        (None, records) => Batch::new(batch.decision_term(), records.to_vec()),
        (Some(incarnation), []) => Batch::of_incarnation(batch.decision_term(), incarnation),
        (Some(_), _) => return,
    };
    let read = Batch::decode(again.bytes().clone()).expect("what was written can be read");
    assert_eq!((read.decision_term(), read.records()), (batch.decision_term(), batch.records()));
    for record in batch.records() {
        let _ = (record.version(), record.deletes());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("journal_record", super::record);
    }
}
