//! Puts a listing together out of what the owners of all shards say. Each node is asked once for all of its shards; those that
//! have another owner by then are asked for again there, until the deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_shared::ids::{ShardId, Version};
use berth_shared::message::{List, Request, Response, Seen};
use berth_shared::peer;
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;
use futures_util::future::join_all;

use super::verdict::Attempt;
use super::{ATTEMPT_TIME_MIN, Forward, call_result, pause};
use crate::nodes::{CallError, Nodes};

/// Listings put together at the same time. Each holds up to a page of every node. One more is refused: while it waited for its
/// turn it would hold a place among all requests in flight, which listings must not use up.
pub(super) const LISTINGS_MAX: usize = 32;
/// After so long without an answer, a node is no longer waited for when some of what it was asked for has another owner.
const SILENCE_MAX: Duration = Duration::from_millis(200);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Which entities are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing<'a> {
    pub(crate) kind: &'a str,
    pub(crate) prefix: &'a str,
    /// They come after this id; empty for the first of all.
    pub(crate) after: &'a str,
    pub(crate) limit: usize,
    pub(crate) traceparent: &'a str,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// Ascending by id.
    pub(crate) entities: Vec<(String, Version)>,
    /// There may be more after this id, and none is missing before.
    pub(crate) more_after: Option<String>,
    /// How much of each shard's history may be in it; a shard that was asked more than once is in here as often.
    pub(crate) seen: Vec<(ShardId, Seen)>,
}

/// Why there is no listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A node has said so, and another would say the same.
    Refused(Code, String),
    GivenUp(Code),
}

/// What came of asking one node.
#[derive(Debug)]
enum Asked {
    Listed {
        page: Page,
        not_owned: Vec<ShardId>,
    },
    Refused(Code, String),
    /// Nothing, for now.
    Failed(Attempt),
}

impl<N: Nodes> Forward<N> {
    /// Lists entities within `time`. An entity that existed when this began, and was not deleted meanwhile, is listed.
    pub(crate) async fn list(&self, listing: Listing<'_>, time: Duration) -> Result<Page, Failure> {
        let deadline = self.seams.clock.now() + time;
        let _turn = self.listings.try_acquire().map_err(|_| Failure::GivenUp(Code::Overloaded))?;
        let (mut entities, mut seen) = (Vec::new(), Vec::new());
        let mut after = listing.after.to_owned();
        let mut idle = 0;
        loop {
            let wanted = Listing { after: &after, limit: listing.limit - entities.len(), ..listing };
            let page = match self.page(wanted, deadline).await {
                Ok(page) => page,
                // What was found until then is a page too.
                Err(Failure::GivenUp(_)) if after != listing.after => {
                    return Ok(Page { entities, more_after: Some(after), seen });
                }
                Err(failure) => return Err(failure),
            };
            entities.extend(page.entities);
            seen.extend(page.seen);
            let Some(end) = page.more_after else { return Ok(Page { entities, more_after: None, seen }) };
            if entities.len() >= listing.limit {
                return Ok(Page { entities, more_after: Some(end), seen });
            }
            // Some node has looked at as many rows as it may, deleted ones above all, and is asked to go on.
            if end > after {
                (after, idle) = (end, 0);
            } else {
                self.rest(&mut idle, deadline).await;
            }
        }
    }

