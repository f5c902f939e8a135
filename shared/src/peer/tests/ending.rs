//! How connections and servers end, and what is known of requests that were on their way.

use super::*;

#[tokio::test(start_paused = true)]
async fn only_the_last_clone_closes_the_connection() {
    let seams = Seams::simulated(18);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let (_, _, pushes) = desk.peers.recv().await.unwrap();
    let clone = client.clone();
    drop(client);
    seams.spawner.sleep(Duration::from_millis(10)).await;
    assert!(!pushes.is_closed());
    drop(clone);
    seams.spawner.sleep(Duration::from_millis(10)).await;
    assert!(pushes.is_closed());
    seams.spawner.sleep(Duration::from_mins(1)).await;
    assert!(desk.peers.try_recv().is_err(), "and it does not come back");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_running_requests_answer_and_declines_new_ones() {
    let seams = Seams::simulated(19);
    let (handler, mut desk) = desk();
    let server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let running = call(&seams, &client, "running");
    let incoming = desk.next().await;
    server.shutdown.cancel();
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let declined = client.call("new".into(), in_seconds(&seams, 5)).await;
    assert_eq!(declined, Err(CallError::NotSent(NotSent::ShuttingDown)));
    assert!(!server.task.is_finished());
    let began = seams.clock.now();
    incoming.reply.send("done".into());
    assert_eq!(running.await.unwrap(), Ok("done".into()));
    server.task.await.unwrap();
    assert!(seams.clock.now().since(began) < Duration::from_millis(100), "nothing was left to wait for");
    assert!(desk.incoming.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_served_again_and_everybody_is_greeted_anew() {
    let seams = Seams::simulated(1);
    let client = connect_plain(&seams);
    let mut listener = seams.network.listen(ADDRESS).await.unwrap();
    for cluster in [None, Some(ClusterId(1))] {
        let (shutdown, ours) = (CancellationToken::new(), Identity { cluster, ..identity() });
        let (config, handler) = (server::Config::default(), Arc::new(Echo));
        let serving = serve_on(seams.clone(), config, &mut *listener, ours, handler, shutdown.clone());
        let asking = async {
            let answer = client.call(Bytes::from_static(b"x"), in_seconds(&seams, 5)).await;
            assert_eq!(answer, Ok(Bytes::from_static(b"x")));
            assert_eq!(client.peer().unwrap().cluster, cluster);
            shutdown.cancel();
        };
        tokio::join!(serving, asking);
        // The backlog takes whoever comes before the listener is served once more.
        drop(seams.network.connect(ADDRESS).await.unwrap());
        while client.peer().is_some() {
            seams.spawner.sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_says_goodbye_and_begins_with_nothing_after_it() {
    let seams = Seams::simulated(22);
    let (handler, mut desk) = desk();
    let server = start_plain(&seams, handler).await;
    let mut stream = connect_by_hand(&seams).await;
    stream.write_all(&request_bytes(1, b"before")).await.unwrap();
    desk.next().await.reply.send("answered".into());
    seams.spawner.sleep(Duration::from_millis(10)).await;
    server.shutdown.cancel();
    seams.spawner.sleep(Duration::from_millis(10)).await;
    stream.write_all(&request_bytes(2, b"after")).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let reply = frame::Header::reply(frame::CorrelationId(1), 8);
    assert_eq!(said, [reply.as_slice(), b"answered", frame::Header::goodbye().as_slice()].concat());
    drop(stream);
    server.task.await.unwrap();
    assert!(desk.incoming.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_server_that_says_goodbye_has_not_answered_was_not_begun() {
    let seams = Seams::simulated(23);
    let mut server = ByHand::listen(&seams).await;
    let client = connect_plain(&seams);
    let (answered, unread) = (call(&seams, &client, "a"), call(&seams, &client, "b"));
    let mut stream = server.accept().await;
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let mut request = vec![0; request_bytes(0, b"a").len()];
    stream.read_exact(&mut request).await.unwrap();
    let id = frame::CorrelationId(u64::from_le_bytes(request[5..13].try_into().unwrap()));
    let reply = frame::Header::reply(id, 2);
    stream.write_all(&[reply.as_slice(), b"ok", frame::Header::goodbye().as_slice()].concat()).await.unwrap();
    assert_eq!(answered.await.unwrap(), Ok("ok".into()));
    assert_eq!(unread.await.unwrap(), Err(CallError::NotSent(NotSent::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever() {
    let seams = Seams::simulated(20);
    let (handler, mut desk) = desk();
    let server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let running = call(&seams, &client, "stuck");
    let stuck = desk.next().await;
    server.shutdown.cancel();
    let began = seams.clock.now();
    server.task.await.unwrap();
    assert_eq!(seams.clock.now().since(began), server::Config::default().drain_timeout);
    assert!(running.await.unwrap().unwrap_err().may_have_been_executed());
    stuck.reply.send("nobody listens, and nothing breaks".into());
}
