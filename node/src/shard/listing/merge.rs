//! The order of entities over several shards, of which parts are read one after the other: what can surely be listed, and
//! what must be read before anything more can. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use berth_shared::ids::Version;

use crate::store::Stretch;

/// One entity of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    pub version: Version,
    /// The shard that it is of, by its place among those that were asked for.
    pub source: usize,
}

#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    /// The first of every source that has something ahead.
    heads: BinaryHeap<Reverse<(String, usize)>>,
    /// Sources that must be read: nothing is ahead of them, and something may come.
    needy: Vec<usize>,
    listed: Vec<Entry>,
    listed_bytes: usize,
    limit: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Source {
    /// Read, and not listed; the first of them is among the heads.
    ahead: VecDeque<(String, Version)>,
    /// What comes after this id was not read; `None` when nothing does.
    more_after: Option<String>,
}

impl Merge {
    /// Of so many sources, the first `limit` after an id; fewer when their ids have `bytes_max` before, but one at least.
    pub fn new(sources: usize, after: &str, limit: usize, bytes_max: usize) -> Self {
        let source = || Source { ahead: VecDeque::new(), more_after: Some(after.to_owned()) };
        Self {
            sources: std::iter::repeat_with(source).take(sources).collect(),
            heads: BinaryHeap::new(),
            needy: (0..sources).collect(),
            listed: Vec::new(),
            listed_bytes: 0,
            limit,
            bytes_max,
        }
    }

    /// At most `count` sources that must be read next, and from after which id. None when the listing is complete.
    pub fn wants(&self, count: usize) -> Vec<(usize, String)> {
        if self.is_full() && !self.heads.is_empty() {
            return Vec::new();
        }
        let start = |source: &usize| Some((*source, self.sources[*source].more_after.clone()?));
        self.needy.iter().take(count).filter_map(start).collect()
    }

    /// Takes in what was read of the sources that [`Self::wants`] named, in its order.
    pub fn add(&mut self, stretches: Vec<Stretch>) {
        let read: Vec<usize> = self.needy.drain(..stretches.len().min(self.needy.len())).collect();
        for (place, stretch) in read.into_iter().zip(stretches) {
            let source = &mut self.sources[place];
            source.ahead.extend(stretch.entities);
            source.more_after = stretch.more_after;
            self.show(place);
        }
        self.advance();
    }

    /// What is listed, and after which id there may be more; up to that none is missing.
    pub fn finish(self) -> (Vec<Entry>, Option<String>) {
        let more_after = match self.listed.last() {
            Some(last) if self.is_full() && !(self.heads.is_empty() && self.needy.is_empty()) => Some(last.id.clone()),
            _ => self.bound().map(str::to_owned),
        };
        (self.listed, more_after)
    }

    fn is_full(&self) -> bool {
        self.listed.len() >= self.limit || (self.listed_bytes >= self.bytes_max && !self.listed.is_empty())
    }

    /// Lists what nothing that is not read can come before.
    fn advance(&mut self) {
        while !self.is_full() {
            let is_next = |head: &Reverse<(String, usize)>| self.bound().is_none_or(|bound| head.0.0.as_str() <= bound);
            if !self.heads.peek().is_some_and(is_next) {
                return;
            }
            let Some(Reverse((_, place))) = self.heads.pop() else { return };
            if let Some((id, version)) = self.sources[place].ahead.pop_front() {
                self.listed_bytes += id.len();
                self.listed.push(Entry { id, version, source: place });
            }
            self.show(place);
        }
    }

    /// Puts what is ahead of a source among the heads, or the source among the needy.
    fn show(&mut self, place: usize) {
        let source = &self.sources[place];
        match source.ahead.front() {
            Some((id, _)) => self.heads.push(Reverse((id.clone(), place))),
            None if source.more_after.is_some() => self.needy.push(place),
            None => {}
        }
    }

