//! One greeted connection: a single future that reads frames, hands them to its side, and writes what its side's outbox
//! holds. Reading and writing share one task, so that answers made while reading leave with one write and no wake-up.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Frame, Header};
use super::outbox::{Outbox, Pile, SLICES_MAX};
use crate::seam::network::Stream;
use crate::seam::{BootInstant, Seams};

/// Room for one read; also what a connection holds at least.
const READ_BYTES: usize = 64 * 1024;
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS_MAX: usize = 32;
/// Timers are not set closer than this, so that deadlines are enforced up to this much late, and cheaply.
const TIMER_STEP: Duration = Duration::from_millis(10);

/// When a quiet peer is pinged, and when a silent one is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) ping_after: Duration,
    pub(super) silence_max: Duration,
}

/// What is done with the frames of a connection; the client's and the server's half of the protocol.
pub(super) trait Side {
    fn with_outbox<R>(&self, look: impl FnOnce(&mut Outbox) -> R) -> R;
    /// Takes the frames of one read, all of them, in order. Pings and pongs are not among them.
    fn receive(&mut self, frames: &mut Vec<Frame>, now: BootInstant) -> Result<(), Ended>;
    /// A time before which [`Side::expire`] has nothing to do.
    fn earliest_deadline(&self) -> Option<BootInstant>;
    fn expire(&mut self, now: BootInstant);
    /// True when the connection may end, once everything is written.
    fn is_drained(&self) -> bool;
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer closed the connection")]
    ByPeer,
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("the peer sent nonsense: {0}")]
    Malformed(#[from] frame::Error),
    #[error("the peer sent a frame that is not its to send")]
    Misplaced,
    #[error("the peer said nothing for too long")]
    Silent,
    #[error("the peer does not read what it is sent")]
    Unread,
    #[error("nothing is left to do")]
    Drained,
    #[error("the peer shuts down")]
    Goodbye,
}

pub(super) struct Connection<S> {
    side: S,
    stream: Stream,
    seams: Seams,
    patience: Patience,
    frame_bytes_max: usize,
    input: BytesMut,
    /// Frames of the read in progress; kept for its room.
    frames: Vec<Frame>,
    pile: Pile,
    /// Bytes of the pile already written.
    pile_written: usize,
    /// Bytes written since the connection began.
    written: u64,
    unflushed: bool,
    heard_at: BootInstant,
    pinged: bool,
    timer: Option<(BootInstant, BoxFuture<'static, ()>)>,
}

impl<S: Side> Connection<S> {
    /// `frame_bytes_max` bounds the frames that are read.
    pub(super) fn new(side: S, stream: Stream, seams: &Seams, patience: Patience, frame_bytes_max: usize) -> Self {
        Self {
            side,
            stream,
            seams: seams.clone(),
            patience,
            frame_bytes_max,
            input: BytesMut::new(),
            frames: Vec::new(),
            pile: Pile::default(),
            pile_written: 0,
            written: 0,
            unflushed: false,
            heard_at: seams.clock.now(),
            pinged: false,
            timer: None,
        }
    }

    /// Reads and writes until the connection ends. May be dropped and called again.
    pub(super) async fn run(&mut self) -> Ended {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// How many bytes the stream has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Tells the peer that nothing follows and that what it sends now is not begun with, and waits for it to close. To close
    /// with unread bytes would reset the stream and could take the last answers with it. The caller bounds how long this may
    /// take.
    pub(super) async fn finish(mut self) {
        let told = self.stream.write_all(Header::goodbye().as_slice()).await;
        if told.is_ok() && self.stream.shutdown().await.is_ok() {
            self.input.clear();
            while matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                self.input.clear();
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        match self.poll_rounds(context) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Ended::Drained),
            Err(ended) => Poll::Ready(ended),
        }
    }

