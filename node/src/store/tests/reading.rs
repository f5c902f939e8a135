//! What reads answer, from memory and from the file.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_closed_is_read_again_after_a_restart() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    let marks = [HashMark { index: 1024, content_hash: 9 }].into_iter().collect();
    let membership = Membership { log_id: Some(LogId { term: 1, index: 1 }), bytes: Bytes::from_static(b"voters") };
    let head = ShardHead { membership, content_hash: 1 << 100, hash_marks: marks, incarnation: 2, ..head(5) };
    let snapshot = Some(Snapshot { version: 2, state: Bytes::from_static(b"{\"value\":2}") });
    let entity = EntityChange { deleted: true, snapshot, ..added("a", 1, 3, 10) };
    let outcomes = vec![outcome(Lane::Client, 1), outcome(Lane::Gateway, 1)];
    let all = Changes { head: head.clone(), outcomes: outcomes.clone(), ..changes(5, vec![entity]) };
    store.write(all).await.unwrap();
    let before = store.entity(SHARD, &key("a")).unwrap();
    assert_eq!(store.close().await.unwrap().applied.get(&SHARD), Some(&LogId { term: 1, index: 5 }));

    let store = open(&disk).await;
    assert_eq!((store.shards(), store.shard_head(SHARD)), (vec![SHARD], Some(head)));
    let entity = store.entity(SHARD, &key("a")).unwrap();
    assert_eq!(entity, before);
    let entity = entity.unwrap();
    assert_eq!((entity.version, entity.deleted, entity.last_event_time_micros), (3, true, 1003));
    assert_eq!(entity.snapshot.unwrap().state, "{\"value\":2}");
    assert_eq!((entity.events.as_slice(), entity.event_bytes), ([event(3, "7777777777")].as_slice(), 13 + 5 + 10));
    for outcome in outcomes {
        assert_eq!(store.outcome(SHARD, outcome.lane, 1).unwrap(), Some(outcome));
    }
    assert_eq!(store.checkpointed().applied.get(&SHARD), Some(&LogId { term: 1, index: 5 }));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_is_not_there() {
    let store = open(&SimulatedDisk::new()).await;
    assert_eq!((store.shards(), store.shard_head(SHARD)), (vec![], None));
    assert_eq!(store.entity(SHARD, &key("a")).unwrap(), None);
    assert_eq!(store.events(SHARD, &key("a"), 0, 10, 1000).unwrap(), None);
    assert_eq!(store.outcome(SHARD, Lane::Client, 1).unwrap(), None);
    store.write(changes(1, vec![added("a", 1, 1, 1)])).await.unwrap();
    for id in ["b", "a b", "A"] {
        assert_eq!(store.entity(SHARD, &key(id)).unwrap(), None);
    }
    assert_eq!(store.entity(ShardId(4), &key("a")).unwrap(), None);
    assert_eq!(outcome_index(&store, ShardId(4)), []);
}

#[tokio::test(start_paused = true)]
async fn many_entities_are_read_at_once_and_in_order() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    store.write(changes(1, vec![added("a", 1, 1, 1), added("b", 1, 2, 1)])).await.unwrap();
    store.flush();
    store.write(changes(2, vec![added("b", 3, 3, 1)])).await.unwrap();
    let read = store.entities(SHARD, &[key("b"), key("none"), key("a")]).unwrap();
    let versions: Vec<_> = read.into_iter().map(|entity| entity.map(|entity| entity.version)).collect();
    assert_eq!(versions, [Some(3), None, Some(1)]);
}

