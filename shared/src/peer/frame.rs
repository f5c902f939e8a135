//! Frames to bytes and back, as laid out in the room's header. Pure. Reading trusts nothing: a length is checked before
//! it is used, and whatever does not fit is an error that ends the connection.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

/// Length field and kind.
const PREFIX_BYTES: usize = 5;
const ID_BYTES: usize = 8;
const REMAINING_BYTES: usize = 4;
const HEADER_BYTES_MAX: usize = PREFIX_BYTES + ID_BYTES + REMAINING_BYTES;
/// What a frame's length field counts besides the payload, at most.
pub(super) const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES_MAX - 4;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ABANDONED: u8 = 3;
const DECLINED: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const GOODBYE: u8 = 8;
const GIVEN_UP: u8 = 9;

/// The client's number of a call, given back with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CorrelationId(pub(super) u64);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    Request {
        id: CorrelationId,
        remaining: Duration,
        payload: Bytes,
    },
    Reply {
        id: CorrelationId,
        payload: Bytes,
    },
    Abandoned {
        id: CorrelationId,
    },
    Declined {
        id: CorrelationId,
        why: Decline,
    },
    Push {
        payload: Bytes,
    },
    Ping,
    Pong,
    /// The last frame of a server that shuts down: with what it has not answered it never began.
    Goodbye,
    /// The client waits no more for this answer.
    GivenUp {
        id: CorrelationId,
    },
}

/// Why a server did not begin with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Decline {
    TooManyInFlight = 1,
    ShuttingDown = 2,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("a frame of {bytes} bytes, where at most {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame of {bytes} bytes is not one of kind {kind}")]
    Length { kind: u8, bytes: usize },
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    #[error("there is no reason {0} to decline a request")]
    Decline(u8),
}

