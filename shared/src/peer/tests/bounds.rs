//! What there may be too much of: callers that wait, bytes, connections, and strangers.

use super::*;

#[tokio::test(start_paused = true)]
async fn callers_that_wait_for_a_connection_are_bounded_too() {
    let seams = Seams::simulated(10);
    let _nobody_accepts = seams.network.listen(ADDRESS).await.unwrap();
    let client = connect(&seams, client::Config { in_flight_max: 2, ..Default::default() });
    let answers = join_all((0..3).map(|_| client.call("x".into(), in_seconds(&seams, 5)))).await;
    assert_eq!(answers.iter().filter(|a| **a == Err(CallError::Overloaded)).count(), 1);
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_declines_more_than_it_allows() {
    let seams = Seams::simulated(11);
    let (handler, mut desk) = desk();
    let config = server::Config { in_flight_max: 2, ..Default::default() };
    let _server = start(&seams, config, identity(), handler).await;
    let client = connect_plain(&seams);
    let calls: Vec<_> = (0..5).map(|_| call(&seams, &client, "x")).collect();
    for _ in 0..2 {
        let incoming = desk.next().await;
        // Held until the others have been declined.
        seams.spawner.sleep(Duration::from_millis(10)).await;
        incoming.reply.send("ok".into());
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2);
    assert_eq!(answers.iter().filter(|a| **a == Err(CallError::Overloaded)).count(), 3);
    assert!(desk.incoming.try_recv().is_err(), "what was declined was not handed on");
}

#[tokio::test(start_paused = true)]
async fn a_client_queues_no_more_bytes_than_it_may() {
    let seams = Seams::simulated(12);
    let mut server = ByHand::listen(&seams).await;
    let client = connect(&seams, client::Config { queued_bytes_max: 1_000_000, ..Default::default() });
    let calls: Vec<_> = (0..5).map(|_| call(&seams, &client, vec![1; 400_000])).collect();
    let _unread = server.accept().await;
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|a| **a == Err(CallError::Overloaded)).count(), 3);
    let passed = Err(CallError::DeadlinePassed { sent: true });
    assert_eq!(answers.iter().filter(|a| **a == passed).count(), 2, "deadlines hold while nothing can be written");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_loses_its_connection() {
    let seams = Seams::simulated(13);
    let (handler, mut desk) = desk();
    let config = server::Config { queued_bytes_max: 1_000_000, ..Default::default() };
    let _server = start(&seams, config, identity(), handler).await;
    let mut stream = connect_by_hand(&seams).await;
    let (_, _, pushes) = desk.peers.recv().await.unwrap();
    for n in 0..5 {
        stream.write_all(&request_bytes(n, b"x")).await.unwrap();
    }
    let mut pushed = 0;
    while pushes.send(vec![1; 100_000].into()) {
        pushed += 1;
    }
    assert!((1..=3).contains(&pushed), "pushes get a quarter of the room: {pushed}");
    assert!(!pushes.is_closed(), "and never close a connection");
    for _ in 0..5 {
        desk.next().await.reply.send(vec![1; 400_000].into());
    }
    assert!(pushes.is_closed());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn too_long_payloads_are_refused_on_either_side() {
    let seams = Seams::simulated(14);
    let (handler, mut desk) = desk();
    let config = server::Config { frame_bytes_max: 1000, ..Default::default() };
    let _server = start(&seams, config, identity(), handler).await;
    let client = connect(&seams, client::Config { frame_bytes_max: 500, ..Default::default() });
    let longest = 1000 - frame::OVERHEAD_BYTES_MAX;
    let running = call(&seams, &client, vec![1; longest]);
    let incoming = desk.next().await;
    assert_eq!(incoming.payload.len(), longest);
    let too_long = client.call(vec![1; longest + 1].into(), in_seconds(&seams, 5)).await;
    assert_eq!(too_long, Err(CallError::NotSent(NotSent::TooLong)));
    incoming.reply.send(vec![2; 501].into());
    assert_eq!(running.await.unwrap(), Err(CallError::Abandoned), "it was executed, but its answer cannot be read");
}

async fn refused_with(client_is: Identity, server_is: Identity) -> RefusalCode {
    let seams = Seams::simulated(15);
    let _server = start(&seams, server::Config::default(), server_is, Arc::new(Echo)).await;
    let client =
        Client::new(seams.clone(), client::Config::default(), ADDRESS.to_owned(), Class::Data, client_is, None);
    match client.call("x".into(), in_seconds(&seams, 5)).await {
        Err(CallError::NotSent(NotSent::Refused(refusal))) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_are_refused_by_name() {
    let of_cluster = |n| Identity { cluster: Some(ClusterId(n)), ..identity() };
    let with_credential = |c: &str| Identity { credential: Some(c.to_owned()), ..identity() };
    assert_eq!(refused_with(of_cluster(1), of_cluster(2)).await, RefusalCode::Cluster);
    assert_eq!(refused_with(with_credential("guess"), with_credential("secret")).await, RefusalCode::Credential);
    assert_eq!(refused_with(identity(), with_credential("secret")).await, RefusalCode::Credential);
}

#[tokio::test(start_paused = true)]
async fn who_learns_where_it_belongs_asks_nothing_of_strangers_from_then_on() {
    let seams = Seams::simulated(19);
    let of_cluster = |n| Identity { cluster: Some(ClusterId(n)), ..identity() };
    let server = start(&seams, server::Config::default(), of_cluster(1), Arc::new(Echo)).await;
    let client = connect_plain(&seams);
    assert!(client.call("x".into(), in_seconds(&seams, 5)).await.is_ok());
    client.belong(ClusterId(1));
    assert!(client.call("x".into(), in_seconds(&seams, 5)).await.is_ok());
    server.shutdown.cancel();
    server.task.await.unwrap();
    let is_refused = async |client: &Client| {
        let answer = client.call("x".into(), in_seconds(&seams, 5)).await;
        matches!(answer, Err(CallError::NotSent(NotSent::Refused(refusal))) if refusal.code == RefusalCode::Cluster)
    };
    // Another one has the address by now, and would take everybody who does not say where it belongs.
    let _stranger = start(&seams, server::Config::default(), of_cluster(2), Arc::new(Echo)).await;
    seams.spawner.sleep(Duration::from_secs(10)).await;
    assert!(is_refused(&client).await);
    let other = connect_plain(&seams);
    assert!(other.call("x".into(), in_seconds(&seams, 5)).await.is_ok(), "nobody has said anything else");
    other.belong(ClusterId(1));
    assert!(is_refused(&other).await, "also over the connection that is there");
}

#[tokio::test(start_paused = true)]
async fn one_connection_too_many_is_refused_by_name_and_gets_in_later() {
    let seams = Seams::simulated(16);
    let config = server::Config { connections_max: 1, ..Default::default() };
    let _server = start(&seams, config, identity(), Arc::new(Echo)).await;
    let first = connect_plain(&seams);
    assert!(first.call("x".into(), in_seconds(&seams, 5)).await.is_ok());
    let second = connect_plain(&seams);
    match second.call("x".into(), in_seconds(&seams, 5)).await {
        Err(CallError::NotSent(NotSent::Refused(refusal))) => {
            assert_eq!(refusal.code, RefusalCode::TooManyConnections);
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert!(second.call("x".into(), in_seconds(&seams, 5)).await.is_ok());
}
