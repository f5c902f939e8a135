//! Gossip's twin in a deterministic simulation: the nodes of one world meet in memory, every interval, and each judges by its
//! own clock who has fallen silent. A node can be cut off from gossip alone, while its network works, and the other way round.
//! Nothing in it is random, and nothing takes time but the pause between two meetings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::Edition;
use berth_shared::seam::BootInstant;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::view::{Observed, View, tell};
use super::{Engine, FORGOTTEN_AFTER, Facts, Gossip, Here, INTERVAL, Members};

/// A node is suspected after this long without news of it, as with the library.
const SILENCE_MAX: Duration = Duration::from_millis(1400);

/// The nodes of one world. Clones are the same world.
#[derive(Clone, Debug, Default)]
pub struct Simulated {
    board: Arc<Mutex<Board>>,
}

#[derive(Debug, Default)]
struct Board {
    /// Bounded by the nodes of a run.
    notes: BTreeMap<(ClusterId, NodeId), Note>,
    /// Addresses of nodes that are cut off.
    cut: BTreeSet<String>,
}

/// What a node has said last.
#[derive(Clone, Debug)]
struct Note {
    edition: Edition,
    heartbeat: u64,
    facts: Arc<Facts>,
}

impl Simulated {
    /// From now on the node at `address` neither hears others by gossip nor is heard, or is again.
    pub fn set_cut(&self, address: &str, is_cut: bool) {
        let cut = &mut self.board.lock().cut;
        if is_cut {
            cut.insert(address.to_owned());
        } else {
            cut.remove(address);
        }
    }
}

impl Engine for Simulated {
    fn join(&self, here: Here, facts: Facts) -> Arc<dyn Gossip> {
        let (members, generation) = (watch::Sender::new(Arc::default()), here.seams.clock.wall_micros() / 1000);
        let note = Note { edition: Edition { generation, revision: 1 }, heartbeat: 0, facts: Arc::new(facts) };
        let meeting = Meeting { world: self.clone(), here: here.clone(), members, own: Mutex::new(note) };
        let (meeting, stop) = (Arc::new(meeting), CancellationToken::new());
        let task = meeting.clone().run();
        here.seams.spawner.spawn(stop.clone().run_until_cancelled_owned(task));
        Arc::new(Attending { meeting, _stops_with_this: stop.clone().drop_guard(), stop })
    }
}

#[derive(Debug)]
struct Attending {
    meeting: Arc<Meeting>,
    stop: CancellationToken,
    _stops_with_this: DropGuard,
}

impl Gossip for Attending {
    fn publish(&self, facts: Facts) {
        let mut own = self.meeting.own.lock();
        if *own.facts != facts {
            own.facts = Arc::new(facts);
            own.edition.revision += 1;
        }
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.meeting.members.subscribe()
    }

    /// The twin sends nothing.
    fn receive(&self, _: &str, _: Bytes) {}

    fn leave(&self, facts: Facts) -> BoxFuture<'_, ()> {
        self.publish(facts);
        self.meeting.speak();
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        Box::pin(std::future::ready(()))
    }
}

/// One node's part.
#[derive(Debug)]
struct Meeting {
    world: Simulated,
    here: Here,
    members: watch::Sender<Arc<Members>>,
    own: Mutex<Note>,
}

/// What was heard of a node, and when it last was news.
#[derive(Debug)]
struct Heard {
    note: Note,
    at: BootInstant,
}

impl Meeting {
    async fn run(self: Arc<Self>) {
        let (mut heard, mut view) = (BTreeMap::new(), View::default());
        loop {
            self.speak();
            self.listen(&mut heard);
            self.show(&heard, &mut view);
            self.here.seams.spawner.sleep(INTERVAL).await;
        }
    }

    fn speak(&self) {
        let mut own = self.own.lock();
        own.heartbeat += 1;
        let mut board = self.world.board.lock();
        if !board.cut.contains(&self.here.address) {
            board.notes.insert((self.here.cluster, self.here.node), own.clone());
        }
    }

    fn listen(&self, heard: &mut BTreeMap<NodeId, Heard>) {
        let now = self.here.seams.clock.now();
        heard.insert(self.here.node, Heard { note: self.own.lock().clone(), at: now });
        let board = self.world.board.lock();
        if board.cut.contains(&self.here.address) {
            return;
        }
        let ours = board.notes.iter().filter(|((cluster, _), _)| *cluster == self.here.cluster);
        for ((_, node), note) in ours.filter(|((_, node), _)| *node != self.here.node) {
            let known = heard.get(node).map(|heard| (heard.note.edition.generation, heard.note.heartbeat));
            // The first that is heard of a start may be long past; the second is not.
            let at = match known {
                Some((generation, heartbeat)) if generation == note.edition.generation => {
                    if heartbeat == note.heartbeat {
                        continue;
                    }
                    now
                }
                _ => now - SILENCE_MAX,
            };
            heard.insert(*node, Heard { note: note.clone(), at });
        }
    }

    fn show(&self, heard: &BTreeMap<NodeId, Heard>, view: &mut View) {
        let now = self.here.seams.clock.now();
        // Who is forgotten stays in `heard`, so that an old note is no news again.
        let kept = heard.iter().filter(|(_, heard)| now.since(heard.at) < FORGOTTEN_AFTER + SILENCE_MAX);
        let observed = kept.map(|(node, Heard { note, at })| Observed {
            node: *node,
            edition: note.edition,
            facts: note.facts.clone(),
            is_live: now.since(*at) < SILENCE_MAX,
        });
        let members = view.members(now, &observed.collect::<Vec<_>>());
        self.members.send_if_modified(|known| {
            let is_news = **known != members;
            if is_news {
                tell(self.here.node, known, &members);
                *known = Arc::new(members);
            }
            is_news
        });
    }
}