#[tokio::test(start_paused = true)]
async fn history_pages_join_up_whatever_rows_the_events_are_in() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    // A row of several events, some of one, some of more than a row may hold, and some that are in memory only.
    let written = [(1, 1, 10), (2, 70, 1500), (71, 72, 70_000), (73, 73, 5)];
    for (index, (from, to, bytes)) in written.into_iter().enumerate() {
        store.write(changes(index as u64 + 1, vec![added("a", from, to, bytes)])).await.unwrap();
        store.flush();
    }
    store.write(changes(9, vec![added("a", 74, 80, 3)])).await.unwrap();

    let versions = |after, limit, bytes_max| {
        let page = store.events(SHARD, &key("a"), after, limit, bytes_max).unwrap().unwrap();
        (page.events.iter().map(|event| event.version).collect::<Vec<_>>(), page.next)
    };
    for limit in [1, 2, 3, 7, 64, 80, 1000] {
        for bytes_max in [0, 5000, 1 << 20] {
            let (mut seen, mut after) = (Vec::new(), Some(0));
            while let Some(from) = after {
                let (page, next) = versions(from, limit, bytes_max);
                assert!(page.len() <= limit && !page.is_empty());
                seen.extend(page);
                after = next;
            }
            assert_eq!(seen, (1..=80).collect::<Vec<_>>(), "limit {limit}, {bytes_max} bytes");
        }
    }
    assert_eq!(versions(68, 5, 1 << 20), (vec![69, 70, 71, 72, 73], Some(73)));
    assert_eq!(versions(0, 100, 5 * (13 + 5 + 1500)), (vec![1, 2, 3, 4, 5], Some(5)), "as many as fit");
    assert_eq!(versions(70, 9, 100), (vec![71], Some(71)), "one at least");
    assert_eq!(versions(71, 100, 70_000 + 18 + 22), (vec![72], Some(72)), "a smaller one behind is not pulled forward");
    assert_eq!(versions(78, 5, 1000), (vec![79, 80], None));
    assert_eq!(versions(80, 5, 1000), (vec![], None));
    assert_eq!(versions(u64::MAX, 5, 1000), (vec![], None));
}

#[tokio::test(start_paused = true)]
async fn a_hot_entity_takes_few_rows() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    for index in 1..=500 {
        store.write(changes(index, vec![added("hot", index * 2 - 1, index * 2, 20)])).await.unwrap();
    }
    store.checkpoint().await.unwrap();
    assert_eq!(store.statistics().rows_written, 3, "a head of the shard, one of the entity, 1,000 events in one row");
}

#[tokio::test(start_paused = true)]
async fn the_newest_snapshot_counts_even_when_it_comes_late() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let snapshot = |version: Version| Some(Snapshot { version, state: Bytes::from(version.to_string()) });
    let only_snapshot = |of: Version, at| EntityChange { snapshot: snapshot(at), ..added("a", of + 1, of, 1) };
    store.write(changes(1, vec![added("a", 1, 6, 10)])).await.unwrap();
    store.flush();
    store.write(changes(2, vec![only_snapshot(6, 4)])).await.unwrap();
    store.write(changes(2, vec![only_snapshot(6, 2)])).await.unwrap();
    store.write(changes(3, vec![added("a", 7, 8, 10)])).await.unwrap();
    for stage in ["queued", "flushed", "older in the queue"] {
        let entity = store.entity(SHARD, &key("a")).unwrap().unwrap();
        assert_eq!((entity.version, entity.last_event_time_micros), (8, 1008), "{stage}");
        assert_eq!(entity.snapshot, snapshot(4), "{stage}");
        assert_eq!(entity.events.iter().map(|event| event.version).collect::<Vec<_>>(), [5, 6, 7, 8], "{stage}");
        match stage {
            "queued" => store.flush(),
            _ => store.write(changes(3, vec![only_snapshot(8, 3)])).await.unwrap(),
        }
    }
    store.close().await.unwrap();
    let entity = open(&disk).await.entity(SHARD, &key("a")).unwrap().unwrap();
    assert_eq!((entity.snapshot, entity.events.len()), (snapshot(4), 4));
}

#[tokio::test(start_paused = true)]
async fn expired_outcomes_are_gone_in_their_lane_wherever_they_are() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let rows = |lane, rows: std::ops::Range<u64>| rows.map(move |row| outcome(lane, row));
    let with = |index, outcomes: Vec<OutcomeRow>, gateway, client| Changes {
        outcomes,
        expired: RowBounds { gateway, client },
        ..changes(index, vec![])
    };
    let both = rows(Lane::Gateway, 1..6).chain(rows(Lane::Client, 1..4)).collect();
    store.write(with(1, both, 0, 0)).await.unwrap();
    store.flush();
    store.write(with(2, rows(Lane::Gateway, 6..9).collect(), 7, 0)).await.unwrap();

    let expected = [(Lane::Gateway, 7), (Lane::Gateway, 8), (Lane::Client, 1), (Lane::Client, 2), (Lane::Client, 3)];
    for stage in ["queued", "flushed"] {
        assert_eq!(outcome_index(&store, SHARD), expected, "{stage}");
        assert_eq!(store.outcome(SHARD, Lane::Gateway, 6).unwrap(), None, "{stage}");
        assert_eq!(store.outcome(SHARD, Lane::Gateway, 1).unwrap(), None, "{stage}");
        assert_eq!(store.outcome(SHARD, Lane::Client, 1).unwrap(), Some(outcome(Lane::Client, 1)), "{stage}");
        store.flush();
    }
    store.write(with(3, vec![], 7, 3)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(outcome_index(&open(&disk).await, SHARD), [(Lane::Gateway, 7), (Lane::Gateway, 8), (Lane::Client, 3)]);
}

