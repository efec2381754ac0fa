//! Asking mincore(2), in this process or, where there is much to ask, in another.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock};

use crate::sys::{Arena, Prober, Query};

/// Queries in one call of [`ask`].
pub const QUERIES: usize = 128;
/// Pages in one call of [`ask`]. In this process it is address space, not memory.
pub const PAGES: u64 = 64 * 1024;
/// Pages that a thread asks about itself before it starts a process for that. Starting one takes
/// about as long as that.
const ALONE: u64 = 16 * 1024;
/// Pages for which it is not worth waking the process.
const FEW: u64 = 1024;

/// Held for reading while mincore(2) is called, for writing while files are mapped. In the kernel
/// these two take the lock on the memory map, for which each mapping would wait between two probes,
/// and all probes for it: with a lock of our own around many files at a time, threads probe in
/// parallel.
static MAPPING: RwLock<()> = RwLock::new(());

thread_local! {
    /// It goes with its thread, and threads live as long as one call.
    static MAPPER: RefCell<Mapper> = const { RefCell::new(Mapper::new()) };
}

/// Where a thread maps files.
struct Mapper {
    asked: u64,
    prober: Probing,
    arena: Option<Arena>,
}

enum Probing {
    NotYet,
    By(Prober),
    /// It could not be started, or was killed.
    Never,
}

/// Call `answer` for each query with a byte for each of its pages, of which bit 0 is set if the page
/// is in memory and up to date, or with the system's error.
///
/// # Errors
/// `ENOMEM` under a limit on address space.
///
/// # Panics
/// With more than [`QUERIES`] queries, or more than [`PAGES`] pages in all.
pub fn ask(
    queries: &[Query<'_>],
    answer: impl FnMut(usize, rustix::io::Result<&[u8]>),
) -> rustix::io::Result<()> {
    MAPPER.with_borrow_mut(|mapper| mapper.ask(queries, answer))
}

impl Mapper {
    const fn new() -> Self {
        Self { asked: 0, prober: Probing::NotYet, arena: None }
    }

    fn ask(
        &mut self,
        queries: &[Query<'_>],
        mut answer: impl FnMut(usize, rustix::io::Result<&[u8]>),
    ) -> rustix::io::Result<()> {
        let pages = queries.iter().map(|query| query.pages).sum();
        self.asked += pages;
        if matches!(self.prober, Probing::NotYet) && self.asked > ALONE {
            self.prober = Prober::start().map_or(Probing::Never, Probing::By);
        }
        if let Probing::By(prober) = &mut self.prober
            && pages >= FEW
        {
            match prober.ask(queries, &mut answer) {
                Ok(()) => return Ok(()),
                Err(_) => self.prober = Probing::Never,
            }
        }
        self.ask_here(queries, pages, answer)
    }

    fn ask_here(
        &mut self,
        queries: &[Query<'_>],
        pages: u64,
        mut answer: impl FnMut(usize, rustix::io::Result<&[u8]>),
    ) -> rustix::io::Result<()> {
        let arena = match &mut self.arena {
            Some(arena) => arena,
            none => none.insert(Arena::new(PAGES)?),
        };
        arena.reuse();
        let mapped: Vec<_> = {
            let _alone = MAPPING.write().unwrap_or_else(PoisonError::into_inner);
            queries.iter().map(|query| arena.map(query.fd, query.start, query.pages)).collect()
        };
        let _together = MAPPING.read().unwrap_or_else(PoisonError::into_inner);
        let mut vector = vec![0; pages as usize];
        for (index, (query, mapping)) in queries.iter().zip(mapped).enumerate() {
            let vector = &mut vector[..query.pages as usize];
            let result = mapping.and_then(|mapping| mapping.mincore(query.start, vector));
            answer(index, result.map(|()| &*vector));
        }
        Ok(())
    }
}
