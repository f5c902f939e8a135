//! The network between pods with TLS both ways (mTLS): a network that wraps another one's streams. Each side shows a
//! certificate of the cluster's authority; see `verify` for whom the other takes it for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{self, Identity};
use super::stream::ServerStream;
use super::verify::{Clients, Names, Servers};
use super::{invalid, provider, wall};
use crate::seam::Seams;
use crate::seam::dns::Resolver;
use crate::seam::network::{Listener, Network, Stream};
use crate::watched::{self, Watched};

/// Where the certificates of a pod are.
#[derive(Clone, Debug)]
pub struct MutualConfig {
    /// Its own certificate, and those that lead to the authority.
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// The cluster's authority, or several while one replaces another.
    pub ca_file: PathBuf,
    /// Names one of which a pod's certificate must have; empty: any.
    pub names: Vec<String>,
}

/// Streams with TLS both ways over another network's.
pub struct TlsNetwork {
    inner: Arc<dyn Network>,
    sides: Watched<Sides>,
}

/// What both directions work with.
struct Sides {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl TlsNetwork {
    /// Over the network of `seams`. The files are read again when they change, for new connections.
    pub async fn start(config: MutualConfig, seams: &Seams) -> Result<Self, watched::Error> {
        let MutualConfig { certificate_file, key_file, ca_file, names } = config;
        let of = seams.clone();
        let parse = move |contents: &[Vec<u8>]| match contents {
            [certificates, key, authorities] => Sides::new(certificates, key, authorities, &names, &of),
            _ => Err("three files are needed".to_owned()),
        };
        let sides = Watched::start(vec![certificate_file, key_file, ca_file], seams, parse).await?;
        Ok(Self { inner: seams.network.clone(), sides })
    }
}

impl Sides {
    fn new(
        certificates: &[u8],
        key: &[u8],
        authorities: &[u8],
        names: &[String],
        seams: &Seams,
    ) -> Result<Self, String> {
        let Identity { chain, key } = Identity::parse(certificates, key)?;
        let roots = Arc::new(identity::authorities(authorities)?);
        let (names, provider) = (Names::parse(names)?, provider());
        let said = |error: rustls::Error| error.to_string();
        // Pods are of one age: the newest version alone.
        let versions = &[&rustls::version::TLS13];
        let servers = Servers { roots: roots.clone(), names: names.clone(), provider: provider.clone() };
        let mut client = ClientConfig::builder_with_details(provider.clone(), wall(seams))
            .with_protocol_versions(versions)
            .map_err(said)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(said)?;
        client.resumption = Resumption::disabled();
        let clients = Clients::new(roots, names, provider.clone())?;
        let mut server = ServerConfig::builder_with_details(provider, wall(seams))
            .with_protocol_versions(versions)
            .map_err(said)?
            .with_client_cert_verifier(Arc::new(clients))
            .with_single_cert(chain, key)
            .map_err(said)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

impl Network for TlsNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let stream = self.inner.connect(address).await?;
            // Only said, and not looked at; see `verify`. An address that is no name would not be said either.
            let name = ServerName::try_from("berth").map_err(invalid)?;
            let connected = TlsConnector::from(self.sides.get().client.clone()).connect(name, stream).await;
            Ok(Box::new(connected.map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))?) as Stream)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = self.inner.listen(address).await?;
            Ok(Box::new(TlsListener { inner, sides: self.sides.clone() }) as Box<dyn Listener>)
        })
    }

    fn resolver(&self) -> Option<&dyn Resolver> {
        self.inner.resolver()
    }
}

struct TlsListener {
    inner: Box<dyn Listener>,
    sides: Watched<Sides>,
}

impl Listener for TlsListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            let (stream, address) = self.inner.accept().await?;
            let greeting = TlsAcceptor::from(self.sides.get().server.clone()).accept(stream);
            Ok((Box::new(ServerStream::Greeting(Box::new(greeting))) as Stream, address))
        })
    }

    fn local_address(&self) -> io::Result<String> {
        self.inner.local_address()
    }
}

impl fmt::Debug for TlsNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsNetwork").field("inner", &self.inner).finish_non_exhaustive()
    }
}
