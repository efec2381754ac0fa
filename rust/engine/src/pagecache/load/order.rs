//! In which passes the pages of a dump are loaded: those that are expected to be needed most first.
//!
//! A pass has pages of some levels of expected use and is loaded in the order of the device. Where
//! the budget ends within a level, an even share of that level is loaded (`shares.rs`). Without
//! levels, that is an even share of every file.

use super::heat::{Heat, LEVELS};
use super::shares::{Shares, Steps};
use crate::pagecache::pages::PageSet;
use crate::pagecache::record::Entry;

/// Passes of a whole dump, each with about as much of the expected use. Each reads the dump again.
const QUARTERS: u64 = 4;

/// Numbers of pages by level.
pub type Counts = [u64; LEVELS as usize + 1];

/// Pages of one entry in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Number of the pass.
    pub pass: usize,
    /// The pages, at least one.
    pub pages: PageSet,
    /// The sum of their levels.
    pub uses: u64,
}

/// The order of a dump's pages.
#[derive(Debug)]
pub struct Order {
    heat: Option<Heat>,
    passes: Vec<usize>,
    /// The level in which the budget ends, and which part of it to load first.
    cut: Option<(u8, Shares)>,
    uses: u64,
}

impl Order {
    /// An even share of every file of a dump of `pages` first, if the budget of `budget` pages does
    /// not allow all.
    pub fn even(pages: u64, budget: u64) -> Self {
        let mut counts = [0; LEVELS as usize + 1];
        counts[1] = pages;
        Self::new(None, &counts, budget)
    }

    /// The order of expected use, under a budget of `budget` pages. The counts are those that
    /// [`Heat::each_run`] visits.
    pub fn expected(heat: Heat, counts: &Counts, budget: u64) -> Self {
        Self::new(Some(heat), counts, budget)
    }

    fn new(heat: Option<Heat>, counts: &Counts, budget: u64) -> Self {
        let uses: u64 = (0..).zip(counts).map(|(level, count): (u64, _)| level * count).sum();
        let part = |sum: u64| sum * QUARTERS / uses.max(1);
        let (mut passes, mut cut) = (vec![0; counts.len()], None);
        let (mut before, mut pass, mut used) = (0, 0, 0);
        for (level, &count) in counts.iter().enumerate().rev() {
            if count == 0 {
                continue;
            }
            passes[level] = pass;
            let behind = before + count;
            let used_before = used;
            used += level as u64 * count;
            if before < budget && budget < behind {
                let shares = Shares::new(budget - before, count);
                cut = Some((u8::try_from(level).unwrap_or(LEVELS), shares));
                pass += 2;
            } else if budget == behind || part(used_before) < part(used) {
                pass += 1;
            }
            before = behind;
        }
        Self { heat, passes, cut, uses }
    }

    /// How many passes load something.
    pub fn passes(&self) -> usize {
        let last = self.passes.iter().max().copied().unwrap_or_default();
        let cut = self.cut.map(|(level, _)| self.passes[usize::from(level)] + 1);
        last.max(cut.unwrap_or_default()) + 1
    }

    /// The sum of the levels of all pages; `None` if there is only one.
    pub fn uses(&self) -> Option<u64> {
        self.heat.as_ref().map(|_| self.uses)
    }

    /// What splits the entries of the dump, which it must be given from the first, in their order.
    pub fn splitter(&self) -> Splitter<'_> {
        Splitter { order: self, steps: self.cut.map(|(_, shares)| shares.steps()) }
    }
}

/// Splits the pages of each entry by pass. The same dump is split alike each time, whatever was
/// loaded.
#[derive(Debug)]
pub struct Splitter<'a> {
    order: &'a Order,
    steps: Option<Steps>,
}

impl Splitter<'_> {
    /// The parts of the next entry that have pages, by pass.
    pub fn split(&mut self, entry: &Entry, pages: &PageSet) -> Vec<Part> {
        let mut parts = vec![(PageSet::default(), 0); self.order.passes()];
        let mut add = |pass: usize, start, count, level: u8| {
            let (pages, uses) = &mut parts[pass];
            pages.push(start, count);
            *uses += count * u64::from(level);
        };
        let cut = self.order.cut.map_or(0, |(level, _)| level);
        let mut run = |start, count, level: u8| {
            let pass = self.order.passes[usize::from(level)];
            match &mut self.steps {
                Some(steps) if level == cut => steps.take(count, |at, count, chosen| {
                    add(pass + usize::from(!chosen), start + at, count, level);
                }),
                _ => add(pass, start, count, level),
            }
        };
        match &self.order.heat {
            Some(heat) => heat.each_run(entry, pages, run),
            None => pages.runs().iter().for_each(|each| run(each.start, each.count, 1)),
        }
        let parts = parts.into_iter().enumerate();
        parts
            .filter(|(_, (pages, _))| !pages.is_empty())
            .map(|(pass, (pages, uses))| Part { pass, pages, uses })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Counts, LEVELS, Order, Part};
    use crate::pagecache::pages::{PageSet, Run};
    use crate::pagecache::record::Entry;

    fn entry() -> Entry {
        Entry {
            path: b"f".to_vec(),
            root: 0,
            more: false,
            size: u64::MAX >> 1,
            mtime_ms: 0,
            pages: PageSet::default(),
        }
    }

    #[test]
    fn a_budget_for_everything_splits_nothing() {
        let pages: PageSet = [Run { start: 3, count: 1000 }].into_iter().collect();
        for (total, budget) in [(1000, 1000), (1000, u64::MAX), (0, 0)] {
            let order = Order::even(total, budget);
            let whole = Part { pass: 0, pages: pages.clone(), uses: 1000 };
            assert_eq!(order.splitter().split(&entry(), &pages), [whole]);
            assert_eq!(order.uses(), None);
        }
    }

    proptest! {
        #[test]
        fn passes_descend_and_the_budget_ends_one(
            counts in prop::collection::vec(0_u64..1000, LEVELS as usize + 1),
            budget in 0_u64..60_000,
        ) {
            let counts: Counts = counts.try_into().unwrap();
            let order = Order::new(None, &counts, budget);
            prop_assert!(order.passes() <= 8);
            let used: Vec<usize> = (0..counts.len()).rev().filter(|&n| counts[n] > 0).collect();
            prop_assert!(used.is_sorted_by_key(|&level| order.passes[level]));
            // What is chosen of the level in which the budget ends fills it.
            if let Some((cut, _)) = order.cut {
                let above: u64 = counts[usize::from(cut) + 1..].iter().sum();
                prop_assert!(above < budget && budget < above + counts[usize::from(cut)]);
                let alone = |level: &&usize| order.passes[**level] > order.passes[usize::from(cut)];
                let mut below = used.iter().filter(alone);
                let descends = below.all(|&level| {
                    level < usize::from(cut)
                        && order.passes[level] >= order.passes[usize::from(cut)] + 2
                });
                prop_assert!(descends);
            } else if budget < counts.iter().sum() && budget > 0 {
                let mut before = 0;
                let ends = used.iter().any(|&level| {
                    before += counts[level];
                    before == budget
                });
                prop_assert!(ends);
            }
        }
    }
}
