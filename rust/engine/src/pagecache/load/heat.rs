//! Which pages of a dump will be needed, by what the dumps before it show.
//!
//! A page that was in memory each time is needed more often than one that has just come, and more so
//! where the pages of its file stay from one dump to the next: in a file that is read through, what
//! is there now is not what will be read next. The expected use of a page is the share of the dumps
//! that have it, times the share of its file's pages in one dump that are in the next as well.
//!
//! Memory: 64 bytes for each 64 pages of a file of which the dump has one, so at most 1.6 % of the
//! pages, and about as much for each file; [`PLACES`] of both together, 256 MiB.

use std::collections::HashMap;

use crate::pagecache::pages::{PageSet, Run};
use crate::pagecache::record::{Dump, Entry};
use crate::xxh64::Xxh64;
use crate::{Progress, Result};

/// The most dumps that count.
pub const DUMPS: usize = 6;
/// The level of a page that is certain to be needed. The lowest level is 1.
pub const LEVELS: u8 = 60;
/// The most blocks and files together that are kept.
const PLACES: usize = 1 << 22;
/// Pages of a block.
const BLOCK: u64 = 64;
/// The most changes of level in one line of a dump; what comes after has the mean level.
const CHANGES: u64 = 1 << 20;

/// In which dumps the pages of a block are: a bit for each page, the loaded dump first.
#[derive(Debug)]
struct Block {
    file: u32,
    number: u64,
    dumps: [u64; DUMPS],
}

/// A file of the loaded dump.
#[derive(Debug)]
struct File {
    /// As the oldest dump that counts for it has them.
    size: u64,
    mtime_ms: i64,
    /// Number of the oldest dump that counts for it.
    oldest: u8,
    /// Whether an older dump has another file of that name.
    replaced: bool,
    /// The first of its blocks, and the one behind the last.
    blocks: [u32; 2],
    /// The level of a page by the number of dumps that have it; `None` if nothing is known.
    levels: Option<[u8; DUMPS + 1]>,
}

/// The expected use of each page of a dump.
#[derive(Debug)]
pub struct Heat {
    names: HashMap<u64, usize>,
    files: Vec<File>,
    blocks: Vec<Block>,
    mean: u8,
}

impl Heat {
    /// Read the dump that is to be loaded; `None` if it takes more memory than is allowed.
    ///
    /// # Errors
    /// As [`Dump::next`].
    pub fn new(mut loaded: Dump, progress: &Progress) -> Result<Option<Self>> {
        let mut heat =
            Self { names: HashMap::new(), files: Vec::new(), blocks: Vec::new(), mean: LEVELS / 2 };
        while let Some(entry) = loaded.next(progress)? {
            let nth = *heat.names.entry(name(&entry)).or_insert(heat.files.len());
            if nth == heat.files.len() {
                heat.files.push(File {
                    size: entry.size,
                    mtime_ms: entry.mtime_ms,
                    oldest: 0,
                    replaced: false,
                    blocks: [0; 2],
                    levels: None,
                });
            }
            for run in entry.pages.runs() {
                for number in run.start / BLOCK..run.end().div_ceil(BLOCK) {
                    if heat.blocks.len() + heat.files.len() >= PLACES {
                        return Ok(None);
                    }
                    let bits = bits(*run, number);
                    match heat.blocks.last_mut() {
                        Some(last) if last.number == number && last.file as usize == nth => {
                            last.dumps[0] |= bits;
                        }
                        _ => heat.blocks.push(Block {
                            file: u32::try_from(nth).unwrap_or(u32::MAX),
                            number,
                            dumps: std::array::from_fn(|dump| if dump == 0 { bits } else { 0 }),
                        }),
                    }
                }
            }
        }
        heat.index();
        Ok(Some(heat))
    }

    /// Sort the blocks, and note which are of which file.
    fn index(&mut self) {
        self.blocks.sort_unstable_by_key(|block| (block.file, block.number));
        // Lines of one file may share a block.
        self.blocks.dedup_by(|next, kept| {
            let same = (next.file, next.number) == (kept.file, kept.number);
            if same {
                kept.dumps[0] |= next.dumps[0];
            }
            same
        });
        let mut start = 0;
        for blocks in self.blocks.chunk_by(|a, b| a.file == b.file) {
            let end = start + u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            self.files[blocks[0].file as usize].blocks = [start, end];
            start = end;
        }
    }

