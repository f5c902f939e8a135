//! The shell around the decisions of bootstrap: asks all seeds, persists what was decided, and answers the questions of
//! others meanwhile. One task owns the node's identity, and nothing is answered before it is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::peer::{self, Class, Client};
use berth_shared::seam::network::Listener;
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::seeds::Seeds;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::answerer::{Proposal, Service};
use super::decide::{Decision, Seen, View, are_at, decide, may_accept};
use super::{Answerer, Ask, InitRecord, Obstacle, Settings, Status};
use crate::cluster::identity::{self, Identity, Role};
use crate::disk::Disk;
use crate::transport::wire::NodeRequest;

/// Between two rounds of questions, a quarter more at random, so that nodes do not stay in step.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How long a question may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long the same nodes must have been fresh before fewer than all seeds become a cluster.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// The same where a name among the seeds has addresses at which nobody answers, or none: there may be a cluster behind it,
/// whose nodes do not answer just now, and fresh ones may come to be there at any time.
const UNHEARD_SETTLED_AFTER: Duration = Duration::from_secs(30);
/// Longest time between two questions for a name among the seeds. DNS may say 30 s, for which a first start need not wait.
const REFRESH_MAX: Duration = Duration::from_secs(5);
/// A bootstrap that takes longer than this says why …
const PATIENCE: Duration = Duration::from_secs(3);
/// … and again after as long as this.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a member goes on answering after it has joined, so that the others see it before its ports belong to the cluster.
const LINGER: Duration = Duration::from_millis(500);
/// Longest pause between attempts to connect to a seed.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Config {
    /// Peer addresses of the first nodes, this one's among them unless it comes later. The addresses of a name are those that
    /// DNS has of it at the time.
    pub seeds: Vec<String>,
    pub settings: Settings,
    /// The addresses of the nodes that the operator makes a cluster of (`--init --members`), this one's among them.
    pub init: Option<Vec<String>>,
    /// What all pods of the cluster share, if anything.
    pub credential: Option<String>,
    /// Name and version of the program, for the logs of others.
    pub software: String,
}

/// A node that is part of a cluster for good.
pub struct Joined {
    pub identity: Identity,
    pub cluster: ClusterId,
    pub role: Role,
    /// To be served by the node from here on.
    pub listener: Box<dyn Listener>,
    /// Goes on answering the nodes that have not joined yet.
    pub answerer: Answerer,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error("--init is refused: {0}")]
    Init(String),
}

/// Brings a node into a cluster: at once where its directory knows one, otherwise as soon as there is one. Serves `listener`
/// until then. Dropping the future is as good as a crash: what was answered is on disk.
pub async fn run(
    config: Config,
    identity: Identity,
    disk: Arc<dyn Disk>,
    mut listener: Box<dyn Listener>,
    seams: Seams,
) -> Result<Joined, Error> {
    let Settings { shards, replicas, .. } = config.settings;
    // With `--init`, what was accepted and not acted on may be replaced as a whole.
    if config.init.is_none() || identity.cluster.is_some() {
        identity.check_settings(shards, replicas)?;
    }
    check_init(&config, &identity)?;
    let (answerer, proposals) = Answerer::new(&identity, config.settings);
    if let (Some(cluster), Some(role)) = (identity.cluster, identity.role()) {
        return Ok(Joined { identity, cluster, role, listener, answerer });
    }
    let speaker = peer::Identity {
        role: peer::Role::Node,
        node: Some(identity.node),
        cluster: None,
        software: config.software.clone(),
        credential: config.credential.clone(),
    };
    let (stop, service) = (CancellationToken::new(), Arc::new(Service(answerer.clone())));
    let server = peer::server::Config::default();
    let serving = peer::serve_on(seams.clone(), server, &mut *listener, speaker.clone(), service, stop.clone());
    tracing::info!(node = %identity.node, seeds = ?config.seeds, "the node looks for its cluster");
    let founding = Founding::new(config, identity, disk, answerer.clone(), proposals, seams, speaker);
    let both = async {
        let joined = founding.run().await;
        stop.cancel();
        joined
    };
    let (joined, ()) = tokio::join!(both, serving);
    let (identity, cluster, role) = joined?;
    Ok(Joined { identity, cluster, role, listener, answerer })
}

