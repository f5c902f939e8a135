//! Seeds on a DNS in memory, in paused time.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::seam::Network;
use crate::seam::dns::{MemoryResolver, Resolved, Resolver};
use crate::seam::network::{Listener, MemoryNetwork, Stream};

const REFRESH_MAX: Duration = Duration::from_secs(5);

/// A network whose names are asked for, and how often they were.
#[derive(Debug)]
struct Named {
    network: MemoryNetwork,
    names: MemoryResolver,
    questions: Arc<AtomicUsize>,
}

impl Network for Named {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        self.network.connect(address)
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }

    fn resolver(&self) -> Option<&dyn Resolver> {
        Some(self)
    }
}

impl Resolver for Named {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Resolved>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.names.resolve(host)
    }
}

struct World {
    seams: Seams,
    names: MemoryResolver,
    questions: Arc<AtomicUsize>,
}

impl World {
    fn new(valid_for: Duration) -> Self {
        let (names, questions) = (MemoryResolver::new(valid_for), Arc::new(AtomicUsize::new(0)));
        let network = Named { network: MemoryNetwork::default(), names: names.clone(), questions: questions.clone() };
        Self { seams: Seams { network: Arc::new(network), ..Seams::simulated(1) }, names, questions }
    }

    fn start(&self, configured: &[&str]) -> Seeds {
        let configured: Vec<String> = configured.iter().map(|seed| (*seed).to_owned()).collect();
        Seeds::start(&configured, REFRESH_MAX, &self.seams)
    }

    fn set(&self, host: &str, addresses: impl IntoIterator<Item = u8>) {
        self.names.set(host, addresses.into_iter().map(ip));
    }

    async fn pass(&self, seconds: u64) {
        self.seams.spawner.sleep(Duration::from_secs(seconds)).await;
    }

    /// How many questions were asked while `seconds` passed.
    async fn questions_in(&self, seconds: u64) -> usize {
        let before = self.questions.load(Ordering::Relaxed);
        self.pass(seconds).await;
        self.questions.load(Ordering::Relaxed) - before
    }
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// Counts lines from the level of a warning on.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warnings")
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_stand_for_themselves_and_nobody_asks_for_them() {
    let world = World::new(Duration::ZERO);
    let seeds = world.start(&["10.0.0.9:7400", "[::1]:7400", "10.0.0.1:7400"]);
    assert_eq!(seeds.current().addresses(), ["10.0.0.1:7400", "10.0.0.9:7400", "[::1]:7400"]);
    assert!(seeds.current().is_fixed());
    seeds.asked().await;
    assert_eq!(world.questions_in(600).await, 0);

    // Nor for names on a network that has no DNS.
    let (configured, seams) = (["b:1".to_owned(), "a:1".to_owned()], Seams::simulated(1));
    let seeds = Seeds::start(&configured, REFRESH_MAX, &seams);
    assert_eq!(seeds.current().addresses(), ["a:1", "b:1"]);
    assert!(seeds.current().is_fixed());
}

#[tokio::test(start_paused = true)]
async fn every_address_of_a_name_is_a_seed_and_follows_dns() {
    let world = World::new(Duration::from_secs(2));
    world.set("nodes", [3, 1, 3]);
    let seeds = world.start(&["nodes:7400", "10.0.0.1:7400"]);
    assert_eq!(seeds.current().addresses(), ["10.0.0.1:7400"]);
    assert!(!seeds.current().is_fixed());
    seeds.asked().await;
    assert_eq!(seeds.current().addresses(), ["10.0.0.1:7400", "10.0.0.3:7400"]);
    let mut changes = seeds.changes();
    changes.borrow_and_update();
    world.set("nodes", [4]);
    changes.changed().await.unwrap();
    assert_eq!(seeds.current().addresses(), ["10.0.0.1:7400", "10.0.0.4:7400"]);
    world.pass(600).await;
    assert!(!changes.has_changed().unwrap(), "the same answer is no news");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_as_long_as_it_holds_within_bounds() {
    for (valid_for, least, most) in [(0, 85, 100), (2, 40, 50), (30, 16, 20)] {
        let world = World::new(Duration::from_secs(valid_for));
        world.set("nodes", [1]);
        let seeds = world.start(&["nodes:7400"]);
        seeds.asked().await;
        let asked = world.questions_in(100).await;
        assert!((least..=most).contains(&asked), "{asked} questions for answers of {valid_for} s");
        drop(seeds);
        world.pass(1).await;
        assert_eq!(world.questions_in(100).await, 0, "nobody wants them");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_stays_through_an_outage_which_is_one_warning_and_no_storm() {
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    let world = World::new(Duration::from_secs(1));
    world.set("nodes", [1, 2]);
    let seeds = world.start(&["nodes:7400"]);
    seeds.asked().await;
    let known = seeds.current();
    for outages in 1..=2 {
        world.names.set_down(true);
        world.pass(3).await;
        let asked = world.questions_in(500).await;
        assert!((85..=100).contains(&asked), "{asked} questions");
        assert_eq!((seeds.current(), warnings.0.load(Ordering::Relaxed)), (known.clone(), outages));
        // A name without addresses helps nobody either.
        world.names.set_down(false);
        world.set("nodes", []);
        world.pass(60).await;
        assert_eq!((seeds.current(), warnings.0.load(Ordering::Relaxed)), (known.clone(), outages));
        world.set("nodes", [1, 2]);
        world.pass(10).await;
    }
    world.set("nodes", [3]);
    world.pass(10).await;
    assert_eq!(seeds.current().addresses(), ["10.0.0.3:7400"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_never_resolves_is_named_with_its_reason() {
    let world = World::new(Duration::from_secs(1));
    world.set("nodes", [1]);
    let seeds = world.start(&["nodes:7400", "nowhere:7400"]);
    assert_eq!(seeds.current().unresolved().count(), 2);
    seeds.asked().await;
    let reasons: Vec<(String, String)> =
        seeds.current().unresolved().map(|(seed, why)| (seed.to_owned(), why.to_owned())).collect();
    assert_eq!(reasons, [("nowhere:7400".to_owned(), "DNS knows no address of nowhere".to_owned())]);
    world.set("nowhere", [7]);
    world.pass(10).await;
    assert_eq!(seeds.current().unresolved().count(), 0);
    assert_eq!(seeds.current().addresses(), ["10.0.0.1:7400", "10.0.0.7:7400"]);
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_addresses_at_most() {
    let world = World::new(Duration::from_secs(1));
    let many = |net: u8| (0..2000u16).map(move |n| IpAddr::from([10, net, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
    world.names.set("a", many(1));
    world.names.set("b", many(2));
    let seeds = world.start(&["a:1", "b:1", "192.0.2.1:1"]);
    seeds.asked().await;
    let current = seeds.current();
    assert_eq!(current.addresses().len(), ADDRESSES_MAX + 1);
    assert_eq!(current.seeds()[0].addresses().len(), ADDRESSES_MAX);
    assert!(current.addresses().contains(&"192.0.2.1:1".to_owned()));
}