    /// Read dump number `number`, counted from the loaded one, which is number 0, to older ones.
    ///
    /// # Errors
    /// As [`Dump::next`]. Check the dump before: what was read until then counts.
    pub fn add(&mut self, number: usize, mut earlier: Dump, progress: &Progress) -> Result<()> {
        while let Some(entry) = earlier.next(progress)? {
            let Some(&nth) = self.names.get(&name(&entry)) else { continue };
            let file = &mut self.files[nth];
            if !file.continues(&entry) {
                file.replaced = true;
                continue;
            }
            file.size = entry.size;
            file.mtime_ms = entry.mtime_ms;
            file.oldest = u8::try_from(number).unwrap_or(u8::MAX);
            let blocks = &mut self.blocks[file.range()];
            for run in entry.pages.runs() {
                let first = blocks.partition_point(|block| block.number < run.start / BLOCK);
                for block in &mut blocks[first..] {
                    if block.number * BLOCK >= run.end() {
                        break;
                    }
                    block.dumps[number] |= bits(*run, block.number);
                }
            }
        }
        Ok(())
    }

    /// Set the levels, after the last dump. Returns whether anything is known of any file.
    pub fn settle(&mut self) -> bool {
        let (mut sum, mut pages) = (0, 0_u64);
        for file in &mut self.files {
            let blocks = &self.blocks[file.range()];
            file.levels = file.expect(blocks);
            let Some(levels) = file.levels else { continue };
            for block in blocks {
                for bit in (0..BLOCK).filter(|bit| block.dumps[0] >> bit & 1 == 1) {
                    sum += u64::from(levels[block.times(bit)]);
                    pages += 1;
                }
            }
        }
        // Of a new file nothing is known but that others are like this.
        if let Some(mean) = (sum + pages / 2).checked_div(pages) {
            self.mean = u8::try_from(mean).unwrap_or(LEVELS);
        }
        pages > 0
    }

    /// Visit runs of pages of one level, of an entry of the loaded dump: first page, number of
    /// pages, level.
    pub fn each_run(&self, entry: &Entry, pages: &PageSet, mut visit: impl FnMut(u64, u64, u8)) {
        let file = self.names.get(&name(entry)).map(|&nth| &self.files[nth]);
        let Some((file, levels)) = file.and_then(|file| Some((file, file.levels?))) else {
            return pages.runs().iter().for_each(|run| visit(run.start, run.count, self.mean));
        };
        let blocks = &self.blocks[file.range()];
        let first = pages.runs().first().map_or(0, |run| run.start / BLOCK);
        let mut nth = blocks.partition_point(|block| block.number < first);
        let mut changes = 0;
        for run in pages.runs() {
            let (mut start, mut level) = (run.start, 0);
            for page in run.start..run.end() {
                if changes == CHANGES {
                    visit(start, run.end() - start, self.mean);
                    start = run.end();
                    break;
                }
                while blocks.get(nth).is_some_and(|block| block.number < page / BLOCK) {
                    nth += 1;
                }
                let here =
                    blocks.get(nth).map_or(self.mean, |block| levels[block.times(page % BLOCK)]);
                if here != level {
                    if page > start {
                        visit(start, page - start, level);
                        changes += 1;
                    }
                    (start, level) = (page, here);
                }
            }
            if start < run.end() {
                visit(start, run.end() - start, level);
            }
        }
    }
}

impl File {
    /// Whether an entry of an older dump is of the same file: files grow and are written, but one
    /// that was larger or younger before is another by that name, or its content is.
    fn continues(&self, older: &Entry) -> bool {
        !self.replaced
            && older.size <= self.size
            && (older.mtime_ms < self.mtime_ms
                || (older.mtime_ms == self.mtime_ms && older.size == self.size))
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.blocks[0] as usize..self.blocks[1] as usize
    }

