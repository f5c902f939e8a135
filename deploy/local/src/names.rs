//! Names instead of addresses for the nodes of a local cluster. A node belongs to one address for ever, but the ports of a
//! machine are taken by others from one start to the next; so the address is a name, and this network knows its port.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use berth_shared::seam::Network;
use berth_shared::seam::network::{Listener, Stream};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;

/// Another network with names, of which there is one per node.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    network: Arc<dyn Network>,
    /// `None` until the node listens.
    addresses: Arc<RwLock<HashMap<String, Option<String>>>>,
}

impl Names {
    /// `names` lead nowhere yet.
    pub(crate) fn over(network: Arc<dyn Network>, names: impl IntoIterator<Item = String>) -> Self {
        let addresses = names.into_iter().map(|name| (name, None)).collect();
        Self { network, addresses: Arc::new(RwLock::new(addresses)) }
    }

    /// From now on `name` leads to `address`.
    pub(crate) fn set(&self, name: &str, address: &str) {
        self.addresses.write().insert(name.to_owned(), Some(address.to_owned()));
    }
}

impl Network for Names {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let named = self.addresses.read().get(address).cloned();
            match named {
                None => self.network.connect(address).await,
                Some(Some(address)) => self.network.connect(&address).await,
                // Not asked of the system, which may look for such a name for seconds.
                Some(None) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the node does not listen yet")),
            }
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }
}

#[cfg(test)]
mod tests {
    use berth_shared::seam::network::MemoryNetwork;

    use super::*;

    #[tokio::test]
    async fn a_name_leads_to_where_its_node_listens_now() {
        let names = Names::over(Arc::new(MemoryNetwork::default()), ["node-1:7400".to_owned()]);
        let refused = names.connect("node-1:7400").await.err().unwrap();
        assert_eq!(refused.to_string(), "the node does not listen yet");
        for _ in 0..2 {
            let mut listener = names.listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_address().unwrap();
            names.set("node-1:7400", &address);
            let _named = names.connect("node-1:7400").await.unwrap();
            let _plain = names.connect(&address).await.unwrap();
            listener.accept().await.unwrap();
            listener.accept().await.unwrap();
        }
    }
}