/// An `--init` that was carried out already is nothing to refuse: programs are started again with the same arguments.
fn check_init(config: &Config, identity: &Identity) -> Result<(), Error> {
    let Some(addresses) = &config.init else { return Ok(()) };
    if !addresses.contains(&identity.address) {
        return Err(Error::Init(format!("this node's own address, {}, is not among --members", identity.address)));
    }
    let Some(cluster) = identity.cluster else { return Ok(()) };
    if identity.record().is_some_and(|record| are_at(&record.members, addresses)) {
        return Ok(());
    }
    Err(Error::Init(format!("this node has joined cluster {cluster} already")))
}

/// A node on its way into a cluster.
struct Founding {
    config: Config,
    identity: Identity,
    disk: Arc<dyn Disk>,
    answerer: Answerer,
    proposals: mpsc::Receiver<Proposal>,
    seams: Seams,
    speaker: peer::Identity,
    /// Those that are not this node's own address as others know it.
    seeds: Seeds,
    /// One for each address that is asked.
    clients: BTreeMap<String, Client>,
    round: Round,
    /// Since when rounds have been like the last one.
    settled_since: BootInstant,
    report_at: BootInstant,
    /// The last record that was not accepted, and why: said once, because it is proposed again and again.
    refused: Option<(ClusterId, &'static str)>,
}

/// What must stay the same for a while before fewer than all seeds become a cluster.
#[derive(Default, PartialEq, Eq)]
struct Round {
    fresh: BTreeSet<NodeId>,
    seeds: Vec<String>,
}

impl Founding {
    fn new(
        config: Config,
        identity: Identity,
        disk: Arc<dyn Disk>,
        answerer: Answerer,
        proposals: mpsc::Receiver<Proposal>,
        seams: Seams,
        speaker: peer::Identity,
    ) -> Self {
        let now = seams.clock.now();
        let others: Vec<String> = config.seeds.iter().filter(|seed| **seed != identity.address).cloned().collect();
        let seeds = Seeds::start(&others, REFRESH_MAX, &seams);
        Self {
            config,
            identity,
            disk,
            answerer,
            proposals,
            seams,
            speaker,
            seeds,
            clients: BTreeMap::new(),
            round: Round::default(),
            settled_since: now,
            report_at: now + PATIENCE,
            refused: None,
        }
    }

    async fn run(mut self) -> Result<(Identity, ClusterId, Role), Error> {
        let (asked, spawner) = (self.seeds.asked(), self.seams.spawner);
        self.attend(async move { spawner.timeout(ANSWER_MAX, asked).await }).await?;
        loop {
            let seeds = self.current_seeds();
            self.reach(&seeds);
            let everybody = self.clients.keys().cloned().collect();
            let round = self.ask(everybody, Ask::Status);
            let seen = self.attend(round).await?;
            match self.decide(seeds, &seen) {
                Decision::Wait(obstacles) => self.report(&obstacles),
                Decision::Found(members) => {
                    let Settings { shards, replicas, .. } = self.config.settings;
                    let cluster = ClusterId(self.seams.random.next_u128());
                    let record = InitRecord { cluster, members, shards, replicas };
                    tracing::info!(%cluster, members = ?addresses(&record), "this node proposes a cluster");
                    self.change(|identity| identity.accepted = Some(record)).await?;
                    continue;
                }
                Decision::Propose { to, force, obstacles } => {
                    self.report(&obstacles);
                    // All have accepted, so the next round will show it. Where force is used, another operator may use it
                    // too, and pauses of different lengths keep the two from undoing each other's work for ever.
                    if self.propose(to, force).await? && !force {
                        continue;
                    }
                }
                Decision::JoinAsMember(record) => {
                    let cluster = record.cluster;
                    tracing::info!(%cluster, members = ?addresses(&record), "this node is a member of a new cluster");
                    self.change(|identity| {
                        identity.accepted = Some(record);
                        identity.cluster = Some(cluster);
                    })
                    .await?;
                    self.linger().await;
                    return Ok((self.identity, cluster, Role::Member));
                }
                Decision::JoinLater(cluster) => {
                    tracing::info!(
                        %cluster,
                        "this node joins a cluster that began without it; it holds no shards until a plan gives it some"
                    );
                    self.change(|identity| identity.cluster = Some(cluster)).await?;
                    return Ok((self.identity, cluster, Role::Joining));
                }
                Decision::Refuse(obstacle) => return Err(Error::Init(obstacle.to_string())),
            }
            let jitter = Duration::from_nanos(self.seams.random.next_u64() % (ROUND_PAUSE.as_nanos() as u64 / 4));
            let spawner = self.seams.spawner;
            self.attend(async move { spawner.sleep(ROUND_PAUSE + jitter).await }).await?;
        }
    }

