//! Bodies that are long, late, or in pieces.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_408() {
    let api = api(content);
    let frames = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
    let request = Request::post(ADD).body(StreamBody::new(frames)).unwrap();
    let answer = finish(api.answer(request).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "request-timeout"));
    assert_eq!(api.admission.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_too_long_is_not_read_to_its_end() {
    let api = api(content);
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    let frames = futures_util::stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(vec![b' '; 64 * 1024])))
    });
    let answer = finish(api.answer(Request::post(ADD).body(StreamBody::new(frames)).unwrap()).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too-large"));
    // A mebibyte and one piece, and then 8 MiB so that the sender gets to read the answer.
    assert_eq!(read.load(Ordering::Relaxed), 17 + 128);
}

#[tokio::test(start_paused = true)]
async fn a_body_in_pieces_arrives_whole() {
    let api = api(content);
    let pieces = ["{\"by\"", ":", "3}"].map(|piece| Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(piece))));
    let request = Request::post(ADD).body(StreamBody::new(futures_util::stream::iter(pieces))).unwrap();
    assert_eq!(api.answer(request).await.status(), 200);
    api.forward.nodes().execute(1, |execute| assert_eq!(execute.body, br#"{"by":3}"#));
}