#[tokio::test(start_paused = true)]
async fn changes_that_do_not_follow_are_refused_and_leave_no_trace() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    store.write(changes(5, vec![added("a", 1, 3, 1)])).await.unwrap();
    let _writing = store.take_layer();
    let gap = EntityChange { events: vec![event(4, "x"), event(6, "x")], version: 6, ..added("a", 4, 4, 1) };
    let future_snapshot =
        EntityChange { snapshot: Some(Snapshot { version: 5, state: Bytes::new() }), ..added("a", 4, 4, 1) };
    let long_type = EntityChange {
        events: vec![StoredEvent { event_type: vec![b'x'; 256].into(), ..event(4, "x") }],
        ..added("a", 4, 4, 1)
    };
    let generation = Changes { head: ShardHead { generation: 1, ..head(6) }, ..changes(6, vec![]) };
    for refused in [
        changes(6, vec![added("a", 3, 4, 1)]),
        changes(6, vec![added("a", 5, 5, 1)]),
        changes(6, vec![added("b", 1, 2, 1), added("b", 2, 3, 1)]),
        changes(6, vec![added("b", 1, 0, 1)]),
        changes(6, vec![gap]),
        changes(6, vec![future_snapshot]),
        changes(6, vec![long_type]),
        changes(4, vec![]),
        generation,
    ] {
        let shown = format!("{refused:?}");
        assert!(matches!(store.write(refused).await, Err(Error::Sequence(_))), "{shown}");
    }
    assert_eq!(store.shard_head(SHARD), Some(head(5)));
    assert_eq!(store.entity(SHARD, &key("b")).unwrap(), None);
    store.write(changes(6, vec![added("a", 4, 4, 1), added("a", 5, 5, 1)])).await.unwrap();
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().unwrap().version, 5);
}

/// On real files, with real threads: what readers see only ever grows, and is whole, while it moves into the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_the_same_time_see_whole_and_growing_histories() {
    const LAST: Version = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let disk = crate::disk::DirectoryDisk::open(directory.path()).unwrap();
    let config = Config {
        flush_interval: Duration::from_millis(1),
        checkpoint_interval: Duration::from_millis(20),
        queue_bytes_max: 30_000,
        ..Config::default()
    };
    let seams = Seams::system();
    let store = Store::open(&disk, flushed_journal(), config.clone(), seams.clone()).await.unwrap();
    let read_all = |store: Store| {
        move || {
            let (mut seen, mut reads) = (0, 0);
            while seen < LAST {
                let Some(entity) = store.entity(SHARD, &key("a")).unwrap() else { continue };
                let snapshot = entity.snapshot.map_or(0, |snapshot| snapshot.version);
                let versions: Vec<_> = entity.events.iter().map(|event| event.version).collect();
                assert_eq!(versions, (snapshot + 1..=entity.version).collect::<Vec<_>>());
                assert!(entity.version >= seen, "{} after {seen}", entity.version);
                let page = store.events(SHARD, &key("a"), seen, 100, 1 << 20).unwrap().unwrap();
                assert!(page.events.iter().zip(seen + 1..).all(|(event, version)| event.version == version));
                (seen, reads) = (entity.version, reads + 1);
            }
            reads
        }
    };
    let readers: Vec<_> =
        (0..2).map(|_| seams.spawner.spawn(Box::pin(seams.spawner.blocking(read_all(store.clone()))))).collect();
    for version in 1..=LAST {
        let snapshot = (version % 50 == 0).then(|| Snapshot { version, state: Bytes::from_static(b"{}") });
        let change = EntityChange { snapshot, ..added("a", version, version, 50) };
        store.write(changes(version, vec![change])).await.unwrap();
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    assert!(store.statistics().flushes > 3 && store.statistics().queued_bytes < 30_500);
    store.close().await.unwrap();
    let store = Store::open(&disk, flushed_journal(), config, seams).await.unwrap();
    assert_eq!(store.entity(SHARD, &key("a")).unwrap().unwrap().version, LAST);
}
