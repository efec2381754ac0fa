//! Asking the kernel which pages of an open file are in memory, as cheaply as it can be asked.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, Advice, AtFlags, Statx, fadvise};
use rustix::io::Errno;

use super::mincore::{self, PAGES, QUERIES};
use super::pages::PageSet;
use super::sparse::next_data;
use crate::Root;
use crate::sys::{CacheStat, Query, cachestat, has_cachestat, page_size};
use crate::tree::confine::{OpenFile, Refusal, device, mount_of};
use crate::tree::filesystem::{self, Filesystem};
use crate::tree::skips::Reason;

/// Pages asked about in one call of cachestat(2): 128 MiB of 4 KiB pages. A window that is empty or
/// full costs one short call; one that is neither is split into smaller ones.
const WINDOW: u64 = 32 * 1024;
/// The smaller windows: where only a few pages are missing, the kernel steps over large folios in
/// all windows but those few.
const SMALL_WINDOW: u64 = 512;
/// After this many small windows in a row that were neither empty nor full, the pages are taken to
/// be scattered, and are then read one by one without asking about more windows.
const SCATTERED: u32 = 4;
/// Up to this many pages are asked about one by one with cachestat(2), which needs no mapping.
const SINGLY: u64 = 16;
/// Pages at the beginning of a range that are asked about first. Where they are neither all there nor
/// all absent, the same is taken to hold for the range: counting scattered pages costs a third of
/// what finding them does, and is not needed then.
const SAMPLE: u64 = 64;
/// Files of up to this many pages are probed many at a time.
const TOGETHER: u64 = 8 * SMALL_WINDOW;

/// How the residency of what is in these roots is read.
pub fn method(roots: &[Root]) -> &'static str {
    let counted = roots.iter().all(|root| root.filesystem().pages == filesystem::Pages::Counted);
    if counted && has_cachestat() { "cachestat" } else { "mincore" }
}

/// How the pages of one open file are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With cachestat(2) where the kernel has it, and mincore(2) where that is cheaper.
    Counted,
    /// With mincore(2) only.
    Mapped,
}

/// Choose how to ask about a file that [`may_probe`] allows to be asked about.
///
/// Where its file system does not promise that pages show, one of the file's own is read, unless one
/// is in memory, and dropped again: only what is seen then can be believed not to be there later.
/// One such file answers for its mount as long as this thread lives.
///
/// # Errors
/// [`Reason::Uncached`] if the page that was just read is not seen in any way; the system's error.
pub fn way(file: &OpenFile) -> std::result::Result<Way, Refusal> {
    let key = mount_of(&file.stat).unwrap_or_else(|| device(&file.stat));
    let known =
        MOUNTS.with_borrow(|mounts| mounts.iter().find(|(mount, _)| *mount == key).copied());
    let way = match known {
        Some((_, way)) => way,
        None => {
            let pages = Filesystem::of(&file.fd)?.pages;
            let way = (pages != filesystem::Pages::Mapped).then_some(Way::Counted);
            MOUNTS.with_borrow_mut(|mounts| mounts.push((key, way)));
            way
        }
    };
    match way {
        Some(way) => Ok(way),
        None if file.stat.stx_size == 0 => Ok(Way::Mapped),
        None => {
            let way = shown(file)?;
            // A failure to map one file does not predict the next.
            if way == Way::Mapped {
                MOUNTS.with_borrow_mut(|mounts| {
                    mounts.iter_mut().filter(|(mount, _)| *mount == key).for_each(|(_, known)| {
                        *known = Some(way);
                    });
                });
            }
            Ok(way)
        }
    }
}

/// Read a page of a file and see in which way it shows.
fn shown(file: &OpenFile) -> std::result::Result<Way, Refusal> {
    let fd = &file.fd;
    let way_of = || -> rustix::io::Result<Option<Way>> {
        let mut pages = PageSet::default();
        match up_to_date(fd, 0, 1, &mut pages) {
            Ok(()) => Ok((!pages.is_empty()).then_some(Way::Mapped)),
            // It cannot be mapped, so nobody maps another file's pages through it either.
            Err(Errno::NODEV | Errno::INVAL) if has_cachestat() => {
                Ok(cached(fd, 0, 1)?.is_some_and(|cached| cached > 0).then_some(Way::Counted))
            }
            Err(errno) => Err(errno),
        }
    };
    if let Some(way) = way_of()? {
        return Ok(way);
    }
    // One page, without what is read ahead.
    fadvise(fd, 0, None, Advice::Random)?;
    let read = rustix::io::pread(fd, &mut [0_u8], 0);
    fadvise(fd, 0, None, Advice::Normal)?;
    read?;
    let way = way_of()?;
    fadvise(fd, 0, std::num::NonZeroU64::new(page_size()), Advice::DontNeed)?;
    way.ok_or(Refusal { reason: Reason::Uncached, detail: None })
}