    /// Levels by the number of dumps that have a page; `None` if no earlier one is of this file.
    fn expect(&self, blocks: &[Block]) -> Option<[u8; DUMPS + 1]> {
        let (mut before, mut stayed) = (0_u64, 0_u64);
        for block in blocks {
            for pair in block.dumps[..=usize::from(self.oldest)].windows(2) {
                before += u64::from(pair[1].count_ones());
                stayed += u64::from((pair[1] & pair[0]).count_ones());
            }
        }
        let dumps = f64::from(self.oldest) + 1.0;
        (before > 0).then(|| {
            let share = stayed as f64 / before as f64 * f64::from(LEVELS) / dumps;
            // A page has at least the lowest level: it may be needed.
            std::array::from_fn(|times| (share * times as f64).round().max(1.0) as u8)
        })
    }
}

impl Block {
    /// How many dumps have a page. Those that do not count for its file have no bit in it.
    fn times(&self, bit: u64) -> usize {
        self.dumps.iter().filter(|dump| *dump >> bit & 1 == 1).count()
    }
}

/// The pages of block `number` that are in a run that has some of them.
fn bits(run: Run, number: u64) -> u64 {
    let first = number * BLOCK;
    let start = run.start.max(first) - first;
    let end = run.end().min(first + BLOCK) - first;
    (u64::MAX >> (BLOCK - (end - start))) << start
}

