//! What a node does while it hosts the system shard: it follows the plan in it, has the first one made where it is one of
//! those that begin the cluster, and makes the next ones while it leads.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use berth_shared::seam::Seams;

use super::place::Place;
use crate::cluster::planner::Planner;
use crate::cluster::system;
use crate::config::Config;
use crate::transport::hosting::Hosted;

/// Follows the replica as it comes and goes; until it is dropped.
pub(super) async fn run(place: Arc<Place>, config: Config, seams: Seams) {
    let mut system = place.hosting.watch_system();
    loop {
        let hosted = system.borrow_and_update().clone();
        // What was begun for the replica before ends here.
        let while_hosted = CancellationToken::new();
        let _end = while_hosted.clone().drop_guard();
        if let Some(hosted) = hosted {
            begin(&place, &config, &hosted, &seams, &while_hosted);
        }
        if system.changed().await.is_err() {
            return;
        }
    }
}

fn begin(place: &Arc<Place>, config: &Config, hosted: &Arc<Hosted>, seams: &Seams, until: &CancellationToken) {
    system::follow(hosted.shard.clone(), place.plans.clone(), seams, until.clone());
    let (group, mailbox, registry) = (hosted.group.clone(), hosted.mailbox.clone(), hosted.shard.registry().clone());
    if let Some(record) = place.identity.record().filter(|_| !place.identity.founded).cloned() {
        let plan = place.plans.watch();
        let (group, mailbox, registry) = (group.clone(), mailbox.clone(), registry.clone());
        let make_first = system::initialise(record, group, mailbox, registry, plan, seams.clone(), until.clone());
        seams.spawner.spawn(make_first);
    }
    let peers = place.peers.clone();
    let planner = Planner {
        node: place.identity.node,
        replace_after: config.cluster.replace_after.0,
        shard: hosted.shard.clone(),
        group,
        mailbox,
        registry,
        members: place.gossip.members(),
        connected: Arc::new(move || peers.connected()),
        newest: place.plans.watch(),
        seams: seams.clone(),
    };
    seams.spawner.spawn(until.clone().run_until_cancelled_owned(planner.run()));
}
