//! What a bootstrap that does not come to an end says in the log.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use super::machines::{World, address};

/// Keeps the messages of warnings.
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
        *metadata.level() == Level::WARN && metadata.target().contains("bootstrap")
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

impl Warnings {
    /// The lines that came while `time` passed.
    async fn during(&self, world: &World, time: Duration) -> Vec<String> {
        self.0.lock().clear();
        world.pass(time).await;
        self.0.lock().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_bootstrap_says_every_few_seconds_who_is_missing() {
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let mut world = World::new(1, 3, 3);
    world.start(0);
    assert_eq!(warnings.during(&world, Duration::from_secs(2)).await.len(), 0, "patience comes first");
    let lines = warnings.during(&world, Duration::from_secs(30)).await;
    assert!((5..=8).contains(&lines.len()), "{lines:?}");
    let line = lines.last().unwrap();
    for part in ["no cluster yet", "1 of the 3 fresh nodes", "n1:7400 does not answer", "n2:7400 does not answer"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.contains("nobody listens on n1:7400") && !line.contains('\n'), "{line}");

    world.machines[1].config.settings.shards = 32;
    world.start(1);
    world.start(2);
    let lines = warnings.during(&world, Duration::from_secs(12)).await;
    let differs = "n1:7400 is configured differently: cluster.shards is 32 there and 64 here";
    assert!(lines.iter().any(|line| line.contains(differs)), "{lines:?}");
    assert!(world.clusters().is_empty());

    world.machines[1].kill().await;
    world.machines[1].config.settings.shards = 64;
    world.start(1);
    assert!(world.joins_within(Duration::from_secs(10)).await);
    assert_eq!(warnings.during(&world, Duration::from_secs(30)).await.len(), 0, "all is well");
}

#[tokio::test(start_paused = true)]
async fn an_init_says_which_of_the_named_nodes_it_waits_for() {
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let mut world = World::new(2, 3, 3);
    world.machines[0].config.init = Some(vec![address(0), address(2)]);
    world.start(0);
    let lines = warnings.during(&world, Duration::from_secs(12)).await;
    let line = lines.last().unwrap();
    assert!(line.contains("n2:7400 does not answer") && !line.contains("n1:7400"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_bootstrap_says_which_name_has_no_address_and_who_is_not_listed() {
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let mut world = World::named(3, 2, 2);
    world.start(0);
    let lines = warnings.during(&world, Duration::from_secs(12)).await;
    let line = lines.last().unwrap();
    let unresolved = "the seed nodes.test:7400 does not resolve: DNS knows no address of nodes.test";
    assert!(line.contains(unresolved) && line.contains("its address 10.0.0.0:7400 is none of the seeds'"), "{line}");

    world.list([1]);
    let lines = warnings.during(&world, Duration::from_secs(20)).await;
    let line = lines.last().unwrap();
    assert!(line.contains("10.0.0.1:7400 does not answer") && !line.contains("does not resolve"), "{line}");
}
