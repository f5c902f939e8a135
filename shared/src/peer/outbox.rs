//! Frames on their way to the writer of a connection. Whoever has something to say appends it here under a short lock;
//! the connection's task exchanges the whole pile for an empty one and writes it at once. Pure, but for wakers.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes, BytesMut};

use super::frame::Header;

/// Payloads from this size on are written from where they lie; smaller ones are cheaper to copy next to their neighbours.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// An emptied buffer above this capacity is given back, so that one burst does not stay for the life of a connection.
const KEPT_CAPACITY_MAX: usize = 256 * 1024;
/// How many pieces one vectored write takes.
pub(super) const SLICES_MAX: usize = 16;

/// What waits to be written on one connection. Bounded by whoever appends, who asks [`Outbox::has_room`] first.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pile: Pile,
    /// Bytes appended and not yet written, those in the writer's hands included.
    queued_bytes: usize,
    /// Bytes appended since the connection began: where the next frame starts in the stream.
    end: u64,
    waker: Option<Waker>,
    /// Invariant: while this is false the connection's task will look here before it sleeps, and needs no waking.
    asleep: bool,
    closed: bool,
}

/// Bytes in the order they are to be written: first the pieces, then the tail.
#[derive(Debug, Default)]
pub(super) struct Pile {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// How much of the tail is written. The tail is not advanced, because its room could then not be used again.
    tail_written: usize,
}

impl Outbox {
    pub(super) fn has_room(&self, payload_bytes: usize, queued_bytes_max: usize) -> bool {
        self.queued_bytes.saturating_add(payload_bytes) <= queued_bytes_max
    }

    /// Appends a frame, and returns where it ends in the stream. Nothing happens on a closed connection.
    pub(super) fn append(&mut self, header: &Header, payload: Bytes) -> u64 {
        if !self.closed {
            let before = self.queued_bytes;
            self.queued_bytes += header.as_slice().len() + payload.len();
            self.end += (self.queued_bytes - before) as u64;
            self.pile.append(header, payload);
        }
        self.end
    }

    /// Whom to wake, once the lock is released, for what was appended to be written.
    #[must_use]
    pub(super) fn take_waker(&mut self) -> Option<Waker> {
        if mem::take(&mut self.asleep) { self.waker.take() } else { None }
    }

    /// Marks the connection as ended, and returns whom to wake so that it ends in fact. What waits is dropped.
    #[must_use]
    pub(super) fn close(&mut self) -> Option<Waker> {
        self.closed = true;
        self.pile = Pile::default();
        self.asleep = false;
        self.waker.take()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued_bytes == 0
    }

    /// For the connection's task: it is awake and will look here before it sleeps.
    pub(super) fn awake(&mut self) {
        self.asleep = false;
    }

    /// For the connection's task: hands over what waits in exchange for an empty pile. False when nothing waits.
    pub(super) fn exchange(&mut self, emptied: &mut Pile, written_bytes: usize) -> bool {
        debug_assert!(emptied.is_empty());
        self.queued_bytes -= written_bytes.min(self.queued_bytes);
        emptied.reset();
        mem::swap(&mut self.pile, emptied);
        !emptied.is_empty()
    }

    /// For the connection's task, before it sleeps. `idle`: it has nothing in hand to write. False when it must not sleep,
    /// because there is something to write in the meantime. An append wakes even a writer with its hands full, because
    /// it may come with a nearer deadline.
    pub(super) fn sleep(&mut self, context: &Context<'_>, idle: bool) -> bool {
        if self.closed || (idle && !self.pile.is_empty()) {
            return false;
        }
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
        self.asleep = true;
        true
    }
}

impl Pile {
    fn append(&mut self, header: &Header, payload: Bytes) {
        self.tail.extend_from_slice(header.as_slice());
        if payload.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(&payload);
        } else {
            self.pieces.push_back(self.tail.split().freeze());
            self.pieces.push_back(payload);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail_written == self.tail.len()
    }

    /// The next bytes, when they lie in one place.
    pub(super) fn single(&self) -> Option<&[u8]> {
        self.pieces.is_empty().then(|| &self.tail[self.tail_written..])
    }

    /// The next bytes, as many pieces as `slices` has room for; returns how many there are.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.pieces.iter().map(|p| &p[..]).chain(Some(&self.tail[self.tail_written..]));
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces.filter(|p| !p.is_empty())) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// Drops the first `count` bytes, which are written.
    pub(super) fn written(&mut self, mut count: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
        self.tail_written = (self.tail_written + count).min(self.tail.len());
    }

    fn reset(&mut self) {
        self.tail_written = 0;
        if self.tail.capacity() > KEPT_CAPACITY_MAX { self.tail = BytesMut::new() } else { self.tail.clear() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::frame::CorrelationId;

    proptest! {
        /// Whatever the sizes of payloads and of writes, the stream is every frame in order.
        #[test]
        fn bytes_leave_in_the_order_they_came(
            sizes in proptest::collection::vec(prop_oneof![0_usize..100, COPY_BYTES_MAX - 1..COPY_BYTES_MAX + 3], 1..12),
            writes in proptest::collection::vec(1_usize..20_000, 1..20),
            exchange_every in 1_usize..5,
        ) {
            let (mut outbox, mut pile) = (Outbox::default(), Pile::default());
            let (mut expected, mut stream) = (Vec::new(), Vec::new());
            let mut writes = writes.into_iter().cycle();
            let mut drain = |outbox: &mut Outbox, pile: &mut Pile, stream: &mut Vec<u8>| {
                let mut written = 0;
                while outbox.exchange(pile, written) {
                    written = 0;
                    while !pile.is_empty() {
                        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                        let count = pile.slices(&mut slices);
                        let all: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                        let part = writes.next().unwrap().min(all.len());
                        stream.extend(&all[..part]);
                        pile.written(part);
                        written += part;
                    }
                }
            };
            for (n, size) in sizes.into_iter().enumerate() {
                let payload = Bytes::from(vec![n as u8; size]);
                let header = Header::reply(CorrelationId(n as u64), size);
                expected.extend_from_slice(header.as_slice());
                expected.extend_from_slice(&payload);
                prop_assert_eq!(outbox.append(&header, payload), expected.len() as u64);
                if n % exchange_every == 0 {
                    drain(&mut outbox, &mut pile, &mut stream);
                }
            }
            drain(&mut outbox, &mut pile, &mut stream);
            prop_assert_eq!(stream, expected);
            prop_assert!(outbox.is_empty());
        }
    }

    #[test]
    fn only_a_sleeping_writer_is_woken_and_only_once() {
        let mut outbox = Outbox::default();
        let context = Context::from_waker(Waker::noop());
        assert!(outbox.sleep(&context, true));
        outbox.append(&Header::ping(), Bytes::new());
        assert!(outbox.take_waker().is_some());
        outbox.append(&Header::ping(), Bytes::new());
        assert!(outbox.take_waker().is_none(), "it is awake already");
        assert!(!outbox.sleep(&context, true), "something waits");
        assert!(outbox.sleep(&context, false), "a writer with its hands full may sleep");
        outbox.awake();
        assert!(outbox.take_waker().is_none(), "it is awake");
        assert!(outbox.close().is_some(), "but a close wakes it in any case");
        assert!(!outbox.sleep(&context, false), "and it sleeps no more");
    }
}
