//! Which bytes of a chunk have arrived.

use std::collections::BTreeMap;

/// Ranges of bytes that do not overlap, merged where they touch.
#[derive(Debug, Default)]
pub struct Ranges {
    /// Ends by starts.
    ends: BTreeMap<u64, u64>,
    total: u64,
}

impl Ranges {
    /// Add a range; false, and nothing is added, if a byte of it is there or if it is empty.
    pub fn insert(&mut self, start: u64, length: u64) -> bool {
        let Some(end) = start.checked_add(length) else { return false };
        let before = self.ends.range(..end).next_back().map(|(&s, &e)| (s, e));
        if length == 0 || before.is_some_and(|(_, e)| e > start) {
            return false;
        }
        let mut merged = (start, end);
        if let Some((s, e)) = before
            && e == start
        {
            self.ends.remove(&s);
            merged.0 = s;
        }
        if let Some(e) = self.ends.remove(&end) {
            merged.1 = e;
        }
        self.ends.insert(merged.0, merged.1);
        self.total += length;
        true
    }

    /// Return how many bytes are there.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranges;

    proptest! {
        #[test]
        fn each_byte_is_counted_once(parts in prop::collection::vec((0_u64..60, 0_u64..9), 0..40)) {
            let (mut ranges, mut judge) = (Ranges::default(), [false; 80]);
            for (start, length) in parts {
                let bytes = &mut judge[start as usize..(start + length) as usize];
                let free = length > 0 && bytes.iter().all(|there| !there);
                prop_assert_eq!(ranges.insert(start, length), free);
                if free {
                    bytes.fill(true);
                }
                prop_assert_eq!(ranges.total(), judge.iter().filter(|&&t| t).count() as u64);
            }
            prop_assert!(!ranges.insert(u64::MAX, 2));
        }
    }
}
