//! The kind on a whole node, with disk, network and time simulated, through the protocol that gateways speak.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::disk::SimulatedDisk;
use berth_shared::message::{Request, Response};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use serde_json::Value;
use support::{Call, Caller, config, decode};

const SEAT: &str = "hamlet/12";

async fn start(disk: &Arc<SimulatedDisk>, seams: &Seams) -> (app::Handle, Caller) {
    let mut config = config();
    // Minutes pass in these tests, and every shard has something to do in each of their seconds.
    config.cluster.shards = 1;
    let node = support::start_with(super::kinds().unwrap(), config, disk.clone(), seams).await;
    (node, Caller::new(seams, 1))
}

/// Version and state after the command, or the kind's own code of its refusal.
async fn run(caller: &Caller, command: &str, guest: &str, key: &str) -> Result<(u64, Value), String> {
    let body = serde_json::json!({ "guest": guest }).to_string();
    let answer = caller.execute(&Call::new("seat", SEAT, command, &body, key)).await.unwrap();
    match decode(&answer) {
        Response::Executed(executed) => Ok((executed.version, json(executed.state.unwrap()))),
        Response::Refused(refusal) => {
            assert_eq!(refusal.code, Code::Rejected, "{refusal:?}");
            Err(refusal.reason.unwrap().to_owned())
        }
        other => panic!("{other:?}"),
    }
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_runs_the_kind_and_knows_it_again_after_a_restart() {
    let seams = Seams::simulated(1);
    let disk = Arc::new(SimulatedDisk::new());
    let (node, caller) = start(&disk, &seams).await;
    let (version, state) = run(&caller, "hold", "ann", "1").await.unwrap();
    assert_eq!((version, state["held"]["guest"].as_str()), (1, Some("ann")));
    assert_eq!(run(&caller, "hold", "bob", "2").await, Err("held-by-another".to_owned()));
    // The owner's clock, which the node hands in, ends the hold.
    seams.spawner.sleep(Duration::from_mins(11)).await;
    assert_eq!(run(&caller, "buy", "ann", "3").await, Err("not-held".to_owned()));
    run(&caller, "hold", "bob", "4").await.unwrap();
    let sold = run(&caller, "buy", "bob", "5").await.unwrap();
    assert_eq!(sold, (3, serde_json::json!({ "held": null, "soldTo": "bob" })));
    node.shutdown().await.unwrap();

    let (node, caller) = start(&disk, &seams).await;
    let answer = caller.read("seat", SEAT).await.unwrap();
    let Response::State { version, state, .. } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((version, json(state)), sold);
    assert_eq!(run(&caller, "hold", "eve", "6").await, Err("sold".to_owned()));
    let answer = caller.events("seat", SEAT, 0).await.unwrap();
    let Response::Events { events, .. } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!(events.iter().map(|event| event.event_type).collect::<Vec<_>>(), ["held", "held", "sold"]);
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_describes_the_kind_next_to_the_built_in_ones() {
    let seams = Seams::simulated(2);
    let (node, caller) = start(&Arc::new(SimulatedDisk::new()), &seams).await;
    let answer = caller.request(&Request::Kinds).await.unwrap();
    let Response::Kinds { json: kinds } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    let names: Vec<String> =
        json(kinds).as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["account", "cart", "counter", "document", "seat"]);
    node.shutdown().await.unwrap();
}
