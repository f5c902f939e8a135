//! Which entities are listed, wherever on the way into the file they are.

use super::*;

/// All of `span` after `after`, gathered in stretches of so many rows.
fn list(store: &Store, kind: &str, prefix: &str, after: &str, rows_max: usize) -> Vec<(String, Version)> {
    let span = Span { kind: kind.to_owned(), prefix: prefix.to_owned() };
    let (mut found, mut next) = (Vec::new(), Some(after.to_owned()));
    while let Some(from) = next {
        let [stretch] =
            <[Stretch; 1]>::try_from(store.list(&span, &[(SHARD, from.clone())], rows_max).unwrap()).unwrap();
        assert!(stretch.entities.len() <= stretch.rows && stretch.rows <= 3 * rows_max, "{stretch:?}");
        let ids: Vec<_> = stretch.entities.iter().map(|(id, _)| id.clone()).collect();
        assert!(ids.iter().all(|id| *id > from) && ids.is_sorted(), "{stretch:?} after {from}");
        assert!(stretch.more_after.as_ref().is_none_or(|end| *end > from && ids.iter().all(|id| id <= end)));
        found.extend(stretch.entities);
        next = stretch.more_after;
    }
    found
}

fn ids(listed: &[(String, Version)]) -> Vec<&str> {
    listed.iter().map(|(id, _)| id.as_str()).collect()
}

fn deleted(id: &str, version: Version) -> EntityChange {
    EntityChange { deleted: true, ..added(id, version, version, 1) }
}

fn of_kind(kind: &str, change: EntityChange) -> EntityChange {
    EntityChange { key: EntityKey::new(kind, change.key.id()).unwrap(), ..change }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_file_in_a_layer_being_written_and_in_the_one_that_fills_is_listed_as_its_newest_version_says() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    let first = ["a", "b", "c", "d"].map(|id| added(id, 1, 1, 1)).to_vec();
    store.write(changes(1, first)).await.unwrap();
    store.flush();
    store.write(changes(2, vec![deleted("b", 2), added("c", 2, 2, 1), added("e", 1, 3, 1)])).await.unwrap();
    let layer = store.take_layer().unwrap();
    store
        .write(changes(3, vec![added("b", 3, 3, 1), deleted("d", 2), deleted("e", 4), added("f", 1, 1, 1)]))
        .await
        .unwrap();

    let expected = [("a", 1), ("b", 3), ("c", 2), ("f", 1)].map(|(id, version)| (id.to_owned(), version));
    for stage in ["in three places", "one of them twice", "in two places", "in the file"] {
        for rows_max in [1, 2, 3, 100] {
            assert_eq!(list(&store, "counter", "", "", rows_max), expected, "{stage}, {rows_max}");
        }
        match stage {
            "in three places" => store.write_layer(&layer),
            "one of them twice" => store.drop_layer(),
            _ => store.flush(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn prefix_and_kind_are_compared_as_bytes_and_nothing_else_is_listed() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    let names = ["a", "a!", "a/b", "aa", "ab", "b", "\u{fc}", "\u{10ffff}", "z"];
    let entities = names.map(|id| added(id, 1, 1, 1)).to_vec();
    store.write(changes(1, entities)).await.unwrap();
    let others = ["counte", "counter-", "counter2"].map(|kind| of_kind(kind, added("a", 1, 1, 1))).to_vec();
    store.write(changes(2, others)).await.unwrap();
    for stage in ["queued", "flushed"] {
        for rows_max in [1, 4, 100] {
            let listed = |prefix, after| list(&store, "counter", prefix, after, rows_max);
            assert_eq!(
                ids(&listed("", "")),
                ["a", "a!", "a/b", "aa", "ab", "b", "z", "\u{fc}", "\u{10ffff}"],
                "{stage}"
            );
            assert_eq!(ids(&listed("a", "")), ["a", "a!", "a/b", "aa", "ab"], "{stage}");
            assert_eq!(ids(&listed("a", "a/b")), ["aa", "ab"], "{stage}");
            assert_eq!(ids(&listed("a", "a/")), ["a/b", "aa", "ab"], "an id that nobody has: {stage}");
            assert_eq!(ids(&listed("a", "b")), [""; 0], "{stage}");
            assert_eq!(ids(&listed("b", "a")), ["b"], "{stage}");
            assert_eq!(ids(&listed("\u{fc}", "")), ["\u{fc}"], "{stage}");
            assert_eq!(ids(&listed("\u{10ffff}", "")), ["\u{10ffff}"], "{stage}");
            assert_eq!(ids(&list(&store, "counter-", "", "", rows_max)), ["a"], "{stage}");
            assert_eq!(ids(&list(&store, "count", "", "", rows_max)), [""; 0], "{stage}");
        }
        store.flush();
    }
}

#[tokio::test(start_paused = true)]
async fn shards_are_listed_apart_and_one_of_which_nothing_was_written_is_empty() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    for (shard, id) in [(3, "a"), (4, "b"), (5, "c")] {
        store.write(Changes { shard: ShardId(shard), ..changes(1, vec![added(id, 1, 1, 1)]) }).await.unwrap();
        store.flush();
    }
    store.delete(ShardId(5)).await.unwrap();
    let span = Span { kind: "counter".to_owned(), prefix: String::new() };
    let starts = [4, 9, 3, 5].map(|shard| (ShardId(shard), String::new()));
    let listed = store.list(&span, &starts, 10).unwrap();
    let found: Vec<_> = listed.iter().map(|stretch| ids(&stretch.entities)).collect();
    assert_eq!(found, [vec!["b"], vec![], vec!["a"], vec![]]);
    assert!(listed.iter().all(|stretch| stretch.more_after.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_stretch_looks_at_no_more_rows_than_it_may_however_many_are_deleted() {
    let store = open_with(&SimulatedDisk::new(), idle_config()).await;
    let many: Vec<_> = (0..500).map(|n| deleted(&format!("e{n:03}"), 1)).chain([added("f", 1, 1, 1)]).collect();
    store.write(changes(1, many)).await.unwrap();
    let span = Span { kind: "counter".to_owned(), prefix: String::new() };
    for stage in ["queued", "flushed"] {
        let stretch = store.list(&span, &[(SHARD, String::new())], 100).unwrap().remove(0);
        let expected = Stretch { entities: vec![], more_after: Some("e099".to_owned()), rows: 100 };
        assert_eq!(stretch, expected, "{stage}");
        assert_eq!(list(&store, "counter", "", "", 100), [("f".to_owned(), 1)], "{stage}");
        store.flush();
    }
}
