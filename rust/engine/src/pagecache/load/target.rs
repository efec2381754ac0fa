//! A file that pages are loaded into: which of the dump's pages it still has, and which are absent.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::Policy;
use crate::pagecache::pages::PageSet;
use crate::pagecache::probe::{Way, may_probe, resident, up_to_date, way};
use crate::pagecache::record::Entry;
use crate::sys::page_size;
use crate::tree::confine::{OpenFile, Refusal, mtime_ms, open_file};
use crate::tree::skips::Reason;
use crate::{Progress, Root};

/// An open file.
#[derive(Debug)]
pub struct Target {
    /// The file.
    pub file: OpenFile,
    way: Way,
    record_page_size: u64,
}

/// Those of a dump's pages that are worth loading, and the others by reason.
#[derive(Debug, Default)]
pub struct Wanted {
    /// To be loaded.
    pub pages: PageSet,
    /// Numbers of pages.
    pub dropped: Vec<(Reason, u64)>,
}

impl Wanted {
    /// How many pages there are, with those that are not worth loading.
    pub fn asked(&self) -> u64 {
        self.pages.count() + self.dropped.iter().map(|(_, pages)| pages).sum::<u64>()
    }
}

impl Target {
    /// Open the file of an entry, if the policy takes it for the file that was dumped.
    ///
    /// # Errors
    /// Why it is to be skipped.
    pub fn open(
        root: &Root,
        entry: &Entry,
        policy: Policy,
        record_page_size: u64,
        progress: &Progress,
    ) -> Result<Self, Refusal> {
        let file = open_file(root.fd(), &entry.path, progress)?;
        let stat = &file.stat;
        let same = stat.stx_size == entry.size && mtime_ms(stat) == entry.mtime_ms;
        let reason = if policy == Policy::Strict && !same {
            Reason::Changed
        } else if stat.stx_size > 0 && !may_probe(&file.fd, stat) {
            // What cannot be verified must not be reported as loaded.
            Reason::NotPermitted
        } else {
            let way = way(&file)?;
            return Ok(Self { file, way, record_page_size });
        };
        Err(Refusal { reason, detail: None })
    }

    /// Which of the dumped pages to load.
    pub fn want(&self, dumped: &PageSet) -> Wanted {
        let mut pages = convert(dumped, self.record_page_size);
        let mut dropped = Vec::new();
        let mut note = |reason, before: u64, after: u64| {
            if after < before {
                dropped.push((reason, before - after));
            }
            after
        };
        let asked = pages.count();
        pages.truncate(self.file.stat.stx_size.div_ceil(page_size()));
        let existing = note(Reason::BeyondEnd, asked, pages.count());
        let allocated = self.file.stat.stx_blocks.saturating_mul(512);
        if allocated < self.file.stat.stx_size
            && let Ok(data) = self.without_holes(&pages)
        {
            note(Reason::Hole, existing, data.count());
            pages = data;
        }
        Wanted { pages, dropped }
    }

    /// Those of `pages` that are not in holes.
    fn without_holes(&self, pages: &PageSet) -> rustix::io::Result<PageSet> {
        let fd = &self.file.fd;
        let mut kept = PageSet::default();
        let mut hole = 0;
        for run in pages.runs() {
            let (mut at, end) = (run.start, run.end());
            while at < end {
                if at >= hole {
                    let data = match seek(fd, SeekFrom::Data(at * page_size())) {
                        Err(Errno::NXIO) => return Ok(kept),
                        other => other? / page_size(),
                    };
                    at = at.max(data);
                    if at >= end {
                        break;
                    }
                    hole = seek(fd, SeekFrom::Hole(at * page_size()))?.div_ceil(page_size());
                }
                let to = end.min(hole);
                kept.push(at, to - at);
                at = to;
            }
        }
        Ok(kept)
    }

    /// Those of `pages` that are not in the cache, nor on their way into it.
    ///
    /// # Errors
    /// The system's error.
    pub fn absent(&self, pages: &PageSet) -> rustix::io::Result<PageSet> {
        self.probe(pages, |fd, start, end, into| resident(fd, self.way, start, end, into))
    }

    /// Those of `pages` that are not in memory with all their data at this moment.
    ///
    /// # Errors
    /// The system's error.
    pub fn absent_now(&self, pages: &PageSet) -> rustix::io::Result<PageSet> {
        self.probe(pages, up_to_date)
    }

    fn probe(
        &self,
        pages: &PageSet,
        ask: impl Fn(&OwnedFd, u64, u64, &mut PageSet) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<PageSet> {
        let mut absent = PageSet::default();
        // Neighbouring runs are asked about together, and far ones apart: a gap costs time as well.
        for group in pages.runs().chunk_by(|a, b| b.start - a.end() < NEAR) {
            let (start, end) = (group[0].start, group[group.len() - 1].end());
            let mut resident = PageSet::default();
            ask(&self.file.fd, start, end, &mut resident)?;
            subtract(group, &resident, &mut absent);
        }
        Ok(absent)
    }
}

/// Pages between runs below which one question for both is cheaper than two.
const NEAR: u64 = 64;

/// Add to `into` the pages of `runs` that are not in `taken`.
fn subtract(runs: &[crate::pagecache::pages::Run], taken: &PageSet, into: &mut PageSet) {
    let mut taken = taken.runs().iter().copied().peekable();
    for run in runs {
        let mut at = run.start;
        while let Some(next) = taken.peek() {
            if next.end() <= at {
                taken.next();
                continue;
            }
            if next.start >= run.end() {
                break;
            }
            into.push(at, next.start.saturating_sub(at));
            at = next.end();
            if at >= run.end() {
                // It may reach into the next run as well.
                break;
            }
        }
        into.push(at, run.end().saturating_sub(at));
    }
}

/// The same bytes in pages of this machine.
fn convert(dumped: &PageSet, record_page_size: u64) -> PageSet {
    if record_page_size == page_size() {
        return dumped.clone();
    }
    let mut pages = PageSet::default();
    for run in dumped.runs() {
        let start = (run.start.saturating_mul(record_page_size) / page_size()).max(pages.end());
        let end = run.end().saturating_mul(record_page_size).div_ceil(page_size());
        pages.push(start, end.saturating_sub(start));
    }
    pages
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::subtract;
    use crate::pagecache::pages::{PageSet, Run};

    fn collect(pages: &BTreeSet<u64>) -> PageSet {
        pages.iter().map(|&start| Run { start, count: 1 }).collect()
    }

    proptest! {
        #[test]
        fn subtraction_is_that_of_sets(
            wanted in prop::collection::btree_set(0_u64..80, 0..60),
            taken in prop::collection::btree_set(0_u64..80, 0..60),
        ) {
            let mut found = PageSet::default();
            subtract(collect(&wanted).runs(), &collect(&taken), &mut found);
            prop_assert_eq!(found, collect(&(&wanted - &taken)));
        }
    }
}
