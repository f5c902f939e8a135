//! Bounds that gRPC shares with REST: of requests in flight, of an entity, and of a caller in a time.

use berth_shared::config::HumanDuration;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// While a command of REST waits for the node, what calls of the same entity come to.
async fn beside_a_command(config: Config) -> [Result<(), Status>; 4] {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, config).await;
    node.does(Does::Hang);
    let hanging = seams.spawner.spawn({
        let seams = seams.clone();
        async move { ask(&seams, "POST", PUBLIC, ADD, &[], "").await.status }
    });
    while node.asked() == 0 {
        seams.spawner.sleep(Duration::from_millis(1)).await;
    }
    node.does(Does::Answer);
    let mut client = entities(&seams).await;
    let results = [
        client.execute(add()).await.map(drop),
        client.delete(delete()).await.map(drop),
        client.get(alice()).await.map(drop),
        client.get(GetRequest { id: "bob".to_owned(), ..alice() }).await.map(drop),
    ];
    // Live histories take no place of others.
    client.watch(watch(0)).await.unwrap();
    node.answer_hanging();
    assert_eq!(hanging.await.unwrap(), 200);
    client.execute(add()).await.unwrap();
    results
}

fn assert_overloaded(result: &Result<(), Status>) {
    let status = result.as_ref().unwrap_err();
    assert_eq!((status.code(), reason(status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test(start_paused = true)]
async fn one_place_in_flight_is_shared_with_rest() {
    beside_a_command(Config { in_flight_max: 1, ..Config::default() }).await.iter().for_each(assert_overloaded);
}

#[tokio::test(start_paused = true)]
async fn one_place_of_an_entity_is_shared_with_rest() {
    let [execute, delete, get, other] =
        beside_a_command(Config { in_flight_per_entity_max: 1, ..Config::default() }).await;
    [execute, delete].iter().for_each(assert_overloaded);
    // Reads of the entity have places of their own.
    get.unwrap();
    other.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_shared_with_rest_and_health_is_free() {
    let seams = Seams::simulated(1);
    let mut config = Config::default();
    (config.rate_limit.requests, config.rate_limit.window) = (3, HumanDuration::from_secs(60));
    let (_node, _gateway) = node_and_gateway(&seams, config).await;
    let mut health = HealthClient::with_origin(channel(&seams).await, ORIGIN.parse().unwrap());
    for _ in 0..5 {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap();
        assert!(answer.metadata().get("ratelimit").is_none());
    }
    let mut client = entities(&seams).await;
    let first = client.execute(add()).await.unwrap();
    assert_eq!(first.metadata().get("ratelimit").unwrap(), "\"caller\";r=2;t=20");
    assert_eq!(first.metadata().get("ratelimit-policy").unwrap(), "\"caller\";q=3;w=60");
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "").await.status, 200);
    client.get(GetRequest { id: "\n".to_owned(), ..alice() }).await.unwrap_err();
    let status = client.execute(add()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (GrpcCode::ResourceExhausted, "overloaded"));
    let retry = status.get_error_details().retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(20)), "when there is one more");
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "").await.status, 429);
}
