//! Peers that are silent, gone, or say what is not theirs to say.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_stays_and_a_dead_one_goes() {
    let seams = Seams::simulated(21);
    let (handler, mut desk) = desk();
    let server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let (_, _, pushes) = desk.peers.recv().await.unwrap();
    seams.spawner.sleep(Duration::from_mins(2)).await;
    assert!(!pushes.is_closed() && client.peer().is_some(), "pings keep it");
    assert!(desk.peers.try_recv().is_err(), "there was no second connection");
    drop((client, server.shutdown.drop_guard()));
    server.task.await.unwrap();

    let mut dead = ByHand::listen(&seams).await;
    let client = connect_plain(&seams);
    let began = seams.clock.now();
    let config = client::Config { in_flight_max: 1, ..Default::default() };
    let running = {
        let (client, deadline) = (client.clone(), in_seconds(&seams, 60));
        seams.spawner.spawn(async move { client.call("x".into(), deadline).await })
    };
    let _says_nothing = dead.accept().await;
    assert_eq!(running.await.unwrap(), Err(CallError::Lost));
    let took = seams.clock.now().since(began);
    assert!(took >= config.silence_max && took < config.silence_max + Duration::from_millis(50), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_by_both_sides() {
    let seams = Seams::simulated(30);
    let server = start_plain(&seams, Arc::new(Echo)).await;
    let mut answer = [0; 5];
    let mut stream = connect_by_hand(&seams).await;
    stream.write_all(frame::Header::ping().as_slice()).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, frame::Header::pong().as_slice());
    drop(stream);
    server.shutdown.cancel();
    server.task.await.unwrap();

    let mut by_hand = ByHand::listen(&seams).await;
    let _client = connect_plain(&seams);
    let mut stream = by_hand.accept().await;
    stream.write_all(frame::Header::ping().as_slice()).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, frame::Header::pong().as_slice());
}

#[tokio::test(start_paused = true)]
async fn a_server_gives_up_a_silent_client() {
    let seams = Seams::simulated(22);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let mut stream = connect_by_hand(&seams).await;
    let (_, _, pushes) = desk.peers.recv().await.unwrap();
    let began = seams.clock.now();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, frame::Header::ping().as_slice(), "it asked once");
    assert!(pushes.is_closed());
    assert!(seams.clock.now().since(began) < Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_greets_is_cut_off() {
    let seams = Seams::simulated(23);
    let _server = start_plain(&seams, Arc::new(Echo)).await;
    let mut stream = seams.network.connect(ADDRESS).await.unwrap();
    stream.write_all(b"BRT").await.unwrap();
    let began = seams.clock.now();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(seams.clock.now().since(began), server::Config::default().handshake_timeout);
}

/// Counts attempts to connect, all of which fail.
#[derive(Debug, Default)]
struct Unreachable(AtomicUsize);

impl Network for Unreachable {
    fn connect<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn listen<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_become_rare_but_do_not_end() {
    let network = Arc::new(Unreachable::default());
    let seams = Seams { network: network.clone(), ..Seams::simulated(24) };
    let _client = connect_plain(&seams);
    let mut attempts = Vec::new();
    for _ in 0..4 {
        seams.spawner.sleep(Duration::from_secs(10)).await;
        attempts.push(network.0.swap(0, Ordering::Relaxed));
    }
    assert!((8..25).contains(&attempts[0]), "{attempts:?}");
    assert!(attempts[1..].iter().all(|n| (4..=11).contains(n)), "{attempts:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_do_not_come_back_in_step() {
    let seams = Seams::simulated(25);
    let clients: Vec<_> = (0..20).map(|_| connect_plain(&seams)).collect();
    seams.spawner.sleep(Duration::from_secs(20)).await;
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let mut times = HashSet::new();
    for _ in &clients {
        desk.peers.recv().await.unwrap();
        times.insert(seams.clock.now());
    }
    assert!(times.len() > 10, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn what_only_the_other_side_may_send_closes_the_connection() {
    let seams = Seams::simulated(26);
    let _server = start_plain(&seams, Arc::new(Echo)).await;
    let mut stream = connect_by_hand(&seams).await;
    stream.write_all(frame::Header::push(0).as_slice()).await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);

    let seams = Seams::simulated(27);
    let mut server = ByHand::listen(&seams).await;
    let client = connect_plain(&seams);
    let running = call(&seams, &client, "x");
    let mut stream = server.accept().await;
    let mut request = vec![0; request_bytes(0, b"x").len()];
    stream.read_exact(&mut request).await.unwrap();
    stream.write_all(&request_bytes(0, b"x")).await.unwrap();
    assert_eq!(running.await.unwrap(), Err(CallError::Lost));
}