    fn poll_rounds(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        self.side.with_outbox(Outbox::awake);
        for _ in 0..ROUNDS_MAX {
            let read = self.poll_read(context)?;
            let all_written = self.poll_write(context)?.is_ready();
            if read.is_ready() || !self.side.with_outbox(|outbox| outbox.sleep(context, all_written)) {
                continue;
            }
            // From here on an append wakes this task, so no new deadline and no last answer goes unseen.
            if self.poll_timer(context)? {
                continue;
            }
            return Ok(if all_written && self.side.is_drained() { Poll::Ready(()) } else { Poll::Pending });
        }
        context.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// One read and what it brought. Pending when nothing has arrived.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        let missing = frame::missing(&self.input);
        // A large frame's room grows with what has arrived of it, so that a length alone takes no memory.
        let room = missing.clamp(READ_BYTES, READ_BYTES.max(self.input.len()));
        if self.input.capacity() - self.input.len() < missing.min(READ_BYTES / 4) {
            self.input.reserve(room);
        }
        let read = {
            let future = std::pin::pin!(self.stream.read_buf(&mut self.input));
            match future.poll(context) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        };
        if read == 0 {
            return Err(Ended::ByPeer);
        }
        self.heard_at = self.seams.clock.now();
        self.pinged = false;
        let mut pinged_us = false;
        while let Some(frame) = frame::take(&mut self.input, self.frame_bytes_max)? {
            match frame {
                Frame::Ping => pinged_us = true,
                Frame::Pong => {}
                frame => self.frames.push(frame),
            }
        }
        if pinged_us {
            // To a peer that has much to read already, that much says that somebody is there.
            self.side.with_outbox(|outbox| {
                if outbox.has_room(0, READ_BYTES) {
                    outbox.append(&Header::pong(), Bytes::new());
                }
            });
        }
        if !self.frames.is_empty() {
            self.side.receive(&mut self.frames, self.heard_at)?;
            self.frames.clear();
        }
        Ok(Poll::Ready(()))
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        loop {
            if self.pile.is_empty() {
                let written = std::mem::take(&mut self.pile_written);
                let pile = &mut self.pile;
                let (more, closed) = self.side.with_outbox(|o| (o.exchange(pile, written), o.is_closed()));
                if closed {
                    return Err(Ended::Unread);
                }
                if !more {
                    return self.poll_flush(context);
                }
            }
            let stream = Pin::new(&mut self.stream);
            let polled = match self.pile.single() {
                Some(bytes) => stream.poll_write(context, bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let count = self.pile.slices(&mut slices);
                    stream.poll_write_vectored(context, &slices[..count])
                }
            };
            let Poll::Ready(written) = polled else {
                let closed = self.side.with_outbox(|outbox| outbox.is_closed());
                return if closed { Err(Ended::Unread) } else { Ok(Poll::Pending) };
            };
            match written? {
                0 => return Err(Ended::Stream(io::ErrorKind::WriteZero.into())),
                count => {
                    self.pile.written(count);
                    self.pile_written += count;
                    self.written += count as u64;
                    self.unflushed = true;
                }
            }
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            self.unflushed = false;
        }
        Ok(Poll::Ready(()))
    }

    /// Does what time asks for; true when something was done. Otherwise a timer is set for the next such thing, late by
    /// [`TIMER_STEP`] at most. A timer that turns out to be early is left to fire, which is cheaper than to move it.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<bool, Ended> {
        loop {
            let quiet_until =
                self.heard_at + if self.pinged { self.patience.silence_max } else { self.patience.ping_after };
            let wanted = self.side.earliest_deadline().map_or(quiet_until, |deadline| deadline.min(quiet_until));
            if let Some((at, timer)) = &mut self.timer
                && *at <= wanted + TIMER_STEP
            {
                if timer.as_mut().poll(context).is_pending() {
                    return Ok(false);
                }
                self.timer = None;
            }
            let now = self.seams.clock.now();
            if now >= wanted {
                self.side.expire(now);
                return if now >= quiet_until { self.end_quiet().map(|()| true) } else { Ok(true) };
            }
            let at = wanted.max(now + TIMER_STEP);
            let spawner = self.seams.spawner;
            self.timer = Some((at, Box::pin(async move { spawner.sleep(at.since(now)).await })));
        }
    }

    /// The peer was quiet for as long as it may be: asks it to say something, or gives it up.
    fn end_quiet(&mut self) -> Result<(), Ended> {
        if self.pinged {
            return Err(Ended::Silent);
        }
        self.pinged = true;
        self.side.with_outbox(|outbox| outbox.append(&Header::ping(), Bytes::new()));
        Ok(())
    }
}
