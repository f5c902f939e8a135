//! The body of an answer: known in whole, as nearly all are, or live, in pieces that are made while it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// An answer's body.
#[derive(Debug)]
pub(crate) enum Body {
    Full(Full<Bytes>),
    Live(Live),
}

/// The receiving end of a live body.
#[derive(Debug)]
pub(crate) struct Live {
    pieces: mpsc::Receiver<Bytes>,
    is_cut: Arc<AtomicBool>,
}

/// The sending end of a live body, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LiveSender {
    pieces: mpsc::Sender<Bytes>,
    is_cut: Arc<AtomicBool>,
}

/// The body ends here, and not because all was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut off")]
pub(crate) struct Cut;

impl Body {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self::Full(Full::new(bytes))
    }

    /// A live body, of which one piece may be under way while the next is made.
    pub(crate) fn live() -> (LiveSender, Self) {
        let (sender, pieces) = mpsc::channel(1);
        let is_cut = Arc::new(AtomicBool::new(false));
        (LiveSender { pieces: sender, is_cut: is_cut.clone() }, Self::Live(Live { pieces, is_cut }))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Full(Full::default())
    }
}

impl LiveSender {
    /// Waits until the piece before is taken. False when nobody takes any more.
    pub(crate) async fn send(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Returns once nobody takes any more.
    pub(crate) async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Ends the body as one that is not whole, which its reader can tell.
    pub(crate) fn cut(self) {
        self.is_cut.store(true, Ordering::Release);
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Full(body) => {
                let never = |never: Infallible| match never {};
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(never)))
            }
            Self::Live(body) => body.pieces.poll_recv(context).map(|piece| match piece {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None => body.is_cut.swap(false, Ordering::AcqRel).then_some(Err(Cut)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => body.size_hint(),
            Self::Live(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn piece(body: &mut Body) -> Option<Result<Bytes, Cut>> {
        body.frame().await.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_live_body_has_what_is_sent_and_ends_with_its_sender() {
        let (sender, mut body) = Body::live();
        assert!(sender.send(Bytes::from_static(b"one")).await);
        assert_eq!(piece(&mut body).await, Some(Ok(Bytes::from_static(b"one"))));
        drop(sender);
        assert_eq!(piece(&mut body).await, None);
    }

    #[tokio::test]
    async fn what_was_cut_does_not_pass_for_whole() {
        let (sender, mut body) = Body::live();
        assert!(sender.send(Bytes::from_static(b"one")).await);
        sender.cut();
        assert_eq!(piece(&mut body).await, Some(Ok(Bytes::from_static(b"one"))));
        assert_eq!(piece(&mut body).await, Some(Err(Cut)));
        assert_eq!(piece(&mut body).await, None);
    }

    #[tokio::test]
    async fn a_sender_hears_that_its_reader_has_gone() {
        let (sender, body) = Body::live();
        drop(body);
        sender.closed().await;
        assert!(!sender.send(Bytes::new()).await);
    }
}
