//! Sets of pages of one file, and their compact form in a record.
//!
//! A set is a sorted list of runs. In a record, a run is two numbers: pages skipped since the end of
//! the run before (or since page 0), then pages in the run; the last run lacks the second number if
//! it extends to the end of the file, so that all files that are wholly in memory look alike. Where
//! runs are many and short, a bitmap takes their place: on randomly scattered pages the text of the
//! runs compresses to about twice their entropy, but base64 of a bitmap to almost exactly its
//! entropy, since each of its characters encodes six pages and zstd codes characters by their
//! frequency.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

/// Pages `[start, start + count)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First page, counted from 0.
    pub start: u64,
    /// Number of pages, at least 1.
    pub count: u64,
}

impl Run {
    /// The page after the last.
    pub fn end(self) -> u64 {
        self.start + self.count
    }
}

/// Pages of one file in ascending order: runs neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet(Vec<Run>);

impl PageSet {
    /// Add a run behind all others.
    ///
    /// # Panics
    /// In debug builds, if it begins before the end of the last one.
    pub fn push(&mut self, start: u64, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end() == start => last.count += count,
            last => {
                debug_assert!(last.is_none_or(|last| last.end() < start));
                self.0.push(Run { start, count });
            }
        }
    }

    /// The runs.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// Whether there is no page in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many pages there are in it.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| run.count).sum()
    }

    /// The page after the last one; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |run| run.end())
    }

    /// Remove what lies at or beyond page `end`.
    pub fn truncate(&mut self, end: u64) {
        let keep = self.0.partition_point(|run| run.start < end);
        self.0.truncate(keep);
        if let Some(last) = self.0.last_mut() {
            last.count = last.count.min(end - last.start);
        }
    }

    /// Add the pages `[start, start + vector.len())` whose byte has bit 0 set, as mincore(2) gives
    /// them. They must lie behind all others.
    pub fn push_vector(&mut self, start: u64, vector: &[u8]) {
        let mut page = 0;
        while page < vector.len() {
            let resident = vector[page] & 1;
            let length = same(&vector[page..], resident);
            if resident == 1 {
                self.push(start + page as u64, length as u64);
            }
            page += length;
        }
    }

    /// Their form in a record, for a file of `limit` pages.
    pub fn encode(&self, limit: u64) -> Encoded {
        let mut encoded = Encoded::default();
        let mut bitmap = Bitmap::default();
        let mut at = 0;
        for region in Regions::new(&self.0) {
            if is_dense(&region) {
                if region[0].start > bitmap.end() + Bitmap::GAP {
                    bitmap.flush(&mut encoded.bits);
                }
                region.into_iter().for_each(|run| bitmap.add(run));
                continue;
            }
            bitmap.flush(&mut encoded.bits);
            for run in region {
                encoded.runs.push(run.start - at);
                encoded.runs.push(run.count);
                at = run.end();
            }
        }
        bitmap.flush(&mut encoded.bits);
        if at == limit {
            encoded.runs.pop();
        }
        encoded
    }
}

impl FromIterator<Run> for PageSet {
    /// Collect runs that are in ascending order.
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut set = Self::default();
        for run in runs {
            set.push(run.start, run.count);
        }
        set
    }
}

/// How many bytes from the start have bit 0 equal to `bit`, which the first one has.
fn same(vector: &[u8], bit: u8) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let pattern = ONES * u64::from(bit);
    let (words, _) = vector.as_chunks::<8>();
    let whole = words
        .iter()
        .position(|word| u64::from_ne_bytes(*word) & ONES != pattern)
        .unwrap_or(words.len())
        * 8;
    whole + vector[whole..].iter().take_while(|&&byte| byte & 1 == bit).count()
}

/// Pages for which one of the two forms is chosen.
const REGION: u64 = 4096;

/// Whether a bitmap is smaller: once compressed, a run costs about a byte, a page of a bitmap at
/// most an eighth of one.
fn is_dense(region: &[Run]) -> bool {
    let pages = region[region.len() - 1].end() - region[0].start;
    region.len() as u64 > 4 + pages / 8
}

/// A set claiming more runs than this is refused: it does not fit a line of a record.
const MOST_RUNS: usize = 1 << 20;

