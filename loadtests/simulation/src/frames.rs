//! What passes between pods, one frame at a time, so that a frame can be given twice. Knows of the protocol (the header of
//! `shared/src/peer`) where a message begins and ends, and nothing else. Pure.

use std::collections::VecDeque;

use tokio::io::ReadBuf;

/// How a greeting begins; it ends where the two bytes after seven say. As the length of a frame this would be above any limit.
const GREETING: &[u8] = b"BRTH";
const GREETING_PREFIX_BYTES: usize = 9;
/// The length of a frame, little-endian, counts what is after it.
const LENGTH_BYTES: usize = 4;

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a message.
    begun: Vec<u8>,
    /// Whole messages that were not asked for yet.
    whole: VecDeque<u8>,
}

impl Frames {
    /// Takes what has arrived. Frames are there twice where `repeats` says so; greetings never, as they are no frames.
    pub fn take(&mut self, arrived: &[u8], mut repeats: impl FnMut() -> bool) {
        self.begun.extend_from_slice(arrived);
        let mut passed = 0;
        while let Some((length, is_frame)) = message(&self.begun[passed..]) {
            let message = &self.begun[passed..passed + length];
            self.whole.extend(message);
            if is_frame && repeats() {
                self.whole.extend(message);
            }
            passed += length;
        }
        self.begun.drain(..passed);
    }

    /// Puts what is whole into `buffer`, as much of it as there is room for. False where there is nothing.
    pub fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let (front, _) = self.whole.as_slices();
        let length = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..length]);
        self.whole.drain(..length);
        length > 0
    }
}

/// How long the first message is, and whether it is a frame; nothing while its end is not there.
fn message(bytes: &[u8]) -> Option<(usize, bool)> {
    if bytes.starts_with(GREETING) {
        let prefix = bytes.first_chunk::<GREETING_PREFIX_BYTES>()?;
        let length = GREETING_PREFIX_BYTES + usize::from(u16::from_le_bytes([prefix[7], prefix[8]]));
        return (bytes.len() >= length).then_some((length, false));
    }
    let length = LENGTH_BYTES + u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() >= length).then_some((length, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: [u8; 6] = [2, 0, 0, 0, 5, 6];
    const SECOND: [u8; 5] = [1, 0, 0, 0, 7];

    fn greeting() -> Vec<u8> {
        [GREETING, &[4, 0, 0, 3, 0], b"abc"].concat()
    }

    fn passed(pieces: impl IntoIterator<Item = Vec<u8>>, mut repeats: impl FnMut() -> bool) -> Vec<u8> {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.take(&piece, &mut repeats);
            let mut space = [0; 3];
            loop {
                let mut buffer = ReadBuf::new(&mut space);
                if !frames.give(&mut buffer) {
                    break;
                }
                all.extend_from_slice(buffer.filled());
            }
        }
        all
    }

    #[test]
    fn bytes_stay_as_they_are_however_they_arrive() {
        let sent = [greeting(), FIRST.into(), SECOND.into()].concat();
        for length in 1..=sent.len() {
            assert_eq!(passed(sent.chunks(length).map(<[u8]>::to_vec), || false), sent, "{length} at a time");
        }
    }

    #[test]
    fn whole_frames_are_repeated_and_greetings_are_not() {
        let sent = [greeting(), FIRST.into(), SECOND.into()].concat();
        let mut turn = 0;
        let every_second = || {
            turn += 1;
            turn % 2 == 0
        };
        let expected = [greeting(), FIRST.into(), SECOND.into(), SECOND.into()].concat();
        assert_eq!(passed(sent.chunks(4).map(<[u8]>::to_vec), every_second), expected);
    }
}
