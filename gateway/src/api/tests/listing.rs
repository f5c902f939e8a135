//! Listings over nodes that each own some shards, while shards move.

use std::collections::BTreeMap;

use berth_shared::message::{List, ListedEntity};

use super::*;

const COUNTERS: &str = "/v1/entities/counter";

/// The node with this number, in the place of all the shards that it owns.
type Node = u64;

/// Who owns which shard, and the entities there are.
#[derive(Default)]
struct World {
    owners: BTreeMap<u16, Node>,
    terms: BTreeMap<u16, u64>,
    entities: BTreeMap<String, u64>,
    /// Entities that one answer may have, whatever is asked for.
    answer_max: usize,
}

impl World {
    fn new(nodes: u64, ids: impl IntoIterator<Item = String>) -> Self {
        let owners = (0..64).map(|shard| (shard, 1 + u64::from(shard) % nodes)).collect();
        Self {
            owners,
            entities: ids.into_iter().map(|id| (id, 7)).collect(),
            answer_max: usize::MAX,
            ..Self::default()
        }
    }

    fn move_shard(&mut self, shard: u16, to: Node) {
        self.owners.insert(shard, to);
        *self.terms.entry(shard).or_insert(1) += 1;
    }

    fn owner(&self, shard: u16) -> ShardOwner {
        owner(shard, self.owners[&shard], self.terms.get(&shard).copied().unwrap_or(1))
    }

    /// As the node at `address` answers.
    fn list(&self, address: &str, list: &List<'_>) -> Result<Bytes, CallError> {
        let mine = |shard: &ShardId| self.owner(shard.0).address == address;
        let (owned, not_owned): (Vec<ShardId>, Vec<ShardId>) = list.shards.iter().partition(|shard| mine(shard));
        let is_asked = |id: &str| {
            let shard = EntityKey::new(list.kind, id).unwrap().shard(64);
            id.starts_with(list.prefix) && id > list.after && owned.contains(&shard)
        };
        let mut found = self.entities.iter().filter(|(id, _)| is_asked(id));
        let count = self.answer_max.min(list.limit as usize);
        let entities: Vec<_> =
            found.by_ref().take(count).map(|(id, version)| ListedEntity { id, version: *version }).collect();
        let more_after = found.next().and(entities.last()).map(|entity| entity.id);
        let owners = not_owned.iter().map(|shard| self.owner(shard.0)).collect();
        let seen =
            owned.iter().map(|shard| (*shard, Seen { incarnation: 1, index: u64::from(shard.0) + 100 })).collect();
        reply(&Reply::Listed(Listed { entities, more_after, not_owned, owners, seen }))
    }
}

/// A gateway that knows `world` as it is now. `before` every question the world may change.
fn api_over(
    world: &Arc<Mutex<World>>,
    before: impl Fn(&mut World, usize) -> Result<(), CallError> + Send + Sync + 'static,
) -> Api<Scripted> {
    let owners = (0..64).map(|shard| world.lock().owner(shard)).collect();
    let world = world.clone();
    let script = move |address: &str, question: &Question<'_>, n: usize| {
        let Question::List(list) = question else { panic!("{question:?}") };
        let mut world = world.lock();
        before(&mut world, n)?;
        world.list(address, list)
    };
    api_of(16, owners, Box::new(script))
}

