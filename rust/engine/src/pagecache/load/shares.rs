//! An even share of every file: which pages to load when there is no memory for all of them.
//!
//! In the order of the files, a budget would go to those that come first, and others would get
//! nothing. So the pages of the dump, one file after the other, are cut into pieces, and a piece is
//! chosen whenever the share adds up to a whole one, as Bresenham's algorithm chooses where a line
//! steps.

/// Pages that are chosen together: 256 KiB of 4 KiB pages, which devices read nearly as fast as more.
const PIECE: u64 = 64;

/// What part of some pages to load first.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    part: u64,
    whole: u64,
}

impl Shares {
    /// The share of `part` pages of `whole`.
    pub fn new(part: u64, whole: u64) -> Self {
        Self { part: part.min(whole), whole }
    }

    /// What takes the pages one after the other.
    pub fn steps(self) -> Steps {
        Steps { shares: self, page: 0 }
    }

    /// Whether a piece is to be loaded first. Of any pieces in a row the share is chosen, rounded to
    /// a whole piece; of those from the first, rounded down.
    fn chosen(self, piece: u64) -> bool {
        let up_to = |pieces: u64| {
            u128::from(pieces) * u128::from(self.part) / u128::from(self.whole.max(1))
        };
        up_to(piece + 1) > up_to(piece)
    }
}

/// Takes pages one after the other. The same pages are shared alike each time.
#[derive(Debug)]
pub struct Steps {
    shares: Shares,
    /// Pages before the next.
    page: u64,
}

impl Steps {
    /// Take the next `count` pages, and visit runs of them: how many came before the run, its
    /// length, whether to load it first.
    pub fn take(&mut self, count: u64, mut visit: impl FnMut(u64, u64, bool)) {
        let mut at = 0;
        while at < count {
            let here = (PIECE - self.page % PIECE).min(count - at);
            visit(at, here, self.shares.chosen(self.page / PIECE));
            at += here;
            self.page += here;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PIECE, Shares, Steps};

    /// How many of the next pages are to be loaded first; all of them are visited in their order.
    fn first(steps: &mut Steps, pages: u64) -> u64 {
        let (mut next, mut first) = (0, 0);
        steps.take(pages, |at, count, chosen| {
            assert_eq!(at, next);
            assert!(count > 0);
            next += count;
            first += if chosen { count } else { 0 };
        });
        assert_eq!(next, pages);
        first
    }

    #[test]
    fn few_pieces_get_their_share_as_well() {
        let mut steps = Shares::new(1, 2).steps();
        for _ in 0..6 {
            assert_eq!(first(&mut steps, 32 * PIECE), 16 * PIECE);
        }
    }

    proptest! {
        #[test]
        fn every_file_and_the_whole_get_their_share_within_a_piece(
            files in prop::collection::vec(0_u64..3000, 1..40),
            budget in 0_u64..60_000,
        ) {
            let total: u64 = files.iter().sum();
            let budget = budget.min(total);
            let shares = Shares::new(budget, total);
            let (mut steps, mut again) = (shares.steps(), shares.steps());
            let mut whole = 0;
            for &pages in &files {
                let found = first(&mut steps, pages);
                prop_assert_eq!(first(&mut again, pages), found);
                let share = pages as f64 * budget as f64 / total.max(1) as f64;
                prop_assert!((found as f64 - share).abs() < PIECE as f64);
                whole += found;
            }
            prop_assert!(whole <= budget && budget < whole + PIECE);
        }
    }
}