/// Splits runs where regions begin, and groups them by region.
struct Regions<'a> {
    runs: &'a [Run],
    rest: Option<Run>,
}

impl<'a> Regions<'a> {
    fn new(runs: &'a [Run]) -> Self {
        Self { runs, rest: None }
    }

    fn next_run(&mut self) -> Option<Run> {
        self.rest.take().or_else(|| {
            let (first, rest) = self.runs.split_first()?;
            self.runs = rest;
            Some(*first)
        })
    }
}

impl Iterator for Regions<'_> {
    type Item = Vec<Run>;

    fn next(&mut self) -> Option<Vec<Run>> {
        let first = self.next_run()?;
        let end = (first.start / REGION + 1) * REGION;
        // A run that crosses a border alone in its region stays whole.
        let mut group = vec![first];
        while let Some(run) = self.next_run() {
            if run.start >= end {
                self.rest = Some(run);
                break;
            }
            group.push(run);
        }
        Some(group)
    }
}

/// A bitmap under construction; bit 0 of its first byte is page `start`.
#[derive(Default)]
struct Bitmap {
    start: u64,
    bytes: Vec<u8>,
}

impl Bitmap {
    /// A gap of this many pages ends a bitmap.
    const GAP: u64 = 2 * REGION;

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64 * 8
    }

    fn add(&mut self, run: Run) {
        if self.bytes.is_empty() {
            self.start = run.start;
        }
        let needed = usize::try_from((run.end() - self.start).div_ceil(8)).unwrap_or(usize::MAX);
        self.bytes.resize(needed, 0);
        for page in run.start - self.start..run.end() - self.start {
            self.bytes[(page / 8) as usize] |= 1 << (page % 8);
        }
    }

    fn flush(&mut self, into: &mut Vec<(u64, String)>) {
        if !self.bytes.is_empty() {
            into.push((self.start, STANDARD_NO_PAD.encode(&self.bytes)));
            self.bytes.clear();
        }
    }
}

/// A page set as encoded in a record: `runs` and `bits` together, disjoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// Pages skipped, pages in the run, pages skipped, …; without the last number if that run
    /// extends to the end of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<u64>,
    /// First page and base64 (without padding) of a bitmap, least significant bit first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bits: Vec<(u64, String)>,
}

impl Encoded {
    /// The set, if this is well-formed and within a file of `limit` pages.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(&self, limit: u64) -> Result<PageSet, &'static str> {
        const BEYOND: &str = "it has pages beyond a file's end";
        let mut runs = Vec::new();
        let (pairs, rest) = self.runs.as_chunks::<2>();
        let mut at = 0_u64;
        let mut add = |skip: u64, count: Option<u64>| {
            let start = at.checked_add(skip).ok_or(BEYOND)?;
            let end = count.map_or(Some(limit), |count| start.checked_add(count));
            at = end.filter(|&end| end <= limit).ok_or(BEYOND)?;
            if at <= start {
                return Err("it has an empty run");
            }
            runs.push(Run { start, count: at - start });
            Ok(())
        };
        for &[skip, count] in pairs {
            add(skip, Some(count))?;
        }
        if let Some(&skip) = rest.first() {
            add(skip, None)?;
        }
        for (start, text) in &self.bits {
            let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| "it has a malformed bitmap")?;
            let end = start.checked_add(bytes.len() as u64 * 8).ok_or(BEYOND)?;
            let set = from_bitmap(*start, &bytes);
            if end > limit && set.end() > limit {
                return Err(BEYOND);
            }
            runs.extend(set.0);
            if runs.len() > MOST_RUNS {
                return Err("it has too many runs in one line");
            }
        }
        disjoint(runs)
    }
}

/// The pages of all these sets.
///
/// # Errors
/// If two of them have a page in common.
pub fn union(mut sets: Vec<PageSet>) -> Result<PageSet, &'static str> {
    if sets.len() == 1 {
        return Ok(sets.remove(0));
    }
    disjoint(sets.into_iter().flat_map(|set| set.0).collect())
}

fn disjoint(mut runs: Vec<Run>) -> Result<PageSet, &'static str> {
    runs.sort_unstable_by_key(|run| run.start);
    if runs.windows(2).any(|pair| pair[0].end() > pair[1].start) {
        return Err("it lists a page twice");
    }
    Ok(runs.into_iter().collect())
}