/// Whether the kernel reports the true residency of a file to this process.
///
/// Since Linux 5.2 mincore(2) reports *resident* for every page to a process that neither owns the
/// file, nor may write it, nor has CAP_FOWNER; cachestat(2) has an error for that only since 6.12.
/// This is the kernel's own condition (`can_do_mincore` in `mm/mincore.c`).
pub fn may_probe(fd: impl AsFd, stat: &Statx) -> bool {
    if rustix::process::geteuid().as_raw() == stat.stx_uid || has_fowner() {
        return true;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::EACCESS;
    rustix::fs::accessat(fd, c"", Access::WRITE_OK, flags).is_ok()
}

/// Whether this thread has CAP_FOWNER.
fn has_fowner() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::FOWNER))
}

thread_local! {
    /// How to ask about the files of a mount, where that is known: of one in a file system that
    /// promises nothing it is once pages of a file were seen. Mount numbers are used anew, but not
    /// while a call has a root of it open, and so not while this thread lives.
    static MOUNTS: RefCell<Vec<(u64, Option<Way>)>> = const { RefCell::new(Vec::new()) };
}

/// A file to probe together with others.
#[derive(Debug)]
pub struct Probe<'a> {
    /// The file.
    pub fd: &'a OwnedFd,
    /// How it is asked about.
    pub way: Way,
    /// How many pages it has.
    pub pages: u64,
    /// Its pages in memory, once it was probed, or the system's error.
    pub resident: rustix::io::Result<PageSet>,
}

impl<'a> Probe<'a> {
    /// A file of `pages` pages, to be probed.
    pub fn new(fd: &'a OwnedFd, way: Way, pages: u64) -> Self {
        Self { fd, way, pages, resident: Ok(PageSet::default()) }
    }
}

