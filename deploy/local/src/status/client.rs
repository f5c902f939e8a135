//! Asks an admin port for everything that is shown.

use berth_shared::seam::Seams;

use super::Seen;
use crate::admin_port::{Access, Address, Error, ask};

const HINT: &str = "Give the admin port of a gateway or a node with --address URL";

pub(super) async fn look(seams: &Seams, address: &Address, access: &Access) -> Result<Seen, Error> {
    ask(seams, address, access, HINT, async |asking| {
        let cluster = asking.get("/v1/cluster").await?;
        let shards = asking.get("/v1/cluster/shards").await?;
        Ok(Seen { cluster, shards, at_micros: seams.clock.wall_micros() })
    })
    .await
}
