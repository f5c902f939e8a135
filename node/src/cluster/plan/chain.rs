//! Chains in a table of shards and columns, where a column is whatever holds shards: a node, a zone, an owner. A chain begins
//! with a column that is given a shard or should lose one, and each column on it passes one shard to the next, until one that
//! may keep what it gets. It is the augmenting path of a flow. Pure.

/// A table, as a chain sees it.
pub(super) trait Columns {
    fn count(&self) -> usize;

    /// Where a chain may begin.
    fn starts(&self) -> Vec<usize>;

    /// Whether a chain may end here.
    fn is_end(&self, column: usize) -> bool;

    /// What the column could pass on: what moves anyway, `freely`, or what would stay otherwise.
    fn shards(&self, column: usize, freely: bool) -> Vec<usize>;

    /// To which unreached columns it could pass `shard`.
    fn targets(&self, shard: usize, from: usize, unreached: &Unreached) -> Vec<usize>;
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) first: usize,
    /// From `first` on.
    pub(super) steps: Vec<Step>,
}

/// `shard` leaves `from` for `to`.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) shard: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// The columns that the search has not come to.
#[derive(Debug)]
pub(super) struct Unreached {
    columns: Vec<usize>,
    /// Where each column stands in `columns`.
    places: Vec<Option<usize>>,
}

/// The chain that passes on the fewest shards that would stay otherwise, if there is any: breadth first, and what moves freely
/// before what does not (a search by levels 0 and 1, as Dial's of 1969).
pub(super) fn find(columns: &impl Columns) -> Option<Chain> {
    let mut unreached = Unreached::new(columns.count());
    // Each column that was reached, and by which step.
    let mut reached: Vec<(usize, Option<Step>)> = Vec::new();
    for start in columns.starts() {
        if columns.is_end(start) {
            return Some(Chain { first: start, steps: Vec::new() });
        }
        unreached.remove(start);
        reached.push((start, None));
    }
    let (mut freely, mut otherwise) = (0, 0);
    loop {
        let is_free = freely < reached.len();
        let next = if is_free { &mut freely } else { &mut otherwise };
        let from = reached.get(*next)?.0;
        *next += 1;
        for shard in columns.shards(from, is_free) {
            for to in columns.targets(shard, from, &unreached) {
                unreached.remove(to);
                reached.push((to, Some(Step { shard, from, to })));
                if columns.is_end(to) {
                    return Some(trace(reached, to));
                }
            }
        }
    }
}

fn trace(reached: Vec<(usize, Option<Step>)>, end: usize) -> Chain {
    let mut chain = Chain { first: end, steps: Vec::new() };
    // A column is reached later than the one it was reached from.
    for (column, step) in reached.into_iter().rev() {
        if let Some(step) = step.filter(|_| column == chain.first) {
            chain.first = step.from;
            chain.steps.push(step);
        }
    }
    chain.steps.reverse();
    chain
}

impl Unreached {
    fn new(count: usize) -> Self {
        Self { columns: (0..count).collect(), places: (0..count).map(Some).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().copied()
    }

    pub(super) fn contains(&self, column: usize) -> bool {
        self.places[column].is_some()
    }

    fn remove(&mut self, column: usize) {
        let Some(place) = self.places[column].take() else { return };
        self.columns.swap_remove(place);
        if let Some(moved) = self.columns.get(place) {
            self.places[*moved] = Some(place);
        }
    }
}
