//! Reports of all nodes, for the admin port: this node's own, and those of the others over control connections.

use std::time::Duration;

use futures_util::future::join_all;

use berth_shared::cluster_view::Gathered;
use berth_shared::peer::{self, Class};
use berth_shared::report::{Member, NodeReport};
use berth_shared::seam::Seams;

use super::place::Place;
use crate::transport::wire::NodeRequest;

/// The reports that come within `time`; whose do not is silent.
pub(super) async fn gather(place: &Place, seams: &Seams, time: Duration) -> Gathered {
    let own = place.reporter.report();
    let others = own.members.iter().filter(|member| member.node != own.node);
    let asked =
        others.map(|member| async move { ask(place, seams, time, member).await.ok_or_else(|| member.address.clone()) });
    let (mut reports, mut silent) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(report) => reports.push(report),
            Err(address) => silent.push(address),
        }
    }
    reports.push(own);
    Gathered { reports, silent }
}

async fn ask(place: &Place, seams: &Seams, time: Duration, member: &Member) -> Option<NodeReport> {
    let payload = peer::encode(&NodeRequest::Report).ok()?;
    let deadline = seams.clock.now() + time;
    let answer = place.peers.call(member.node, Class::Control, payload, deadline).await.ok()?;
    peer::decode(&answer).inspect_err(|error| tracing::warn!(%error, "a node's report does not decode")).ok()
}
