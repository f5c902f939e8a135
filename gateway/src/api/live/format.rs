//! A live history as bytes: an event stream (HTML standard, "Server-sent events") whose messages are CloudEvents 1.0 in the JSON
//! format, one for each event, with the version as its id. Pure.

use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::Event;
use bytes::{BufMut, Bytes, BytesMut};

use super::polls::following;
use crate::api::answer::{put_json, put_number, put_text, put_time};

/// Says that somebody is still there. Readers ignore it.
pub(super) const PING: &[u8] = b": ping\n\n";
/// What a message has besides its names and data.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The messages of one entity.
#[derive(Debug)]
pub(super) struct Format {
    /// From `{"specversion"` to before the id of an event.
    head: Bytes,
}

impl Format {
    pub(super) fn new(key: &EntityKey) -> Self {
        let mut head = BytesMut::with_capacity(128 + 4 * key.as_str().len());
        head.put_slice(b"{\"specversion\":\"1.0\",\"source\":\"/v1/entities/");
        head.put_slice(key.kind().as_bytes());
        head.put_u8(b'/');
        put_path_segment(&mut head, key.id());
        head.put_slice(b"\",\"subject\":\"");
        put_text(&mut head, key.id());
        head.put_slice(b"\",\"datacontenttype\":\"application/json\",\"id\":\"");
        Self { head: head.freeze() }
    }

    /// As many of `events` as follow `after` without a gap, and the version of the last of them. What was sent before is left
    /// out. `None` where there is none.
    pub(super) fn messages(&self, after: Version, events: &[Event<'_>]) -> Option<(Version, Bytes)> {
        let bytes = events.iter().map(|e| self.head.len() + e.event_type.len() + e.data.len() + MESSAGE_OVERHEAD_BYTES);
        let mut out = BytesMut::with_capacity(bytes.sum());
        let mut last = after;
        for event in following(after, events) {
            self.put_message(&mut out, event);
            last = event.version;
        }
        (last > after).then(|| (last, out.freeze()))
    }

    fn put_message(&self, out: &mut BytesMut, event: &Event<'_>) {
        put_number(out, "id: ", event.version);
        out.put_slice(b"\ndata: ");
        out.put_slice(&self.head);
        put_number(out, "", event.version);
        out.put_slice(b"\",\"type\":\"");
        put_text(out, event.event_type);
        out.put_slice(b"\",\"time\":\"");
        put_time(out, event.time_micros);
        out.put_slice(b"\",\"data\":");
        let data = out.len();
        put_json(out, event.data);
        // Between the tokens of JSON a line may end; a message's line must not. Inside of texts no line ends in JSON.
        out[data..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        out.put_slice(b"}\n\n");
    }
}

/// After what time a reader whose stream has ended asks again.
pub(super) fn retry(time: Duration) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    put_number(&mut out, "retry: ", time.as_millis() as u64);
    out.put_slice(b"\n\n");
    out.freeze()
}

/// Percent-encodes whatever is not unreserved (RFC 3986, 2.3).
fn put_path_segment(out: &mut BytesMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.put_u8(byte);
        } else {
            out.put_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(version: Version) -> Event<'static> {
        Event { version, event_type: "added", time_micros: 1_767_225_600_000_001, data: b"{\"by\":1}" }
    }

    fn format(id: &str) -> Format {
        Format::new(&EntityKey::new("counter", id).unwrap())
    }

    fn text(id: &str, after: Version, events: &[Event<'_>]) -> String {
        let (_, bytes) = format(id).messages(after, events).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_one_cloud_event_with_the_version_as_its_id() {
        let text = text("alice", 6, &[event(7)]);
        let data = text.strip_prefix("id: 7\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let expected = json!({
            "specversion": "1.0", "id": "7", "source": "/v1/entities/counter/alice", "type": "added", "subject": "alice",
            "time": "2026-01-01T00:00:00.000001Z", "datacontenttype": "application/json", "data": {"by": 1},
        });
        assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected);
    }

    #[test]
    fn nothing_in_an_id_or_in_data_breaks_a_line_or_the_json() {
        let put = Event { data: b"{\n \"a\":\r\n[1,\"b\\n\"]}", ..event(1) };
        let text = text("a/b\"c\\ü", 0, &[put]);
        assert_eq!(text.matches('\n').count(), 3, "{text}");
        assert!(!text.contains('\r'));
        let value: Value = serde_json::from_str(text.lines().nth(1).unwrap().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(value["source"], "/v1/entities/counter/a%2Fb%22c%5C%C3%BC");
        assert_eq!((&value["subject"], &value["data"]), (&json!("a/b\"c\\ü"), &json!({"a": [1, "b\n"]})));
    }

    #[test]
    fn what_was_sent_is_not_sent_again_and_nothing_is_skipped() {
        let last = |after, versions: &[Version]| {
            let events: Vec<Event<'_>> = versions.iter().copied().map(event).collect();
            format("a").messages(after, &events).map(|(last, bytes)| {
                let ids = String::from_utf8(bytes.to_vec()).unwrap();
                (last, ids.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<Version>().ok()).collect())
            })
        };
        assert_eq!(last(0, &[1, 2, 3]), Some((3, vec![1, 2, 3])));
        assert_eq!(last(2, &[1, 2, 3]), Some((3, vec![3])));
        assert_eq!(last(0, &[1, 3, 4]), Some((1, vec![1])));
        assert_eq!(last(0, &[2, 3]), None);
        assert_eq!(last(3, &[1, 2, 3]), None);
        assert_eq!(last(3, &[]), None);
    }

    #[test]
    fn a_hint_when_to_come_again() {
        assert_eq!(retry(Duration::from_millis(1500)), "retry: 1500\n\n");
    }
}