    /// Does `work`, and answers proposals until it is done.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                // Never closed, because this task holds an answerer.
                Some(proposal) = self.proposals.recv() => self.consider(proposal).await?,
                done = &mut work => return Ok(done),
            }
        }
    }

    async fn consider(&mut self, proposal: Proposal) -> Result<(), Error> {
        let Proposal { record, force, from, reply } = proposal;
        let cluster = record.cluster;
        match self.may_accept(&record, force) {
            Ok(()) if self.identity.accepted.as_ref() == Some(&record) => {}
            Ok(()) => {
                tracing::info!(by = ?from, %cluster, force, members = ?addresses(&record), "this node accepts a record");
                self.change(|identity| identity.accepted = Some(record)).await?;
            }
            Err(why) if self.refused != Some((cluster, why)) => {
                self.refused = Some((cluster, why));
                tracing::warn!(by = ?from, %cluster, "a record was not accepted: {why}");
            }
            Err(_) => {}
        }
        self.answerer.send_status(reply);
        Ok(())
    }

    fn may_accept(&self, record: &InitRecord, force: bool) -> Result<(), &'static str> {
        if self.config.init.is_some() && !force && self.identity.accepted.as_ref() != Some(record) {
            // Its operator has decided otherwise, and must not have to take this acceptance back.
            return Err("this node was started with --init");
        }
        may_accept(&self.identity, self.config.settings, record, force)
    }

    /// Changes the identity on disk, then in memory, then in what others are told.
    async fn change(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
        let mut next = self.identity.clone();
        change(&mut next);
        let (disk, written) = (self.disk.clone(), next.clone());
        self.seams.spawner.blocking(move || written.write(&*disk)).await?;
        self.answerer.publish(&next);
        self.identity = next;
        Ok(())
    }

    /// What the seeds stand for now.
    fn current_seeds(&self) -> Vec<String> {
        let mut addresses = self.seeds.current().addresses();
        if self.config.seeds.contains(&self.identity.address) && !addresses.contains(&self.identity.address) {
            addresses.push(self.identity.address.clone());
        }
        addresses
    }

    /// After one round of questions to `seeds`.
    fn decide(&mut self, seeds: Vec<String>, seen: &BTreeMap<String, Seen>) -> Decision {
        let now = self.seams.clock.now();
        let is_fresh = |status: &Status| status.accepted.is_none() && status.cluster.is_none();
        let fresh = seen.values().filter_map(|seen| match seen {
            Seen::Answered(status) if is_fresh(status) => Some(status.node),
            _ => None,
        });
        let round = Round { fresh: fresh.collect(), seeds };
        if round != self.round {
            (self.round, self.settled_since) = (round, now);
        }
        let names = self.seeds.current();
        let unresolved: Vec<_> = names.unresolved().map(|(seed, why)| (seed.to_owned(), why.to_owned())).collect();
        let is_silent = |seed: &String| matches!(seen.get(seed), Some(Seen::Silent(_)));
        let is_unheard = !unresolved.is_empty() || self.round.seeds.iter().any(is_silent);
        let settled_after = if is_unheard && !names.is_fixed() { UNHEARD_SETTLED_AFTER } else { SETTLED_AFTER };
        decide(&View {
            own: &self.identity,
            settings: self.config.settings,
            seeds: &self.round.seeds,
            unresolved: &unresolved,
            is_fixed: names.is_fixed(),
            init: self.config.init.as_deref(),
            seen,
            is_settled: now.since(self.settled_since) >= settled_after,
        })
    }

    /// Keeps a connection to every address that matters, those of the `seeds` among them.
    fn reach(&mut self, seeds: &[String]) {
        let accepted = self.identity.accepted.iter().flat_map(|record| &record.members);
        let mut wanted: BTreeSet<&String> = seeds.iter().collect();
        wanted.extend(self.config.init.iter().flatten());
        wanted.extend(accepted.map(|member| &member.address));
        wanted.remove(&self.identity.address);
        self.clients.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if !self.clients.contains_key(address) {
                let config = peer::client::Config { backoff_max: RECONNECT_MAX, ..peer::client::Config::default() };
                let (seams, speaker) = (self.seams.clone(), self.speaker.clone());
                let client = Client::new(seams, config, address.clone(), Class::Control, speaker, None);
                self.clients.insert(address.clone(), client);
            }
        }
    }

    /// Asks all of `addresses` at the same time. The future holds nothing of this node's.
    fn ask(&self, addresses: Vec<String>, ask: Ask) -> impl Future<Output = BTreeMap<String, Seen>> + use<> {
        let deadline = self.seams.clock.now() + ANSWER_MAX;
        let question = peer::encode(&NodeRequest::Bootstrap(ask));
        let question = question.inspect_err(|error| tracing::error!(%error, "a question cannot be encoded")).ok();
        let clients = addresses.into_iter().filter_map(|address| {
            let client = self.clients.get(&address)?.clone();
            Some((address, client, question.clone()?))
        });
        let asked: Vec<_> = clients
            .map(|(address, client, question)| async move {
                let seen = ask_one(&client, question, deadline).await;
                (address, seen)
            })
            .collect();
        async move { join_all(asked).await.into_iter().collect() }
    }

    /// Whether all of `to` have accepted.
    async fn propose(&mut self, to: Vec<String>, force: bool) -> Result<bool, Error> {
        let Some(record) = self.identity.accepted.clone() else { return Ok(false) };
        let asked = to.len();
        let proposing = self.ask(to, Ask::Propose { record: record.clone(), force });
        let answers = self.attend(proposing).await?;
        let accepted = |seen: &&Seen| matches!(seen, Seen::Answered(s) if s.accepted.as_ref() == Some(&record));
        Ok(answers.values().filter(accepted).count() == asked)
    }

    /// Says in one line what is missing, when it has been missing for a while.
    fn report(&mut self, obstacles: &[Obstacle]) {
        let now = self.seams.clock.now();
        if now < self.report_at || obstacles.is_empty() {
            return;
        }
        self.report_at = now + REPORT_INTERVAL;
        let obstacles: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
        tracing::warn!(node = %self.identity.node, "this node has no cluster yet: {}", obstacles.join("; "));
    }

    async fn linger(&mut self) {
        let alone = self.identity.record().is_none_or(|record| record.members.len() == 1);
        // What is asked meanwhile is answered by the status; a proposal is one of the same record, or too late.
        self.proposals.close();
        while let Ok(Proposal { reply, .. }) = self.proposals.try_recv() {
            self.answerer.send_status(reply);
        }
        if !alone {
            self.seams.spawner.sleep(LINGER).await;
        }
    }
}

async fn ask_one(client: &Client, question: Bytes, deadline: BootInstant) -> Seen {
    match client.call(question, deadline).await {
        Ok(answer) => match peer::decode::<Status>(&answer) {
            Ok(status) => Seen::Answered(status),
            Err(_) => Seen::Silent("its answer makes no sense".to_owned()),
        },
        Err(error) => Seen::Silent(error.to_string()),
    }
}

fn addresses(record: &InitRecord) -> Vec<&str> {
    record.members.iter().map(|member| member.address.as_str()).collect()
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("identity", &self.identity).field("role", &self.role).finish_non_exhaustive()
    }
}
