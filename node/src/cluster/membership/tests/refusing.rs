//! Nodes that do not belong together, and what both say of it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::ClusterId;
use berth_shared::seam::Seams;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::machines::{CLUSTER, Machine};
use crate::cluster::membership::Chitchat;

/// Keeps the warnings of the peer protocol.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().contains("peer")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().push(message.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The warnings of half a minute in which this node tries to join the cluster of the first.
async fn warnings(seed: u64, cluster: ClusterId, [first, second]: [Option<&str>; 2]) -> Vec<String> {
    let seams = Seams::simulated(seed);
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let seed = Machine::with_credential(&Chitchat, &seams, 1, CLUSTER, first).await;
    let stranger = Machine::with_credential(&Chitchat, &seams, 2, cluster, second).await;
    seams.spawner.sleep(Duration::from_secs(30)).await;
    assert_eq!(seed.knows(), [(1, false)]);
    assert_eq!(stranger.knows(), [(2, false)]);
    let mut warnings = warnings.0.lock().clone();
    warnings.sort();
    warnings
}

/// What each side says.
fn on_each_side(line: &str) -> [String; 2] {
    [format!("not connected: the peer refused: {line}"), format!("refused the peer: {line}")]
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_refused_with_one_line_on_each_side() {
    let other = ClusterId(8);
    let line = format!("this is cluster {CLUSTER}, and the peer belongs to {other}");
    assert_eq!(warnings(11, other, [None, None]).await, on_each_side(&line));
}

#[tokio::test(start_paused = true)]
async fn a_node_with_another_credential_is_refused_with_one_line_on_each_side() {
    let wrong = warnings(12, CLUSTER, [Some("right"), Some("wrong")]).await;
    assert_eq!(wrong, on_each_side("the credential is wrong"));
    let missing = warnings(13, CLUSTER, [Some("right"), None]).await;
    assert_eq!(missing, on_each_side("a credential is required"));
}