/// The bytes of a frame before its payload.
#[derive(Clone, Copy)]
pub(super) struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl Header {
    pub(super) fn request(id: CorrelationId, remaining: Duration, payload_bytes: usize) -> Self {
        let micros = u32::try_from(remaining.as_micros()).unwrap_or(u32::MAX);
        Self::new(REQUEST, payload_bytes).with(&id.0.to_le_bytes()).with(&micros.to_le_bytes()).measured(payload_bytes)
    }

    pub(super) fn reply(id: CorrelationId, payload_bytes: usize) -> Self {
        Self::new(REPLY, payload_bytes).with(&id.0.to_le_bytes()).measured(payload_bytes)
    }

    pub(super) fn abandoned(id: CorrelationId) -> Self {
        Self::new(ABANDONED, 0).with(&id.0.to_le_bytes()).measured(0)
    }

    pub(super) fn declined(id: CorrelationId, why: Decline) -> Self {
        Self::new(DECLINED, 0).with(&id.0.to_le_bytes()).with(&[why as u8]).measured(0)
    }

    pub(super) fn push(payload_bytes: usize) -> Self {
        Self::new(PUSH, payload_bytes).measured(payload_bytes)
    }

    pub(super) fn ping() -> Self {
        Self::new(PING, 0).measured(0)
    }

    pub(super) fn pong() -> Self {
        Self::new(PONG, 0).measured(0)
    }

    pub(super) fn goodbye() -> Self {
        Self::new(GOODBYE, 0).measured(0)
    }

    pub(super) fn given_up(id: CorrelationId) -> Self {
        Self::new(GIVEN_UP, 0).with(&id.0.to_le_bytes()).measured(0)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new(kind: u8, payload_bytes: usize) -> Self {
        debug_assert!(payload_bytes <= u32::MAX as usize - OVERHEAD_BYTES_MAX, "the caller has bounded the payload");
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[PREFIX_BYTES - 1] = kind;
        Self { bytes, len: PREFIX_BYTES }
    }

    fn with(mut self, field: &[u8]) -> Self {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
        self
    }

    fn measured(mut self, payload_bytes: usize) -> Self {
        let counted = (self.len - 4 + payload_bytes) as u32;
        self.bytes[..4].copy_from_slice(&counted.to_le_bytes());
        self
    }
}

/// Takes the next whole frame off the front of `input`; `None` when its end has not arrived. The payload shares the
/// memory of `input`. `frame_bytes_max` bounds what the length field may say.
pub(super) fn take(input: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<Frame>, Error> {
    let Some(len) = announced_len(input) else { return Ok(None) };
    if len > frame_bytes_max {
        return Err(Error::TooLong { bytes: len, max: frame_bytes_max });
    }
    if len == 0 {
        return Err(Error::Length { kind: 0, bytes: 0 });
    }
    if input.len() < 4 + len {
        return Ok(None);
    }
    let kind = input[4];
    let fixed = match kind {
        REQUEST => 1 + ID_BYTES + REMAINING_BYTES,
        REPLY | ABANDONED | GIVEN_UP => 1 + ID_BYTES,
        DECLINED => 1 + ID_BYTES + 1,
        PUSH | PING | PONG | GOODBYE => 1,
        _ => return Err(Error::Kind(kind)),
    };
    let has_payload = matches!(kind, REQUEST | REPLY | PUSH);
    if len < fixed || (len > fixed && !has_payload) {
        return Err(Error::Length { kind, bytes: len });
    }
    let mut header = [0; HEADER_BYTES_MAX];
    header[..4 + fixed].copy_from_slice(&input[..4 + fixed]);
    input.advance(4 + fixed);
    // An empty payload must not hold on to the buffer.
    let payload = if len > fixed { input.split_to(len - fixed).freeze() } else { Bytes::new() };
    let id = || CorrelationId(u64::from_le_bytes(field(&header, PREFIX_BYTES)));
    Ok(Some(match kind {
        REQUEST => {
            let micros = u32::from_le_bytes(field(&header, PREFIX_BYTES + ID_BYTES));
            Frame::Request { id: id(), remaining: Duration::from_micros(micros.into()), payload }
        }
        REPLY => Frame::Reply { id: id(), payload },
        ABANDONED => Frame::Abandoned { id: id() },
        DECLINED => Frame::Declined { id: id(), why: decline(header[PREFIX_BYTES + ID_BYTES])? },
        PUSH => Frame::Push { payload },
        PING => Frame::Ping,
        GOODBYE => Frame::Goodbye,
        GIVEN_UP => Frame::GivenUp { id: id() },
        _ => Frame::Pong,
    }))
}

/// How many bytes the frame at the front of `input` still lacks, as far as can be told.
pub(super) fn missing(input: &BytesMut) -> usize {
    announced_len(input).map_or(PREFIX_BYTES, |len| (4 + len).saturating_sub(input.len()))
}

fn announced_len(input: &BytesMut) -> Option<usize> {
    (input.len() >= 4).then(|| u32::from_le_bytes(field(input, 0)) as usize)
}

fn decline(byte: u8) -> Result<Decline, Error> {
    match byte {
        1 => Ok(Decline::TooManyInFlight),
        2 => Ok(Decline::ShuttingDown),
        _ => Err(Error::Decline(byte)),
    }
}

/// The caller has checked that `bytes` reaches that far.
fn field<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[start..start + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn written(frame: &Frame) -> Vec<u8> {
        let (header, payload) = match frame {
            Frame::Request { id, remaining, payload } => (Header::request(*id, *remaining, payload.len()), payload),
            Frame::Reply { id, payload } => (Header::reply(*id, payload.len()), payload),
            Frame::Abandoned { id } => (Header::abandoned(*id), &Bytes::new()),
            Frame::Declined { id, why } => (Header::declined(*id, *why), &Bytes::new()),
            Frame::Push { payload } => (Header::push(payload.len()), payload),
            Frame::Ping => (Header::ping(), &Bytes::new()),
            Frame::Pong => (Header::pong(), &Bytes::new()),
            Frame::Goodbye => (Header::goodbye(), &Bytes::new()),
            Frame::GivenUp { id } => (Header::given_up(*id), &Bytes::new()),
        };
        [header.as_slice(), payload].concat()
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = || any::<u64>().prop_map(CorrelationId);
        let payload = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (id(), any::<u32>(), payload()).prop_map(|(id, micros, payload)| Frame::Request {
                id,
                remaining: Duration::from_micros(micros.into()),
                payload
            }),
            (id(), payload()).prop_map(|(id, payload)| Frame::Reply { id, payload }),
            id().prop_map(|id| Frame::Abandoned { id }),
            id().prop_map(|id| Frame::Declined { id, why: Decline::TooManyInFlight }),
            id().prop_map(|id| Frame::Declined { id, why: Decline::ShuttingDown }),
            payload().prop_map(|payload| Frame::Push { payload }),
            Just(Frame::Ping),
            Just(Frame::Pong),
            Just(Frame::Goodbye),
            id().prop_map(|id| Frame::GivenUp { id }),
        ]
    }

    /// The wire of protocol version 1: a change here needs a new version.
    #[test]
    fn frames_of_version_1_have_these_bytes() {
        let request = Frame::Request {
            id: CorrelationId(0x0102),
            remaining: Duration::from_millis(5),
            payload: Bytes::from_static(b"hi"),
        };
        assert_eq!(written(&request), b"\x0f\0\0\0\x01\x02\x01\0\0\0\0\0\0\x88\x13\0\0hi");
        let reply = Frame::Reply { id: CorrelationId(7), payload: Bytes::from_static(b"ok") };
        assert_eq!(written(&reply), b"\x0b\0\0\0\x02\x07\0\0\0\0\0\0\0ok");
        assert_eq!(written(&Frame::Abandoned { id: CorrelationId(7) }), b"\x09\0\0\0\x03\x07\0\0\0\0\0\0\0");
        let declined = Frame::Declined { id: CorrelationId(7), why: Decline::ShuttingDown };
        assert_eq!(written(&declined), b"\x0a\0\0\0\x04\x07\0\0\0\0\0\0\0\x02");
        assert_eq!(written(&Frame::Push { payload: Bytes::from_static(b"p") }), b"\x02\0\0\0\x05p");
        assert_eq!(written(&Frame::Ping), b"\x01\0\0\0\x06");
        assert_eq!(written(&Frame::Goodbye), b"\x01\0\0\0\x08");
        assert_eq!(written(&Frame::GivenUp { id: CorrelationId(7) }), b"\x09\0\0\0\x09\x07\0\0\0\0\0\0\0");
        assert_eq!(written(&Frame::Pong), b"\x01\0\0\0\x07");
    }

    #[test]
    fn a_deadline_too_far_for_the_field_becomes_the_farthest() {
        let header = Header::request(CorrelationId(1), Duration::from_secs(1_000_000), 0);
        let frame = take(&mut BytesMut::from(header.as_slice()), MAX).unwrap().unwrap();
        let remaining = Duration::from_micros(u32::MAX.into());
        assert_eq!(frame, Frame::Request { id: CorrelationId(1), remaining, payload: Bytes::new() });
    }

    #[test]
    fn hostile_headers_are_named() {
        let error = |bytes: &[u8]| take(&mut BytesMut::from(bytes), 100).unwrap_err();
        assert_eq!(error(b"\xff\xff\xff\xff"), Error::TooLong { bytes: u32::MAX as usize, max: 100 });
        assert_eq!(error(b"\x65\0\0\0"), Error::TooLong { bytes: 101, max: 100 });
        assert_eq!(error(b"\0\0\0\0"), Error::Length { kind: 0, bytes: 0 });
        assert_eq!(error(b"\x01\0\0\0\x0a"), Error::Kind(10));
        assert_eq!(error(b"\x01\0\0\0\x01"), Error::Length { kind: 1, bytes: 1 });
        assert_eq!(error(b"\x02\0\0\0\x06x"), Error::Length { kind: 6, bytes: 2 });
        assert_eq!(error(b"\x0a\0\0\0\x04\x07\0\0\0\0\0\0\0\x03"), Error::Decline(3));
    }

    #[test]
    fn a_payload_shares_the_memory_it_was_read_into() {
        let mut input = BytesMut::from(&written(&Frame::Push { payload: Bytes::from(vec![7; 100]) })[..]);
        let place = input[5..].as_ptr();
        let Some(Frame::Push { payload }) = take(&mut input, MAX).unwrap() else { panic!("a push") };
        assert_eq!(payload.as_ptr(), place);
    }

    proptest! {
        #[test]
        fn frames_come_back_however_their_bytes_are_cut(
            frames in proptest::collection::vec(any_frame(), 1..8), step in 1_usize..64,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(written).collect();
            let (mut input, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                input.extend_from_slice(piece);
                while let Some(frame) = take(&mut input, MAX).unwrap() {
                    read.push(frame);
                }
                prop_assert!(missing(&input) > 0, "a whole frame would have been taken");
            }
            prop_assert_eq!(read, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            length in 0_u32..32, kind in 0_u8..11,
        ) {
            let mut raw = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut raw, MAX) {}
            // A plausible beginning reaches further in.
            let mut likely = BytesMut::from(&length.to_le_bytes()[..]);
            likely.extend_from_slice(&[kind]);
            likely.extend_from_slice(&bytes);
            while let Ok(Some(_)) = take(&mut likely, MAX) {}
        }
    }
}
