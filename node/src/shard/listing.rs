//! Listings: which entities of a kind there are in those shards that this node owns, in the order of their ids. The work of
//! one request is done in slices, each of them a bounded read of the store, off the tasks that serve others.

mod merge;

use berth_shared::ids::{ShardId, Term};
use berth_shared::message::Seen;
use berth_shared::seam::BootInstant;

use crate::shard::reader::Reader;
use crate::store::{self, Span};

pub use merge::{Entry, Merge};

/// Rows per slice, after which others have their turn.
const SLICE_ROWS: usize = 2048;
/// Shards per read of the store.
const SHARDS_AT_ONCE: usize = 128;
/// Rows of one shard that are read together at most, and at least.
const STRETCH_ROWS_MAX: usize = 256;
const STRETCH_ROWS_MIN: usize = 4;
/// Rows that a request may look at, besides some for each of its shards: deleted entities are rows too.
const ROWS_MAX: usize = 64 * 1024;
/// Enough for every shard to be read once, wherever its entities are.
const ROWS_PER_SHARD: usize = 4 * STRETCH_ROWS_MIN;
/// Bytes of ids in one answer, after which it is cut.
const BYTES_MAX: usize = 256 * 1024;

/// Which entities are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub span: Span,
    /// They come after this id; empty for the first of all.
    pub after: String,
    pub limit: usize,
}

/// A part of the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Ascending by id.
    pub entries: Vec<Entry>,
    /// There may be more after this id, and none is missing before.
    pub more_after: Option<String>,
    /// Of these shards nothing is listed, because this node does not own them, or did not all the time.
    pub not_owned: Vec<ShardId>,
    /// Of the others, how much of their history may be in what is listed.
    pub seen: Vec<(ShardId, Seen)>,
}

/// Lists what the shards hold that this node owns, until `until` at most. What was applied before is seen, and of what comes
/// or goes meanwhile some may be.
pub async fn list(readers: Vec<Reader>, wanted: Wanted, until: BootInstant) -> Result<Part, store::Error> {
    let mut not_owned = Vec::new();
    let mut owned: Vec<(Reader, Term)> = Vec::with_capacity(readers.len());
    for reader in readers {
        match reader.owned_in() {
            Some(term) => owned.push((reader, term)),
            None => not_owned.push(reader.shard.id),
        }
    }
    let Some((first, _)) = owned.first() else { return Ok(Part { not_owned, ..Part::default() }) };
    let shard = first.shard.clone();
    let clock = &shard.seams.clock;
    let mut state = State::new(owned.iter().map(|(reader, _)| reader.shard.id).collect(), wanted);
    let turn = shard.seams.spawner.timeout(until.since(clock.now()), shard.residency.listings.acquire()).await;
    while turn.is_some() && !state.is_done() && clock.now() < until {
        let store = shard.store.clone();
        state = shard.blocking(move || state.slice(&store)).await?;
    }
    let (mut entries, more_after) = state.merge.finish();
    // No earlier: what was applied while the listing was on its way may be in it.
    let seen: Vec<Seen> = owned.iter().map(|(reader, _)| reader.shard.seen()).collect();
    // As of a read of one entity: what was read counts only if nobody else can have led meanwhile.
    let still_owned: Vec<bool> = owned.iter().map(|(reader, term)| reader.owned_in() == Some(*term)).collect();
    entries.retain(|entry| still_owned[entry.source]);
    let lost = owned.iter().zip(&still_owned).filter(|(_, owned)| !**owned);
    not_owned.extend(lost.map(|((reader, _), _)| reader.shard.id));
    let seen = owned.iter().zip(seen).zip(&still_owned).filter(|(_, owned)| **owned);
    let seen = seen.map(|(((reader, _), seen), _)| (reader.shard.id, seen)).collect();
    Ok(Part { entries, more_after, not_owned, seen })
}

/// A listing on its way.
struct State {
    shards: Vec<ShardId>,
    span: Span,
    merge: Merge,
    rows_left: usize,
    rows_per_stretch: usize,
}

impl State {
    fn new(shards: Vec<ShardId>, wanted: Wanted) -> Self {
        let Wanted { span, after, limit } = wanted;
        let merge = Merge::new(shards.len(), &after, limit, BYTES_MAX);
        // Twice what every shard gives to a listing of entities that are spread evenly.
        let even = 2 * limit / shards.len().max(1) + STRETCH_ROWS_MIN;
        let rows_left = ROWS_MAX + ROWS_PER_SHARD * shards.len();
        Self { shards, span, merge, rows_left, rows_per_stretch: even.min(STRETCH_ROWS_MAX) }
    }

    fn is_done(&self) -> bool {
        self.rows_left == 0 || self.merge.wants(1).is_empty()
    }

    /// Reads on for a while. Blocks.
    fn slice(mut self, store: &store::Store) -> Result<Self, store::Error> {
        let mut rows = 0;
        while rows < SLICE_ROWS && !self.is_done() {
            let wants = self.merge.wants((SLICE_ROWS / self.rows_per_stretch).clamp(1, SHARDS_AT_ONCE));
            let starts: Vec<_> = wants.into_iter().map(|(source, after)| (self.shards[source], after)).collect();
            let stretches = store.list(&self.span, &starts, self.rows_per_stretch)?;
            // A shard without entities is looked at too.
            let looked: usize = stretches.iter().map(|stretch| stretch.rows.max(1)).sum();
            self.merge.add(stretches);
            rows += looked;
            self.rows_left = self.rows_left.saturating_sub(looked);
        }
        Ok(self)
    }
}
