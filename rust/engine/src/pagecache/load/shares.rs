//! Which pages of a dump to load when there is no memory for all of it.
//!
//! In the order of the files, a budget would go to those that come first, and others would get
//! nothing. So an even share of every file is loaded first: pieces chosen by a hash. A choice by the
//! kernel's marks of recent use was no better (docs/benchmarks.md).

use crate::pagecache::pages::PageSet;

/// Pages that are chosen together: 256 KiB of 4 KiB pages, which devices read nearly as fast as more.
const PIECE: u64 = 64;
const ALL: u64 = 1 << 16;

/// Splits the pages of a file into those of the first pass and those of the second.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// The share of the first pass, of [`ALL`].
    first: u64,
}

impl Shares {
    /// Shares for a dump of `bytes` under a budget of `budget` bytes.
    pub fn new(budget: u64, bytes: u64) -> Self {
        let share = u128::from(budget) * u128::from(ALL) / u128::from(bytes.max(1));
        Self { first: u64::try_from(share).unwrap_or(ALL).min(ALL) }
    }

    /// How many passes load something.
    pub fn passes(self) -> usize {
        if self.first == ALL { 1 } else { 2 }
    }

    /// The pages of each pass, for entry number `entry` of the dump.
    pub fn split(self, entry: u64, pages: PageSet) -> Vec<PageSet> {
        if self.passes() == 1 {
            return vec![pages];
        }
        let mut parts = vec![PageSet::default(); 2];
        for run in pages.runs() {
            let mut at = run.start;
            while at < run.end() {
                let piece = at / PIECE;
                let end = ((piece + 1) * PIECE).min(run.end());
                let chosen = hash(entry, piece) % ALL < self.first;
                parts[usize::from(!chosen)].push(at, end - at);
                at = end;
            }
        }
        parts
    }
}

/// The finalizer of splitmix64, for a number of a file and one of a piece.
fn hash(entry: u64, piece: u64) -> u64 {
    let mut x =
        entry.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ piece.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::{PIECE, Shares};
    use crate::pagecache::pages::{PageSet, Run};

    #[test]
    fn a_budget_for_everything_splits_nothing() {
        let pages: PageSet = [Run { start: 3, count: 1000 }].into_iter().collect();
        for (budget, bytes) in [(10, 10), (u64::MAX, 1)] {
            let shares = Shares::new(budget, bytes);
            assert_eq!(shares.split(1, pages.clone()), std::slice::from_ref(&pages));
        }
    }

    #[test]
    fn every_file_gets_about_its_share_and_no_page_is_lost() {
        let run = Run { start: 5, count: 1000 * PIECE };
        let pages: PageSet = [run].into_iter().collect();
        for entry in 0..50 {
            let parts = Shares::new(1, 4).split(entry, pages.clone());
            let [first, second] = [parts[0].count(), parts[1].count()];
            assert_eq!(first + second, run.count);
            assert!((200 * PIECE..300 * PIECE).contains(&first), "{first}");
        }
    }
}