/// Probe many files, the small ones of them together.
pub fn resident_of_many(probes: &mut [Probe<'_>]) {
    let mut mixed = Vec::new();
    for probe in probes {
        let small = probe.pages <= TOGETHER && probe.pages > 0;
        if small && (probe.way == Way::Mapped || !has_cachestat()) {
            mixed.push(probe);
            continue;
        }
        match (small && probe.pages > SINGLY).then(|| share(probe.fd, 0, probe.pages)) {
            Some(Ok(Some(Share::Some))) => mixed.push(probe),
            _ => {
                let mut pages = PageSet::default();
                probe.resident =
                    resident(probe.fd, probe.way, 0, probe.pages, &mut pages).map(|()| pages);
            }
        }
    }
    let mut rest = mixed.as_mut_slice();
    while !rest.is_empty() {
        let mut pages = 0;
        let fit = rest.iter().take(QUERIES).take_while(|probe| {
            pages += probe.pages;
            pages <= PAGES
        });
        let (now, later) = rest.split_at_mut(fit.count());
        probe_together(now);
        rest = later;
    }
}

fn probe_together(probes: &mut [&mut Probe<'_>]) {
    let queries: Vec<_> = probes
        .iter()
        .map(|probe| Query { fd: probe.fd.as_fd(), start: 0, pages: probe.pages })
        .collect();
    let asked = mincore::ask(&queries, |index, vector| {
        probes[index].resident = vector.map(|vector| {
            let mut pages = PageSet::default();
            pages.push_vector(0, vector);
            pages
        });
    });
    if let Err(errno) = asked {
        probes.iter_mut().for_each(|probe| probe.resident = Err(errno));
    }
}

/// The pages of `[start, end)` of a file that are in memory, added to `into`, which has none behind
/// `start` yet. Pages still being read may count.
///
/// # Errors
/// The system's error.
pub fn resident(
    fd: &OwnedFd,
    way: Way,
    start: u64,
    end: u64,
    into: &mut PageSet,
) -> rustix::io::Result<()> {
    if way == Way::Mapped || !has_cachestat() {
        return up_to_date(fd, start, end, into);
    }
    for (from, to) in windows(start, end, WINDOW) {
        match share(fd, from, to)? {
            Some(Share::None) => {}
            Some(Share::All) => into.push(from, to - from),
            Some(Share::Some) if to - from <= SINGLY => {
                for page in from..to {
                    into.push(page, cached(fd, page, page + 1)?.unwrap_or(0));
                }
            }
            Some(Share::Some) => mixed(fd, from, to, into)?,
            None => up_to_date(fd, from, to, into)?,
        }
    }
    Ok(())
}

/// A window that is neither empty nor full.
fn mixed(fd: &OwnedFd, start: u64, end: u64, into: &mut PageSet) -> rustix::io::Result<()> {
    let mut in_a_row = 0;
    for (from, to) in windows(start, end, SMALL_WINDOW) {
        if in_a_row == SCATTERED || end - start <= SMALL_WINDOW {
            return up_to_date(fd, from, end, into);
        }
        match cached(fd, from, to)? {
            Some(0) => in_a_row = 0,
            Some(all) if all == to - from => {
                in_a_row = 0;
                into.push(from, all);
            }
            _ => {
                in_a_row += 1;
                up_to_date(fd, from, to, into)?;
            }
        }
    }
    Ok(())
}

/// As [`resident`], page by page, and pages still being read do not count.
///
/// # Errors
/// The system's error.
pub fn up_to_date(
    fd: &OwnedFd,
    start: u64,
    end: u64,
    into: &mut PageSet,
) -> rustix::io::Result<()> {
    for (from, to) in windows(start, end, WINDOW) {
        let mut answer = Ok(());
        let query = Query { fd: fd.as_fd(), start: from, pages: to - from };
        mincore::ask(&[query], |_, vector| {
            answer = vector.map(|vector| into.push_vector(from, vector));
        })?;
        answer?;
    }
    Ok(())
}

/// Cut `[start, end)` at multiples of `size`, which are the borders of large folios.
fn windows(start: u64, end: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut from = start;
    std::iter::from_fn(move || {
        let to = ((from / size + 1) * size).min(end);
        let window = (from < end).then_some((from, to));
        from = to;
        window
    })
}

/// Whether any page of `[start, end)` can be in memory. Where only mincore(2) can be asked, pages in
/// holes are not counted.
///
/// # Errors
/// The system's error.
pub fn has_any(fd: &OwnedFd, way: Way, start: u64, end: u64) -> rustix::io::Result<bool> {
    if way == Way::Counted
        && has_cachestat()
        && let Some(share) = share(fd, start, end)?
    {
        return Ok(share != Share::None);
    }
    Ok(next_data(fd, start, end)?.is_some())
}

/// How much of a range is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    Some,
    All,
}

/// How much of `[start, end)` is in the cache, or `None` where the kernel does not report it.
fn share(fd: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<Option<Share>> {
    let share = |to| {
        Ok(cached(fd, start, to)?.map(|pages| match pages {
            0 => Share::None,
            all if all == to - start => Share::All,
            _ => Share::Some,
        }))
    };
    if end - start > 2 * SAMPLE
        && let Some(Share::Some) = share(start + SAMPLE)?
    {
        return Ok(Some(Share::Some));
    }
    share(end)
}

/// How many pages of `[start, end)` are in the cache, or `None` where the kernel does not report
/// it.
fn cached(fd: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<Option<u64>> {
    match cachestat(fd, start * page_size(), (end - start) * page_size()) {
        Ok(stat) => Ok(Some(stat.cached)),
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What the page cache holds of a whole file of `size` bytes, and whether the kernel reported more
/// than the number of cached pages.
///
/// # Errors
/// The system's error.
pub fn statistics(fd: &OwnedFd, way: Way, size: u64) -> rustix::io::Result<(CacheStat, bool)> {
    let counted = way == Way::Counted && has_cachestat();
    if size == 0 {
        return Ok((CacheStat::default(), counted));
    }
    if counted {
        match cachestat(fd, 0, 0) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            other => return Ok((other?, true)),
        }
    }
    let pages = size.div_ceil(page_size());
    let (mut cached, mut from) = (0, 0);
    while let Some((start, end)) = next_data(fd, from, pages)? {
        let mut set = PageSet::default();
        up_to_date(fd, start, end, &mut set)?;
        cached += set.count();
        from = end;
    }
    Ok((CacheStat { cached, ..CacheStat::default() }, false))
}
