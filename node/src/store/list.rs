//! Listing: which entities there are, in the order of their ids. These calls block, and look at a bounded number of rows; the
//! caller goes on from where one has stopped. Layers and file are put together as [`super::read`] does it.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::ReadOnlyTable;

use berth_shared::ids::{ShardId, Version};

use super::file::{self, ENTITIES};
use super::layer::Layer;
use super::layout::{self, GENERATION_BYTES, RowError};
use super::queue::Queue;
use super::{Error, Store};

/// Which entities are wanted, of any shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub kind: String,
    /// What their ids begin with.
    pub prefix: String,
}

/// A part of one shard's entities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Ascending by id; those that are deleted are not among them.
    pub entities: Vec<(String, Version)>,
    /// What comes after this id was not looked at; `None` when nothing does.
    pub more_after: Option<String>,
    /// Rows that were looked at.
    pub rows: usize,
}

/// What one place holds of a stretch: every entity of it with its version and whether it is deleted, up to where it was
/// looked at.
#[derive(Debug, Default)]
struct Found {
    entities: Vec<(String, Version, bool)>,
    is_cut: bool,
}

impl Store {
    /// Of each of these shards a stretch of those entities in `span` that come after an id; with an empty one, the first of
    /// them. In each place that may hold some, at most `rows_max` are looked at, and at least one. Blocks.
    pub fn list(&self, span: &Span, starts: &[(ShardId, String)], rows_max: usize) -> Result<Vec<Stretch>, Error> {
        let rows_max = rows_max.max(1);
        loop {
            let generation_of = |queue: &Queue, shard| queue.head(shard).map(|head| head.generation);
            let pending: Vec<_> = {
                let queue = self.shared.queue.lock();
                let look = |(shard, after): &(ShardId, String)| {
                    let layers = [queue.writing().map(AsRef::as_ref), Some(queue.filling())];
                    let found =
                        layers.into_iter().flatten().map(|layer| in_layer(layer, *shard, span, after, rows_max));
                    Some((generation_of(&queue, *shard)?, found.collect::<Vec<_>>()))
                };
                starts.iter().map(look).collect()
            };
            let transaction = self.shared.begin_read()?;
            let is_same = {
                let queue = self.shared.queue.lock();
                let mut seen = starts.iter().zip(&pending);
                seen.all(|((shard, _), pending)| generation_of(&queue, *shard) == pending.as_ref().map(|(of, _)| *of))
            };
            // Rows of a generation are cleared only after the head has left it.
            if !is_same {
                continue;
            }
            let table = transaction.open_table(ENTITIES).map_err(redb::Error::from)?;
            let mut stretches = Vec::with_capacity(starts.len());
            for ((shard, after), pending) in starts.iter().zip(pending) {
                stretches.push(match pending {
                    Some((generation, mut found)) => {
                        found.push(in_file(&table, *shard, generation, span, after, rows_max)?);
                        together(found)
                    }
                    // Nothing of the shard was ever written.
                    None => Stretch::default(),
                });
            }
            return Ok(stretches);
        }
    }
}

/// Where those begin that come after `after`: an id that is still one of them, or is not.
fn start<'a>(span: &'a Span, after: &'a str) -> Bound<&'a str> {
    if after < span.prefix.as_str() || after.is_empty() {
        Bound::Included(&span.prefix)
    } else {
        Bound::Excluded(after)
    }
}

fn in_layer(layer: &Layer, shard: ShardId, span: &Span, after: &str, rows_max: usize) -> Found {
    let Some(layer) = layer.shard(shard) else { return Found::default() };
    let of_kind = format!("{}/", span.kind);
    let start = start(span, after).map(|id| format!("{of_kind}{id}"));
    let start = start.as_ref().map(String::as_str);
    let following = layer.entities.range::<str, _>((start, Bound::Unbounded));
    let mut wanted = following.take_while(|(key, _)| key.kind() == span.kind && key.id().starts_with(&span.prefix));
    let taken = wanted.by_ref().take(rows_max);
    let entities = taken.map(|(key, pending)| (key.id().to_owned(), pending.version, pending.deleted)).collect();
    Found { entities, is_cut: wanted.next().is_some() }
}

fn in_file(
    table: &ReadOnlyTable<file::Bytes, file::Bytes>,
    shard: ShardId,
    generation: u32,
    span: &Span,
    after: &str,
    rows_max: usize,
) -> Result<Found, Error> {
    let of_kind = [&layout::generation_key(shard, generation)[..], span.kind.as_bytes(), &[0]].concat();
    let wanted = [&of_kind[..], span.prefix.as_bytes()].concat();
    let start = start(span, after).map(|id| [&of_kind[..], id.as_bytes()].concat());
    let mut found = Found::default();
    for row in table.range::<&[u8]>((start.as_ref().map(Vec::as_slice), Bound::Unbounded))? {
        let (key, value) = row?;
        let key = key.value();
        if !key.starts_with(&wanted) {
            break;
        }
        if found.entities.len() == rows_max {
            found.is_cut = true;
            break;
        }
        let damaged = |error| Error::damaged("entities", key, error);
        let head = layout::decode_entity(key, value.value()).map_err(damaged)?;
        let id = std::str::from_utf8(&key[GENERATION_BYTES + span.kind.len() + 1..]);
        let id = id.map_err(|_| damaged(RowError::Field("an id")))?;
        found.entities.push((id.to_owned(), head.version, head.deleted));
    }
    Ok(found)
}

/// What is in several places is as its highest version says. Nothing is known of what comes after the place that was left
/// first.
fn together(found: Vec<Found>) -> Stretch {
    let cut = found.iter().filter(|found| found.is_cut).filter_map(|found| found.entities.last());
    let more_after = cut.map(|(id, ..)| id.clone()).min();
    let rows = found.iter().map(|found| found.entities.len()).sum();
    let mut newest: BTreeMap<String, (Version, bool)> = BTreeMap::new();
    for (id, version, deleted) in found.into_iter().flat_map(|found| found.entities) {
        if more_after.as_ref().is_some_and(|end| id > *end) {
            continue;
        }
        let known = newest.entry(id).or_insert((version, deleted));
        if version > known.0 {
            *known = (version, deleted);
        }
    }
    let live = newest.into_iter().filter(|(_, (_, deleted))| !deleted);
    Stretch { entities: live.map(|(id, (version, _))| (id, version)).collect(), more_after, rows }
}
