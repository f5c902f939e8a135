//! What a fuzzer tries on the protocol between pods; see `loadtests/fuzz`. It panics where something that must hold does not.

use bytes::BytesMut;
use futures_util::FutureExt;

use super::frame::{self, Frame};
use super::{Class, Identity, PROTOCOL_VERSION, Role, decode, encode, handshake};
use crate::message::{Push, Request, Response};
use crate::seam::network::Duplex;
use crate::seam::random::SeededRandom;

const FRAME_BYTES_MAX: usize = 4096;

/// Whatever decodes can be said again, and is then the same. A macro, because what borrows from other bytes is another type.
/// Bytes are compared: a number that is none is not equal to itself.
macro_rules! message {
    ($message:ty, $data:expr) => {
        if let Ok(message) = decode::<$message>($data) {
            let bytes = encode(&message).expect("what was read can be said");
            let again = decode::<$message>(&bytes).expect("and read again");
            assert_eq!(encode(&again).ok(), Some(bytes.clone()), "{message:?}");
        }
    };
}

/// A connection's bytes: a greeting or the body of one, or frames in pieces whose size the first byte says, and the messages in
/// them.
pub fn connection(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    greeting(data);
    greeting(&[b"BRTH", &PROTOCOL_VERSION.to_le_bytes()[..], &[0], &(data.len() as u16).to_le_bytes(), data].concat());
    message!(Request<'_>, data);
    message!(Response<'_>, data);
    message!(Push, data);
    let (whole, error) = frames(std::iter::once(data));
    let (cut, error_cut) = frames(data.chunks(usize::from(*step).max(1)));
    assert_eq!(whole, cut, "frames are the same however they are cut");
    assert_eq!(error, error_cut);
    for frame in whole {
        match frame {
            Frame::Request { payload, .. } => message!(Request<'_>, &payload),
            Frame::Reply { payload, .. } => message!(Response<'_>, &payload),
            Frame::Push { payload } => message!(Push, &payload),
            _ => {}
        }
    }
}

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<frame::Error>) {
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match frame::take(&mut input, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(frame::missing(&input) > 0, "a whole frame would have been taken");
    }
    (frames, None)
}

/// Both sides read it, and answer into nothing: without a secret, and with one, which nothing from outside proves.
fn greeting(data: &[u8]) {
    let random = SeededRandom::new(1);
    let stream =
        || -> Box<dyn Duplex> { Box::new(tokio::io::join(std::io::Cursor::new(data.to_vec()), tokio::io::sink())) };
    for credential in [None, Some("x".to_owned())] {
        let is_secret = credential.is_some();
        let ours = Identity { role: Role::Node, node: None, cluster: None, software: String::new(), credential };
        let served = handshake::server(&mut stream(), &ours, FRAME_BYTES_MAX, &random).now_or_never();
        let called = handshake::client(&mut stream(), &ours, Class::Data, FRAME_BYTES_MAX, &random).now_or_never();
        for greeted in [served, called].map(|end| end.expect("the stream never waits")) {
            assert!(greeted.is_err() || !is_secret, "nobody has proven to have the secret");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("peer_frame", super::connection);
    }
}
