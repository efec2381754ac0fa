//! The results of each file, as findings and counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Verify;
use super::names::Check;
use crate::Result;
use crate::manifest::record::Type;
use crate::manifest::report::{Finding, FindingKind, Reason};
use crate::tree::confine::Refusal;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) checked: AtomicU64,
    pub(super) matching: AtomicU64,
    pub(super) mismatched: AtomicU64,
    pub(super) missing: AtomicU64,
    pub(super) extra: AtomicU64,
    pub(super) changed: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) unproven: AtomicU64,
    pub(super) mismatched_bytes: AtomicU64,
}

impl Verify<'_> {
    /// Report on files of which nothing is read: those of another size without common chunks.
    pub(super) fn settle_without_reading(&self) -> Result<()> {
        for check in self.checks.iter().filter(|check| check.parts == 0) {
            self.progress.add_files(1);
            if check.size != check.found {
                self.settle(check, &[], &[], None)?;
            }
        }
        Ok(())
    }

    /// Report the result of a file.
    pub(super) fn settle(
        &self,
        check: &Check,
        differing: &[[u64; 2]],
        unreadable: &[[u64; 2]],
        detail: Option<&str>,
    ) -> Result<()> {
        let counts = &self.counts;
        let names = check.paths.len() as u64;
        let mut differing = differing.to_vec();
        let resized = check.size != check.found;
        if resized {
            // Behind the chunks that could be compared.
            let chunk = check.chunks.as_ref().map_or(0, |chunks| chunks.size);
            let from = u64::from(check.comparable()) * chunk;
            differing.push([from, check.size.max(check.found)]);
        }
        counts.checked.fetch_add(if check.parts > 0 { names } else { 0 }, Ordering::Relaxed);
        let unread = detail.is_some();
        if differing.is_empty() && !unread {
            counts.matching.fetch_add(names, Ordering::Relaxed);
            return Ok(());
        }
        let differing = merged(differing);
        for path in &check.paths {
            if !differing.is_empty() {
                counts.mismatched.fetch_add(1, Ordering::Relaxed);
                let bytes: u64 = differing.iter().map(|[from, to]| to - from).sum();
                counts.mismatched_bytes.fetch_add(bytes, Ordering::Relaxed);
                let reason = if resized { Reason::Size } else { Reason::Content };
                let finding = Finding::new(path, FindingKind::Mismatched, Type::File);
                self.report.add(&finding.reason(reason).ranges(&differing))?;
            }
            if unread {
                counts.unreadable.fetch_add(1, Ordering::Relaxed);
                let finding = Finding::new(path, FindingKind::Unreadable, Type::File);
                let ranges = merged(unreadable.to_vec());
                self.report.add(&finding.detail(detail).ranges(&ranges))?;
            }
        }
        Ok(())
    }

    /// Report a file that cannot be opened.
    pub(super) fn absent(&self, check: &Check, refusal: &Refusal) -> Result<()> {
        self.progress.add_files(1);
        for path in &check.paths {
            let finding = if refusal.reason == crate::tree::skips::Reason::Vanished {
                self.counts.missing.fetch_add(1, Ordering::Relaxed);
                Finding::new(path, FindingKind::Missing, Type::File)
            } else {
                self.counts.unreadable.fetch_add(1, Ordering::Relaxed);
                let words = refusal.words();
                Finding::new(path, FindingKind::Unreadable, Type::File).detail(Some(&words))
            };
            self.report.add(&finding)?;
        }
        Ok(())
    }
}

/// Ranges in order, those that touch merged.
fn merged(mut ranges: Vec<[u64; 2]>) -> Vec<[u64; 2]> {
    ranges.sort_unstable();
    let mut merged: Vec<[u64; 2]> = Vec::new();
    for [from, to] in ranges {
        match merged.last_mut() {
            Some(last) if last[1] >= from => last[1] = last[1].max(to),
            _ => merged.push([from, to]),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(merged(vec![[4, 8], [0, 2], [8, 9], [5, 6]]), vec![[0, 2], [4, 9]]);
        assert_eq!(merged(Vec::new()), Vec::<[u64; 2]>::new());
    }
}
