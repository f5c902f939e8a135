//! Live histories over gRPC.

use berth_shared::message::Event;

use super::*;

/// A node that has `length` events, which may grow.
fn has_events(node: &Twin, length: Arc<Mutex<u64>>) {
    says(node, move |request| {
        let Request::Events { after, limit, .. } = request else { panic!("{request:?}") };
        let last = (*length.lock()).min(after + u64::from(*limit));
        let event =
            |version| Event { version, event_type: "added", time_micros: 1_767_225_600_000_001, data: b"{\"by\":1}" };
        let events = (after + 1..=last).map(event).collect();
        Response::Events { events, next: None, seen: SEEN }
    });
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_version_through_failures_without_gaps_and_doubles() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let length = Arc::new(Mutex::new(250));
    has_events(&node, length.clone());
    let mut client = entities(&seams).await;
    let response = client.watch(watch(3)).await.unwrap();
    assert!(Token::decode(response.metadata().get("berth-session").unwrap().to_str().unwrap()).is_ok());
    let mut stream = response.into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let time = prost_types::Timestamp { seconds: 1_767_225_600, nanos: 1000 };
    assert_eq!((first.version, first.r#type.as_str(), first.data.as_str()), (4, "added", "{\"by\":1}"));
    assert_eq!(first.time, Some(time));
    for version in 5..=250 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    // Nothing comes until something happens, and an owner that is away ends nothing.
    assert!(seams.spawner.timeout(Duration::from_secs(60), stream.message()).await.is_none());
    node.does(Does::Refuse(Code::Unavailable));
    assert!(seams.spawner.timeout(Duration::from_secs(60), stream.message()).await.is_none());
    *length.lock() = 260;
    has_events(&node, length.clone());
    for version in 251..=260 {
        assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    }
    drop(stream);
    let mut resumed = client.watch(watch(258)).await.unwrap().into_inner();
    for version in 259..=260 {
        assert_eq!(resumed.message().await.unwrap().unwrap().version, version);
    }
    // What there is to follow may end.
    says(&node, |_| Response::Refused(refusal(Code::NotFound)));
    assert_eq!(resumed.message().await.unwrap_err().code(), GrpcCode::NotFound);
    assert_eq!(client.watch(watch(0)).await.unwrap_err().code(), GrpcCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_in_number_and_time_and_end_with_the_gateway() {
    let seams = Seams::simulated(1);
    let (node, gateway) = node_and_gateway(&seams, Config { streams_max: 2, ..Config::default() }).await;
    has_events(&node, Arc::new(Mutex::new(1)));
    let mut client = entities(&seams).await;
    let mut timed = tonic::Request::new(watch(0));
    timed.set_timeout(Duration::from_secs(7));
    let began = seams.clock.now();
    let mut timed = client.watch(timed).await.unwrap().into_inner();
    let mut lasting = client.watch(watch(0)).await.unwrap().into_inner();
    let status = client.watch(watch(0)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));

    assert_eq!(timed.message().await.unwrap().unwrap().version, 1);
    assert_eq!(timed.message().await.unwrap_err().code(), GrpcCode::DeadlineExceeded);
    assert_eq!(seams.clock.now().since(began).as_secs(), 7);
    let dropped = client.watch(watch(0)).await.unwrap();
    drop(dropped);
    seams.spawner.sleep(Duration::from_secs(1)).await;
    let _again = client.watch(watch(0)).await.expect("who leaves gives the place back");

    assert_eq!(lasting.message().await.unwrap().unwrap().version, 1);
    let (ended, ()) = tokio::join!(lasting.message(), gateway.shutdown());
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::Unavailable, "unavailable"));
}

/// Nodes are asked to wait, so nothing is asked in vain and nothing that happens waits for a pause.
#[tokio::test(start_paused = true)]
async fn a_quiet_watch_waits_at_the_node_and_hears_at_once() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let length = Arc::new(Mutex::new(1));
    has_events(&node, length.clone());
    let mut client = entities(&seams).await;
    let mut stream = client.watch(watch(0)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().version, 1);
    node.does(Does::Hang);
    let before = node.asked();
    assert!(seams.spawner.timeout(Duration::from_secs(60), stream.message()).await.is_none());
    let asked = node.asked() - before;
    assert!((2..=8).contains(&asked), "{asked} polls in a minute");
    has_events(&node, length.clone());
    *length.lock() = 2;
    let began = seams.clock.now();
    // Those that wait come to nothing, as where a shard moves, and what happened meanwhile is asked for in their place.
    node.answer_hanging();
    assert_eq!(stream.message().await.unwrap().unwrap().version, 2);
    let took = seams.clock.now().since(began);
    assert!(took < Duration::from_millis(50), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_off_and_is_read_nothing_ahead() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config { streams_max: 1, ..Config::default() }).await;
    // Far more than what the windows of HTTP/2 take in.
    says(&node, |request| {
        let Request::Events { after, .. } = request else { panic!("{request:?}") };
        static DATA: [u8; 256 * 1024] = [b'1'; 256 * 1024];
        let event = Event { version: after + 1, event_type: "put", time_micros: 1, data: &DATA };
        Response::Events { events: vec![event], next: Some(after + 1), seen: SEEN }
    });
    let mut client = entities(&seams).await;
    let mut stream = client.watch(watch(0)).await.unwrap().into_inner();
    seams.spawner.sleep(Duration::from_secs(29)).await;
    let read = node.asked();
    assert!(read < 40, "{read}");
    assert_eq!(client.watch(watch(0)).await.unwrap_err().code(), GrpcCode::ResourceExhausted);
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert_eq!(node.asked(), read, "nothing is read for who takes nothing");
    let mut version = 0;
    // Its connection goes with it, because whatever else is said there would wait behind what is not taken.
    let ended = loop {
        match stream.message().await {
            Ok(Some(event)) => {
                version += 1;
                assert_eq!(event.version, version);
            }
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "that would pass for an end");
    let mut client = entities(&seams).await;
    let mut resumed = client.watch(watch(version)).await.expect("the place is free").into_inner();
    assert_eq!(resumed.message().await.unwrap().unwrap().version, version + 1);
}