fn ids(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    json["entities"].as_array().unwrap().iter().map(|entity| entity["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages, by the links between them.
async fn pages(api: &Api<Scripted>, first: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let answer = ask(api, "GET", &path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        pages.push(ids(&answer));
        next = answer.header("link").map(|link| {
            let (target, rel) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!(rel, "; rel=\"next\"");
            target.to_owned()
        });
        let cursor = answer.json()["next"].as_str().map(str::to_owned);
        assert_eq!(cursor.is_some(), next.is_some());
        assert!(cursor.is_none_or(|cursor| next.as_ref().unwrap().ends_with(&format!("cursor={cursor}"))));
    }
    pages
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("e{n:03}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_page_is_merged_from_all_nodes_each_of_which_is_asked_once() {
    let world = Arc::new(Mutex::new(World::new(3, numbered(250).into_iter().chain(["x\"ü".to_owned()]))));
    let api = api_over(&world, |_, _| Ok(()));
    let first = ask(&api, "GET", &format!("{COUNTERS}?limit=2"), &[], "").await;
    let cursor = cursor::encode("counter", "", "e001");
    let entities = r#"[{"id":"e000","version":7},{"id":"e001","version":7}]"#;
    assert_eq!(first.body, format!(r#"{{"kind":"counter","entities":{entities},"next":"{cursor}"}}"#));
    let link = format!("</v1/entities/counter?limit=2&cursor={cursor}>; rel=\"next\"");
    assert_eq!((first.header("link"), first.header("cache-control")), (Some(link.as_str()), Some("no-cache")));
    assert_eq!(api.forward.nodes().asked(), 3);
    let shards: usize = (1..=3)
        .map(|n| {
            api.forward.nodes().question(n, |address, question| {
                let Question::List(list) = question else { panic!("{question:?}") };
                assert_eq!((list.kind, list.prefix, list.after, list.limit), ("counter", "", "", 2));
                assert!(list.shards.iter().all(|shard| world.lock().owner(shard.0).address == address));
                list.shards.len()
            })
        })
        .sum();
    assert_eq!(shards, 64);

    let token = Token::decode(first.header("berth-session").unwrap()).unwrap();
    for shard in 0..64 {
        let seen = Seen { incarnation: 1, index: u64::from(shard) + 100 };
        assert_eq!(token.requirement(ShardId(shard)), Requirement::AtLeast(seen), "what was listed");
    }
    let before = Token::single(token.cluster(), ShardId(5), Seen { incarnation: 1, index: 9000 });
    let brought = [("berth-session", before.encode())];
    let brought: Vec<_> = brought.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let again = ask(&api, "GET", COUNTERS, &brought, "").await;
    let token = Token::decode(again.header("berth-session").unwrap()).unwrap();
    let seen = |index| Requirement::AtLeast(Seen { incarnation: 1, index });
    assert_eq!((token.requirement(ShardId(5)), token.requirement(ShardId(6))), (seen(9000), seen(106)), "and before");

    let all = pages(&api, COUNTERS).await;
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 51]);
    assert_eq!(all.concat(), world.lock().entities.keys().cloned().collect::<Vec<_>>());
    assert_eq!(pages(&api, &format!("{COUNTERS}?prefix=e24&limit=4")).await.concat(), numbered(250)[240..]);
    assert_eq!(pages(&api, &format!("{COUNTERS}?prefix=x%22")).await, [["x\"ü"]]);
    assert_eq!(pages(&api, &format!("{COUNTERS}?prefix=nobody")).await, [[""; 0]]);
    assert_eq!(ask(&api, "HEAD", COUNTERS, &[], "").await.body.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_from_a_page_that_is_just_full() {
    let world = Arc::new(Mutex::new(World::new(2, numbered(6))));
    let api = api_over(&world, |_, _| Ok(()));
    assert_eq!(pages(&api, &format!("{COUNTERS}?limit=6")).await.len(), 1);
    assert_eq!(pages(&api, &format!("{COUNTERS}?limit=3")).await.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_stays_where_it_is_while_entities_come_and_go() {
    let world = Arc::new(Mutex::new(World::new(3, numbered(10))));
    let api = api_over(&world, |_, _| Ok(()));
    let first = ask(&api, "GET", &format!("{COUNTERS}?limit=4"), &[], "").await;
    {
        let entities = &mut world.lock().entities;
        for gone in ["e003", "e001", "e007"] {
            entities.remove(gone);
        }
        entities.insert("e0015".to_owned(), 1);
        entities.insert("e0045".to_owned(), 1);
    }
    let cursor = first.json()["next"].as_str().unwrap().to_owned();
    let rest = pages(&api, &format!("{COUNTERS}?limit=4&cursor={cursor}")).await;
    assert_eq!(rest.concat(), ["e004", "e0045", "e005", "e006", "e008", "e009"]);
    for (other, status) in [("prefix=e", 400), ("limit=9", 200)] {
        assert_eq!(ask(&api, "GET", &format!("{COUNTERS}?{other}&cursor={cursor}"), &[], "").await.status, status);
    }
    assert_eq!(ask(&api, "GET", &format!("/v1/entities/cart?cursor={cursor}"), &[], "").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_moves_during_the_request_is_asked_for_at_its_next_owner_without_a_pause() {
    let world = Arc::new(Mutex::new(World::new(3, numbered(100))));
    let api = api_over(&world, |world, n| {
        // Before the first node answers, everything of the second goes to the third.
        if n == 1 {
            (0..64).filter(|shard| shard % 3 == 1).for_each(|shard| world.move_shard(shard, 3));
        }
        Ok(())
    });
    let started = api.seams.clock.now();
    let answer = ask(&api, "GET", COUNTERS, &[], "").await;
    assert_eq!((ids(&answer), answer.header("link")), (numbered(100), None));
    assert_eq!((api.seams.clock.now(), api.forward.nodes().asked()), (started, 4));
    api.forward.nodes().question(4, |address, question| {
        let Question::List(list) = question else { panic!("{question:?}") };
        assert_eq!((address, list.shards.len()), ("node-3:1", 21));
    });
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_for_a_while_is_asked_again_and_no_other_is() {
    let world = Arc::new(Mutex::new(World::new(3, numbered(100))));
    // When it is back, others own what it had.
    let api = api_over(&world, |world, n| match n {
        1 => Err(CallError::NotExecuted),
        2 => {
            (0..64).filter(|shard| shard % 3 == 0).for_each(|shard| world.move_shard(shard, 2));
            Ok(())
        }
        3 => Err(CallError::MaybeExecuted),
        _ => Ok(()),
    });
    assert_eq!(ids(&ask(&api, "GET", COUNTERS, &[], "").await), numbered(100));
    let nodes = api.forward.nodes();
    let asked: Vec<String> = (1..=nodes.asked()).map(|n| nodes.question(n, |address, _| address.to_owned())).collect();
    assert_eq!(asked, ["node-1:1", "node-2:1", "node-3:1", "node-1:1", "node-3:1", "node-2:1"]);
    assert!(nodes.doubts.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_owner_of_some_shard_a_listing_is_503_at_its_deadline_and_never_incomplete() {
    let world = Arc::new(Mutex::new(World::new(3, numbered(100))));
    let api = api_over(&world, |_, n| if n == 1 || n == 2 { Ok(()) } else { Err(CallError::NotExecuted) });
    let started = api.seams.clock.now();
    let answer = ask(&api, "GET", COUNTERS, &[("prefer", "wait=2")], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(!answer.json().to_string().contains("node-"), "no address leaks");
    let waited = api.seams.clock.now().since(started);
    assert!(waited <= Duration::from_secs(2) && waited > Duration::from_millis(1800), "{waited:?}");
    let busy = api_with(16, Box::new(|_, _| Err(CallError::Busy)));
    assert_eq!(ask(&busy, "GET", COUNTERS, &[], "").await.status, 429);
    let garbled = api_with(16, Box::new(|_, _| Ok(Bytes::from_static(&[0xff; 9]))));
    assert_eq!(ask(&garbled, "GET", COUNTERS, &[], "").await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_refuses_for_good_is_told_at_once() {
    for (code, status) in [(Code::UnknownKind, 404), (Code::InvalidRequest, 400), (Code::Internal, 500)] {
        let api = api(move |_, _| reply(&Reply::Refused(refused(code))));
        let answer = ask(&api, "GET", COUNTERS, &[], "").await;
        assert_eq!((answer.status, answer.code().as_str(), api.forward.nodes().asked()), (status, code.as_str(), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_stop_early_are_asked_to_go_on_for_the_same_page() {
    let world = Arc::new(Mutex::new(World { answer_max: 7, ..World::new(3, numbered(100)) }));
    let api = api_over(&world, |_, _| Ok(()));
    let answer = ask(&api, "GET", &format!("{COUNTERS}?limit=60"), &[], "").await;
    assert_eq!(ids(&answer), numbered(60));
    assert!(api.forward.nodes().asked() > 6);
    assert_eq!(pages(&api, &format!("{COUNTERS}?limit=60")).await.concat(), numbered(100));
}

/// Much is deleted, say, so that the nodes do not get far. What was found is a page, and the next one goes on behind it.
#[tokio::test(start_paused = true)]
async fn what_was_found_by_the_deadline_is_a_page_that_the_next_one_goes_on_from() {
    let world = Arc::new(Mutex::new(World { answer_max: 2, ..World::new(1, numbered(30)) }));
    let api = api_over(&world, |_, n| if n > 3 { Err(CallError::NotExecuted) } else { Ok(()) });
    let answer = ask(&api, "GET", COUNTERS, &[], "").await;
    let json = answer.json();
    assert_eq!((answer.status, ids(&answer), json["next"].is_string()), (200, numbered(6), true));
    let next = format!("{COUNTERS}?cursor={}", json["next"].as_str().unwrap());
    assert_eq!(ask(&api, "GET", &next, &[], "").await.status, 503, "nothing was found");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// While entities are written and deleted and shards move between the pages and during them: what is there all the time is
    /// listed exactly once, what is never there is not, and the order is that of bytes.
    #[test]
    fn what_stays_is_listed_once_whatever_moves(
        staying in prop::collection::btree_set("[a-e]{1,3}", 0..40),
        others in prop::collection::btree_set("[a-e]{1,3}", 0..20),
        moves in prop::collection::vec((0_u16..64, 1_u64..4, any::<prop::sample::Index>()), 1..200),
        limit in 1_usize..10,
        answer_max in 1_usize..6,
    ) {
        let others: Vec<String> = others.difference(&staying).cloned().collect();
        let world = Arc::new(Mutex::new(World { answer_max, ..World::new(3, staying.iter().cloned()) }));
        let changing = others.clone();
        let api = api_over(&world, move |world, n| {
            let (shard, to, which) = &moves[n % moves.len()];
            world.move_shard(*shard, *to);
            if !changing.is_empty() {
                let id = which.get(&changing).clone();
                if world.entities.remove(&id).is_none() {
                    world.entities.insert(id, 1);
                }
            }
            if n % 11 == 3 { Err(CallError::MaybeExecuted) } else { Ok(()) }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let pages = runtime.block_on(pages(&api, &format!("{COUNTERS}?limit={limit}")));
        prop_assert!(pages.iter().all(|page| page.len() <= limit));
        let found = pages.concat();
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        prop_assert!(staying.iter().all(|id| found.contains(id)), "{found:?}");
        prop_assert!(found.iter().all(|id| staying.contains(id) || others.contains(id)), "{found:?}");
    }
}