/// A number for a file's name. That two have the same is no harm: their pages count together.
fn name(entry: &Entry) -> u64 {
    let mut digest = Xxh64::default();
    digest.update(&entry.root.to_le_bytes());
    digest.update(&entry.path);
    digest.digest()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::{DUMPS, Heat, LEVELS};
    use crate::Progress;
    use crate::pagecache::pages::{PageSet, Run};
    use crate::pagecache::record::Dump;
    use crate::xxh64::xxh64;

    type Pages = BTreeSet<u64>;
    /// Name, size in pages, modification time, pages in memory.
    type Line<'a> = (&'a str, u64, i64, &'a Pages);

    const SIZE: u64 = 200;

    fn dump(lines: &[Line<'_>]) -> Dump {
        let mut text = concat!(
            r#"{"format":"holdfast-pagecache-dump","version":1,"page_size":4096,"#,
            r#""roots":["/r"]}"#,
            "\n"
        )
        .to_owned();
        let mut total = 0;
        for (path, size, mtime_ms, pages) in lines {
            let set: PageSet = pages.iter().map(|&start| Run { start, count: 1 }).collect();
            let tier = serde_json::to_string(&set.encode(*size)).unwrap();
            let size = size * 4096;
            text.push_str(&format!(
                r#"{{"path":"{path}","size":{size},"mtime_ms":{mtime_ms},"tiers":[{tier}]}}"#
            ));
            text.push('\n');
            total += pages.len();
        }
        let (files, bytes, digest) = (lines.len(), total * 4096, xxh64(text.as_bytes()));
        text.push_str(&format!(r#"{{"files":{files},"bytes":{bytes},"xxh64":"{digest:016x}"}}"#));
        text.push('\n');
        let record = zstd::encode_all(Cursor::new(text), 1).unwrap();
        Dump::read(Cursor::new(record), 1 << 30).unwrap()
    }

    /// What the dumps show, the one to load first.
    fn heat(dumps: &[Vec<Line<'_>>]) -> Heat {
        let progress = Progress::default();
        let mut heat = Heat::new(dump(&dumps[0]), &progress).unwrap().unwrap();
        for (number, lines) in dumps.iter().enumerate().skip(1) {
            heat.add(number, dump(lines), &progress).unwrap();
        }
        heat.settle();
        heat
    }

    /// The level of each page of each file of a dump.
    fn levels(heat: &Heat, lines: &[Line<'_>]) -> Vec<Vec<(u64, u8)>> {
        let mut dump = dump(lines);
        let mut levels = Vec::new();
        while let Some(entry) = dump.next(&Progress::default()).unwrap() {
            let mut found = Vec::new();
            heat.each_run(&entry, &entry.pages, |start, count, level| {
                found.extend((start..start + count).map(|page| (page, level)));
            });
            levels.push(found);
        }
        levels
    }

    #[test]
    fn a_file_that_was_larger_or_younger_was_another() {
        let (all, half) = ((0..SIZE).collect(), (0..SIZE / 2).collect());
        let last = vec![("f", SIZE, 5, &all), ("g", SIZE, 5, &all)];
        for (size, time, same) in [
            (SIZE, 5, true),
            (SIZE - 1, 4, true),
            (SIZE - 1, 5, false),
            (SIZE + 1, 4, false),
            (SIZE, 6, false),
        ] {
            let before = vec![("f", size, time, &half), ("g", SIZE, 5, &half)];
            let found = levels(&heat(&[last.clone(), before]), &last);
            // In one of two dumps, or like the mean of the other file.
            let expected = if same { (LEVELS, LEVELS / 2) } else { (45, 45) };
            assert_eq!((found[0][0].1, found[0][SIZE as usize - 1].1), expected, "{size} {time}");
        }
    }

    #[test]
    fn nothing_is_known_without_a_file_in_two_dumps() {
        let (some, none) = ((0..9).collect(), BTreeSet::new());
        let progress = Progress::default();
        let mut heat = Heat::new(dump(&[("f", SIZE, 5, &some)]), &progress).unwrap().unwrap();
        heat.add(1, dump(&[("g", SIZE, 5, &some)]), &progress).unwrap();
        heat.add(2, dump(&[("f", SIZE, 5, &none)]), &progress).unwrap();
        assert!(!heat.settle());
    }

    #[test]
    fn a_claim_of_too_many_places_is_refused() {
        let all: Pages = [0].into();
        let mut lines = vec![("f", SIZE, 5, &all); 2];
        assert!(Heat::new(dump(&lines), &Progress::default()).unwrap().is_some());
        let text = format!(
            "{}\n{}\n",
            r#"{"format":"holdfast-pagecache-dump","version":1,"page_size":4096,"roots":["/r"]}"#,
            r#"{"path":"f","size":4503599627370496,"mtime_ms":0,"tiers":[{"runs":[0,68719476736]}]}"#,
        );
        let huge = zstd::encode_all(Cursor::new(text), 1).unwrap();
        let huge = Dump::read(Cursor::new(huge), 1 << 20).unwrap();
        assert!(Heat::new(huge, &Progress::default()).unwrap().is_none());
        lines.clear();
    }

    proptest! {
        #[test]
        fn levels_are_those_of_a_plain_count(
            dumps in prop::collection::vec(
                prop::collection::btree_set(0_u64..SIZE, 0..120), 2..=DUMPS
            ),
        ) {
            let lines: Vec<_> = dumps.iter().map(|pages| vec![("f", SIZE, 5, pages)]).collect();
            let found = levels(&heat(&lines), &lines[0]);
            // A dump without a page of a block of the last one does not count there.
            let blocks: BTreeSet<u64> = dumps[0].iter().map(|page| page / 64).collect();
            let known: Vec<Pages> = dumps
                .iter()
                .map(|dump| dump.iter().copied().filter(|at| blocks.contains(&(at / 64))).collect())
                .collect();
            let before: usize = known[1..].iter().map(BTreeSet::len).sum();
            let stayed: usize =
                known.windows(2).map(|pair| pair[0].intersection(&pair[1]).count()).sum();
            for &(page, level) in &found[0] {
                let times = dumps.iter().filter(|dump| dump.contains(&page)).count();
                let expected = if before == 0 {
                    LEVELS / 2
                } else {
                    let share = times as f64 / dumps.len() as f64 * stayed as f64 / before as f64;
                    (share * f64::from(LEVELS)).round().max(1.0) as u8
                };
                // Two ways of rounding a half.
                prop_assert!(level.abs_diff(expected) <= 1, "{page}: {level}, not {expected}");
            }
            prop_assert!(found[0].iter().map(|(page, _)| *page).eq(dumps[0].iter().copied()));
        }
    }
}
