//! The body of a call that is read while it arrives. It ends with an error when its time is over, so that who keeps one open
//! holds nothing for long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_shared::seam::Seams;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use tonic::Status;

use crate::api::streams::Place;

pub(super) struct Arriving<B> {
    body: B,
    /// Until its time is over.
    over: Option<BoxFuture<'static, ()>>,
    /// Given back when the body is no longer read.
    _place: Option<Place>,
}

impl<B> Arriving<B> {
    pub(super) fn new(body: B, seams: &Seams, time: Duration, place: Option<Place>) -> Self {
        Self { body, over: Some(seams.spawner.sleep(time).boxed()), _place: place }
    }
}

impl<B> hyper::body::Body for Arriving<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(over) = &mut self.over else { return Poll::Ready(None) };
        if over.poll_unpin(context).is_ready() {
            self.over = None;
            return Poll::Ready(Some(Err(Status::cancelled("the call was open for too long"))));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|error| Status::from_error(error.into()))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