    /// Asks every node once, and those again that the shards went to which it did not own.
    async fn page(&self, listing: Listing<'_>, deadline: BootInstant) -> Result<Page, Failure> {
        let mut open: Option<BTreeSet<ShardId>> = None;
        let mut pages = Vec::new();
        let mut pauses = 0;
        // Whether too many others were in the way, the last time.
        let mut is_crowded = false;
        while deadline.since(self.seams.clock.now()) >= ATTEMPT_TIME_MIN {
            let table = self.nodes.table();
            if open.is_none() {
                open = table.shards().map(|shards| (0..shards).map(ShardId).collect());
            }
            let Some(open) = &mut open else {
                self.nodes.doubt();
                self.rest(&mut pauses, deadline).await;
                continue;
            };
            let mut by_owner: BTreeMap<&str, Vec<ShardId>> = BTreeMap::new();
            for owner in table.owners().filter(|owner| open.contains(&owner.shard)) {
                by_owner.entry(&owner.address).or_default().push(owner.shard);
            }
            let asked = by_owner.into_iter().map(|(address, shards)| self.ask(listing, address, shards, deadline));
            let mut is_elsewhere = false;
            is_crowded = false;
            for (shards, asked) in join_all(asked).await {
                match asked {
                    Asked::Refused(code, detail) => return Err(Failure::Refused(code, detail)),
                    Asked::Failed(Attempt::NodeBusy | Attempt::Refused { code: Code::Overloaded, .. }) => {
                        is_crowded = true;
                    }
                    Asked::Failed(_) => {}
                    Asked::Listed { page, not_owned } => {
                        is_elsewhere |= !not_owned.is_empty();
                        let not_owned: BTreeSet<_> = not_owned.into_iter().collect();
                        shards.iter().filter(|shard| !not_owned.contains(shard)).for_each(|shard| {
                            open.remove(shard);
                        });
                        pages.push(page);
                    }
                }
            }
            if open.is_empty() {
                return Ok(together(pages, listing.limit));
            }
            // Who has named the next owners has spared us the wait, once; when shards move faster, they are given time.
            if !(is_elsewhere && pauses == 0 && self.knows_owners(open, &table)) {
                self.nodes.doubt();
                self.rest(&mut pauses, deadline).await;
            } else {
                pauses += 1;
            }
        }
        Err(Failure::GivenUp(if is_crowded { Code::Overloaded } else { Code::Unavailable }))
    }

    /// Whether of each of these shards another owner is known by now than `before`.
    fn knows_owners(&self, shards: &BTreeSet<ShardId>, before: &crate::router::Table) -> bool {
        let now = self.nodes.table();
        shards.iter().all(|shard| now.owner(*shard).is_some_and(|owner| Some(owner) != before.owner(*shard)))
    }

    async fn rest(&self, pauses: &mut u32, deadline: BootInstant) {
        let pause = pause(*pauses, self.seams.random.next_u64());
        *pauses += 1;
        self.seams.spawner.sleep(pause.min(deadline.since(self.seams.clock.now()))).await;
    }

    async fn ask(
        &self,
        listing: Listing<'_>,
        address: &str,
        shards: Vec<ShardId>,
        deadline: BootInstant,
    ) -> (Vec<ShardId>, Asked) {
        let Listing { kind, prefix, after, limit, traceparent } = listing;
        let list = List { shards: shards.clone(), kind, prefix, after, limit: limit as u32, traceparent };
        let Ok(payload) = peer::encode(&Request::List(list)) else {
            return (shards, Asked::Failed(Attempt::NotExecuted));
        };
        let until = deadline.min(self.seams.clock.now() + self.attempt_timeout);
        let answer = self.nodes.call(address, payload, until, self.leaves(address, &shards)).await;
        let asked = match answer {
            Ok(frame) => self.understand(peer::decode(&frame).ok(), after),
            Err(CallError::Busy) => Asked::Failed(Attempt::NodeBusy),
            Err(CallError::NotExecuted) => Asked::Failed(Attempt::NotExecuted),
            Err(CallError::MaybeExecuted) => Asked::Failed(Attempt::MaybeExecuted),
        };
        self.metrics.count_call(call_result(match &asked {
            Asked::Listed { .. } => Attempt::Answered,
            Asked::Refused(code, _) => Attempt::Refused { code: *code, decided: false },
            Asked::Failed(attempt) => *attempt,
        }));
        (shards, asked)
    }

    /// What an answer means; learns the owners that it names.
    fn understand(&self, response: Option<Response<'_>>, after: &str) -> Asked {
        match response {
            Some(Response::Listed(listed)) => {
                listed.owners.into_iter().for_each(|owner| self.nodes.learn(owner));
                let follows = |pair: &[(String, Version)]| pair[0].0 < pair[1].0;
                let entities: Vec<_> =
                    listed.entities.iter().map(|entity| (entity.id.to_owned(), entity.version)).collect();
                let is_sound = entities.first().is_none_or(|(id, _)| id.as_str() > after)
                    && entities.windows(2).all(follows)
                    && listed.more_after.is_none_or(|end| end >= after);
                if !is_sound {
                    return Asked::Failed(Attempt::MaybeExecuted);
                }
                let page = Page { entities, more_after: listed.more_after.map(str::to_owned), seen: listed.seen };
                Asked::Listed { page, not_owned: listed.not_owned }
            }
            Some(Response::Refused(refusal)) => match refusal.code {
                code @ (Code::UnknownKind | Code::InvalidRequest | Code::Internal) => {
                    Asked::Refused(code, refusal.detail.to_owned())
                }
                code => Asked::Failed(Attempt::Refused { code, decided: false }),
            },
            _ => Asked::Failed(Attempt::MaybeExecuted),
        }
    }

