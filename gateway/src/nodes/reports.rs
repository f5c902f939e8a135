//! Gathers what all nodes say of themselves, for operators.

use std::time::Duration;

use berth_shared::cluster_view::Gathered;
use berth_shared::message::{Request, Response};
use berth_shared::peer::{self, Client};
use berth_shared::report::NodeReport;
use futures_util::future::join_all;

use super::{Connections, Nodes};

/// How long nodes have to send their reports.
const GATHER_TIME: Duration = Duration::from_secs(1);

impl Connections {
    /// Asks every known node at once. Who does not answer in time, or is of another cluster, is named as silent.
    pub(crate) async fn gather(&self) -> Gathered {
        let clients: Vec<Client> = self.snapshot.load().clients.values().cloned().collect();
        let asked = clients.iter().map(|client| async { (client.address(), self.report_of(client).await) });
        let mut gathered = Gathered::default();
        for (address, report) in join_all(asked).await {
            match report {
                Some(report) => gathered.reports.push(report),
                None => gathered.silent.push(address.to_owned()),
            }
        }
        gathered
    }

    /// How many shards the cluster has, once a node has said so.
    pub(crate) fn shards(&self) -> Option<u16> {
        self.table().shards()
    }

    async fn report_of(&self, client: &Client) -> Option<NodeReport> {
        let request = peer::encode(&Request::Report).ok()?;
        let deadline = self.seams.clock.now() + GATHER_TIME;
        let answer = client.call(request, deadline).await.ok()?;
        let Ok(Response::Report(report)) = peer::decode(&answer) else { return None };
        let known = self.snapshot.load().cluster;
        known.is_none_or(|known| known == report.cluster).then_some(*report)
    }
}
