//! Which pages of a dump to load when there is no memory for all of it.
//!
//! In the order of the files, a budget would go to those that come first, and others would get
//! nothing. So an even share of every file is loaded first: the pages of the dump, one file after
//! the other, are cut into pieces, and a piece is chosen whenever the share adds up to a whole one,
//! as Bresenham's algorithm chooses where a line steps.

use crate::pagecache::pages::PageSet;

/// Pages that are chosen together: 256 KiB of 4 KiB pages, which devices read nearly as fast as more.
const PIECE: u64 = 64;

/// What part of the pages to load first: `part` of `whole`, which are bytes.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    part: u64,
    whole: u64,
}

impl Shares {
    /// Shares for a dump of `bytes` under a budget of `budget` bytes.
    pub fn new(budget: u64, bytes: u64) -> Self {
        Self { part: budget.min(bytes), whole: bytes }
    }

    /// How many passes load something.
    pub fn passes(self) -> usize {
        if self.part == self.whole { 1 } else { 2 }
    }

    /// What splits the entries of the dump, which it must be given from the first, in their order.
    pub fn splitter(self) -> Splitter {
        Splitter { shares: self, page: 0 }
    }

    /// Whether piece number `piece` of the dump is for the first pass. Of any pieces in a row the
    /// share is chosen, rounded to a whole piece; of those from the first, rounded down.
    fn chosen(self, piece: u64) -> bool {
        let up_to = |pieces: u64| {
            u128::from(pieces) * u128::from(self.part) / u128::from(self.whole.max(1))
        };
        up_to(piece + 1) > up_to(piece)
    }
}

/// Splits the pages of each entry into those of the first pass and those of the second. The same
/// dump is split alike each time, whatever was loaded.
#[derive(Debug)]
pub struct Splitter {
    shares: Shares,
    /// Pages of the dump before the next entry.
    page: u64,
}

impl Splitter {
    /// The pages of each pass, of the next entry.
    pub fn split(&mut self, pages: PageSet) -> Vec<PageSet> {
        if self.shares.passes() == 1 {
            return vec![pages];
        }
        let mut parts = vec![PageSet::default(); 2];
        for run in pages.runs() {
            let mut at = run.start;
            while at < run.end() {
                let count = (PIECE - self.page % PIECE).min(run.end() - at);
                let chosen = self.shares.chosen(self.page / PIECE);
                parts[usize::from(!chosen)].push(at, count);
                at += count;
                self.page += count;
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PIECE, Shares};
    use crate::pagecache::pages::{PageSet, Run};

    #[test]
    fn a_budget_for_everything_splits_nothing() {
        let pages: PageSet = [Run { start: 3, count: 1000 }].into_iter().collect();
        for (budget, bytes) in [(10, 10), (u64::MAX, 1), (0, 0)] {
            let shares = Shares::new(budget, bytes);
            assert_eq!(shares.splitter().split(pages.clone()), std::slice::from_ref(&pages));
        }
    }

    #[test]
    fn few_pieces_get_their_share_as_well() {
        let pages: PageSet = [Run { start: 5, count: 32 * PIECE }].into_iter().collect();
        let mut splitter = Shares::new(1, 2).splitter();
        for _ in 0..6 {
            assert_eq!(splitter.split(pages.clone())[0].count(), 16 * PIECE);
        }
    }

    fn files() -> impl Strategy<Value = Vec<PageSet>> {
        // Runs with a gap before each.
        let file = prop::collection::vec((1_u64..300, 1_u64..300), 0..12);
        let set = |runs: Vec<(u64, u64)>| {
            let mut set = PageSet::default();
            for (gap, count) in runs {
                set.push(set.end() + gap, count);
            }
            set
        };
        prop::collection::vec(file.prop_map(set), 1..30)
    }

    proptest! {
        #[test]
        fn every_file_and_the_whole_get_their_share_within_a_piece(
            files in files(),
            budget in 0_u64..20_000,
        ) {
            let total: u64 = files.iter().map(PageSet::count).sum();
            let shares = Shares::new(budget, total);
            let (mut splitter, mut again) = (shares.splitter(), shares.splitter());
            let share = |count: u64| {
                if budget >= total { count as f64 } else { count as f64 * budget as f64 / total as f64 }
            };
            let mut whole = 0;
            for pages in &files {
                let parts = splitter.split(pages.clone());
                prop_assert_eq!(&again.split(pages.clone()), &parts);
                let first = parts[0].count();
                prop_assert!((first as f64 - share(pages.count())).abs() < PIECE as f64);
                whole += first;
                // No page is lost, and none is in both.
                let all: std::collections::BTreeSet<u64> = parts
                    .iter()
                    .flat_map(|part| part.runs())
                    .flat_map(|run| run.start..run.end())
                    .collect();
                prop_assert_eq!(parts.iter().map(PageSet::count).sum::<u64>(), pages.count());
                let wanted = pages.runs().iter().flat_map(|run| run.start..run.end());
                prop_assert!(wanted.eq(all));
            }
            prop_assert!((whole as f64 - share(total)).abs() < PIECE as f64);
        }
    }
}