fn from_bitmap(start: u64, bytes: &[u8]) -> PageSet {
    let mut set = PageSet::default();
    for (index, byte) in bytes.iter().enumerate() {
        for bit in 0..8 {
            if byte & (1 << bit) != 0 {
                set.push(start + index as u64 * 8 + bit, 1);
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Encoded, PageSet, Run};

    fn set(runs: &[(u64, u64)]) -> PageSet {
        runs.iter().map(|&(start, count)| Run { start, count }).collect()
    }

    #[test]
    fn a_vector_of_mincore_becomes_runs() {
        let mut vector = vec![0_u8; 40];
        vector[3..20].fill(1);
        vector[39] = 0x81;
        let mut pages = PageSet::default();
        pages.push_vector(100, &vector);
        assert_eq!(pages, set(&[(103, 17), (139, 1)]));
        assert_eq!(pages.count(), 18);
    }

    #[test]
    fn truncation_cuts_through_runs() {
        let mut pages = set(&[(0, 10), (20, 10), (40, 1)]);
        pages.truncate(25);
        assert_eq!(pages, set(&[(0, 10), (20, 5)]));
        pages.truncate(0);
        assert!(pages.is_empty());
    }

    #[test]
    fn scattered_pages_become_a_bitmap_and_long_runs_do_not() {
        let scattered: PageSet = (0..4096).map(|n| Run { start: n * 2, count: 1 }).collect();
        assert!(scattered.encode(9000).runs.is_empty());
        let long = set(&[(5, 1_000_000), (2_000_000, 7)]);
        let runs = vec![5, 1_000_000, 999_995, 7];
        assert_eq!(long.encode(3_000_000), Encoded { runs, bits: vec![] });
    }

    #[test]
    fn a_file_wholly_in_memory_has_the_shortest_form() {
        let encoded = set(&[(0, 77)]).encode(77);
        assert_eq!(encoded, Encoded { runs: vec![0], bits: vec![] });
        assert_eq!(encoded.decode(77), Ok(set(&[(0, 77)])));
    }

    #[test]
    fn malformed_sets_are_refused() {
        let runs = |runs: &[u64]| Encoded { runs: runs.to_vec(), bits: vec![] }.decode(1000);
        assert!(runs(&[0, 5, 995]).is_err());
        assert!(runs(&[1001]).is_err());
        assert!(runs(&[0, 0]).is_err());
        assert!(runs(&[0, 1001]).is_err());
        assert!(runs(&[u64::MAX, 2]).is_err());
        assert!(runs(&[1, u64::MAX]).is_err());
        let bits = |start, text: &str| Encoded { runs: vec![], bits: vec![(start, text.into())] };
        assert!(bits(0, "!!").decode(1000).is_err());
        assert!(bits(1000, "AQ").decode(1000).is_err());
        assert!(bits(u64::MAX, "AQ").decode(1000).is_err());
        let twice = Encoded { runs: vec![0, 5], bits: vec![(4, "AQ".into())] };
        assert!(twice.decode(1000).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(
            gaps in prop::collection::vec((1_u64..50, 1_u64..50), 0..2000),
            dense in prop::collection::vec((1_u64..4, 1_u64..3), 0..4000),
            far in 0_u64..1_000_000_000,
        ) {
            let mut pages = PageSet::default();
            let mut at = 0;
            for (gap, count) in gaps.iter().chain([&(far + 1, 1)]).chain(&dense).chain(&gaps) {
                pages.push(at + gap, *count);
                at += gap + count;
            }
            for limit in [at, at + 1] {
                prop_assert_eq!(pages.encode(limit).decode(limit), Ok(pages.clone()));
            }
        }

        #[test]
        fn arbitrary_input_never_panics(
            runs in prop::collection::vec(any::<u64>(), 0..20),
            bits in prop::collection::vec((any::<u64>(), "[A-Za-z0-9+/=]{0,40}"), 0..4),
            limit in any::<u64>(),
        ) {
            if let Ok(pages) = (Encoded { runs, bits }).decode(limit) {
                prop_assert!(pages.end() <= limit);
            }
        }
    }
}