    /// Completes when the node at `address` has been silent for a while and has lost one of these shards to another.
    async fn leaves(&self, address: &str, shards: &[ShardId]) {
        self.seams.spawner.sleep(SILENCE_MAX).await;
        loop {
            let table = self.nodes.table();
            if shards.iter().any(|shard| table.owner(*shard).is_none_or(|owner| owner.address != address)) {
                return;
            }
            self.seams.spawner.sleep(LOOK_INTERVAL).await;
        }
    }
}

/// The first `limit` of all pages, as far as each of them goes.
fn together(pages: Vec<Page>, limit: usize) -> Page {
    let mut more_after = pages.iter().filter_map(|page| page.more_after.clone()).min();
    let seen = pages.iter().flat_map(|page| &page.seen).copied().collect();
    let mut entities: Vec<_> = pages.into_iter().flat_map(|page| page.entities).collect();
    if let Some(end) = &more_after {
        entities.retain(|(id, _)| id <= end);
    }
    entities.sort_unstable();
    if entities.len() > limit {
        entities.truncate(limit);
        more_after = entities.last().map(|(id, _)| id.clone());
    }
    Page { entities, more_after, seen }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(ids: &[&str], more_after: Option<&str>) -> Page {
        let entities = ids.iter().map(|id| ((*id).to_owned(), 1)).collect();
        Page { entities, more_after: more_after.map(str::to_owned), seen: Vec::new() }
    }

    #[test]
    fn pages_are_merged_as_far_as_each_of_them_goes() {
        let whole = || page(&["a", "d", "e"], None);
        assert_eq!(together(vec![whole(), page(&["b", "c"], None)], 9), page(&["a", "b", "c", "d", "e"], None));
        assert_eq!(together(vec![whole(), page(&["b"], Some("b"))], 9), page(&["a", "b"], Some("b")));
        assert_eq!(together(vec![whole(), page(&[], Some("dd"))], 9), page(&["a", "d"], Some("dd")));
        assert_eq!(together(vec![whole(), page(&["b"], Some("c"))], 2), page(&["a", "b"], Some("c")));
        assert_eq!(together(vec![whole()], 3), whole());
        assert_eq!(together(vec![whole()], 2), page(&["a", "d"], Some("d")));
        assert_eq!(together(vec![], 2), page(&[], None));
    }

    proptest! {
        /// Nodes that give as many as they like of what they have, asked again from where the page before ended.
        #[test]
        fn paging_over_nodes_finds_every_id_once_and_in_order(
            nodes in prop::collection::vec(prop::collection::btree_set("[a-c]{1,3}", 0..20), 1..5),
            given in prop::collection::vec(1_usize..6, 1..40),
            limit in 1_usize..8,
        ) {
            let all: BTreeSet<String> = nodes.iter().flatten().cloned().collect();
            // An id is on one node.
            let mut seen = BTreeSet::new();
            let nodes: Vec<Vec<String>> = nodes
                .into_iter()
                .map(|ids| ids.into_iter().filter(|id| seen.insert(id.clone())).collect())
                .collect();
            let mut given = given.iter().cycle();
            let (mut found, mut after) = (Vec::new(), Some(String::new()));
            while let Some(from) = after {
                let pages = nodes.iter().map(|ids| {
                    let mut left: Vec<_> = ids.iter().filter(|id| **id > from).map(|id| (id.clone(), 1)).collect();
                    let count = limit.min(*given.next().unwrap());
                    let is_cut = left.len() > count;
                    left.truncate(count);
                    let more_after = left.last().filter(|_| is_cut).map(|(id, _)| id.clone());
                    Page { entities: left, more_after, seen: Vec::new() }
                });
                let page = together(pages.collect(), limit);
                prop_assert!(page.entities.len() <= limit);
                prop_assert!(page.more_after.as_ref().is_none_or(|end| *end > from));
                found.extend(page.entities.into_iter().map(|(id, _)| id));
                after = page.more_after;
            }
            prop_assert_eq!(found, all.into_iter().collect::<Vec<_>>());
        }
    }
}