    /// Up to this id everything is read; `None` when that is so without end.
    fn bound(&self) -> Option<&str> {
        self.needy.iter().filter_map(|place| self.sources[*place].more_after.as_deref()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The first `rows` of what comes after `after`, deleted ones with version 0 left out.
    fn stretch(all: &BTreeMap<String, Version>, after: &str, rows: usize) -> Stretch {
        let mut following = all.iter().filter(|(id, _)| id.as_str() > after);
        let looked: Vec<_> = following.by_ref().take(rows).collect();
        let more_after = following.next().and(looked.last()).map(|(id, _)| (*id).clone());
        let live = looked.iter().filter(|(_, version)| **version > 0);
        let entities = live.map(|(id, version)| ((*id).clone(), **version)).collect();
        Stretch { entities, more_after, rows: looked.len() }
    }

    /// Reads as the merge wants, `reads` times at most.
    fn run(sources: &[BTreeMap<String, Version>], mut merge: Merge, rows: usize, mut reads: usize) -> Merge {
        while reads > 0 {
            let wants = merge.wants(3);
            if wants.is_empty() {
                break;
            }
            merge.add(wants.iter().map(|(source, after)| stretch(&sources[*source], after, rows)).collect());
            reads -= 1;
        }
        merge
    }

    fn any_sources() -> impl Strategy<Value = Vec<BTreeMap<String, Version>>> {
        prop::collection::vec(prop::collection::btree_map("[a-c]{1,3}", 0_u64..4, 0..15), 0..6)
    }

    /// An id is of one shard only.
    fn apart(sources: Vec<BTreeMap<String, Version>>) -> Vec<BTreeMap<String, Version>> {
        let number = |(place, ids): (usize, BTreeMap<String, Version>)| {
            ids.into_iter().map(|(id, version)| (format!("{id}{place}"), version)).collect()
        };
        sources.into_iter().enumerate().map(number).collect()
    }

    proptest! {
        #[test]
        fn the_first_entities_of_all_sources_are_listed_in_order(
            sources in any_sources(),
            after in "[a-c]{0,3}",
            limit in 1_usize..20,
            rows in 1_usize..6,
        ) {
            let sources = apart(sources);
            let merge = run(&sources, Merge::new(sources.len(), &after, limit, usize::MAX), rows, usize::MAX);
            let (entries, more_after) = merge.finish();
            let mut expected: Vec<Entry> = Vec::new();
            for (source, ids) in sources.iter().enumerate() {
                let live = ids.iter().filter(|(id, version)| **version > 0 && **id > after);
                expected.extend(live.map(|(id, version)| Entry { id: id.clone(), version: *version, source }));
            }
            expected.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            let is_cut = expected.len() > limit;
            expected.truncate(limit);
            let last = expected.last().filter(|_| is_cut).map(|entry| entry.id.clone());
            prop_assert_eq!((entries, more_after), (expected, last));
        }

        /// Whenever it is broken off, by rows or bytes, going on from there finds everything once.
        #[test]
        fn a_listing_that_is_broken_off_goes_on_where_it_says(
            sources in any_sources(),
            limit in 1_usize..8,
            rows in 1_usize..4,
            reads in prop::collection::vec(0_usize..9, 1..20),
            bytes_max in 1_usize..30,
        ) {
            let sources = apart(sources);
            let mut reads = reads.into_iter().chain(std::iter::repeat(1000));
            let (mut found, mut next) = (Vec::new(), Some(String::new()));
            while let Some(after) = next {
                let merge = Merge::new(sources.len(), &after, limit, bytes_max);
                let (entries, more_after) = run(&sources, merge, rows, reads.next().unwrap_or(1000)).finish();
                prop_assert!(entries.len() <= limit);
                prop_assert!(entries.iter().all(|entry| more_after.as_ref().is_none_or(|end| entry.id <= *end)));
                prop_assert!(more_after.as_ref().is_none_or(|end| *end >= after));
                found.extend(entries.into_iter().map(|entry| (entry.id, entry.version)));
                next = more_after;
            }
            let all = sources.iter().flatten().filter(|(_, version)| **version > 0);
            let mut all: Vec<_> = all.map(|(id, version)| (id.clone(), *version)).collect();
            all.sort_unstable();
            prop_assert_eq!(found, all);
        }
    }
}
