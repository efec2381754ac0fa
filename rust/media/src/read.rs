//! Reading a disk here and there, within bounds.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// The most bytes of one read.
const MOST: usize = 64 << 20;

/// Something with bytes at offsets: a disk, a partition, a logical volume.
pub trait ReadAt {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fill `buffer` from `offset`; `None` beyond the end, or where it cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()>;

    /// `length` bytes from `offset`; `None` as for [`ReadAt::read_at`], and for more than 64 MiB.
    fn bytes(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(length as u64)?;
        if length > MOST || end > self.size() {
            return None;
        }
        let mut buffer = vec![0; length];
        self.read_at(offset, &mut buffer)?;
        Some(buffer)
    }

    /// As [`ReadAt::bytes`], but fewer where the end is nearer.
    fn bytes_up_to(&self, offset: u64, length: usize) -> Vec<u8> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        self.bytes(offset, length.min(left)).unwrap_or_default()
    }
}

/// A shared source: what is in it keeps it.
pub type Source = Rc<dyn ReadAt>;

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let from = usize::try_from(offset).ok()?;
        buffer.copy_from_slice(self.get(from..from.checked_add(buffer.len())?)?);
        Some(())
    }
}

/// A range of another source.
pub struct Window {
    source: Source,
    start: u64,
    length: u64,
}

impl Window {
    /// Of `length` bytes from `start`, or up to the end of `source`.
    pub fn of(source: &Source, start: u64, length: u64) -> Source {
        let length = length.min(source.size().saturating_sub(start));
        Rc::new(Self { source: Rc::clone(source), start, length })
    }
}

impl ReadAt for Window {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(buffer.len() as u64)?;
        (end <= self.length).then_some(())?;
        self.source.read_at(self.start.checked_add(offset)?, buffer)
    }
}

/// The two ends of a device: enough for its signatures.
#[derive(Debug, Clone)]
pub struct Ends<'a> {
    /// Its first bytes.
    pub head: &'a [u8],
    /// Its last bytes.
    pub tail: &'a [u8],
    /// Its size.
    pub size: u64,
}

impl ReadAt for Ends<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let within = |bytes: &[u8], start: u64| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            bytes.get(from..from.checked_add(buffer.len())?).map(<[u8]>::to_vec)
        };
        let tail_start = self.size.checked_sub(self.tail.len() as u64)?;
        let found = within(self.head, 0).or_else(|| within(self.tail, tail_start))?;
        buffer.copy_from_slice(&found);
        Some(())
    }
}

/// Reads through a function, and stops when a budget of bytes is used up or a read fails.
pub struct Guard<F> {
    read: F,
    size: u64,
    left: Cell<u64>,
    failure: RefCell<Option<io::Error>>,
}

impl<F: Fn(u64, &mut [u8]) -> io::Result<()>> Guard<F> {
    /// Of `size` bytes, of which at most `budget` are read.
    pub fn new(size: u64, budget: u64, read: F) -> Self {
        Self { read, size, left: Cell::new(budget), failure: RefCell::new(None) }
    }

    /// Whether the budget was used up, so that not everything was read.
    pub fn exhausted(&self) -> bool {
        self.left.get() == 0
    }

    /// The first failure of the function, if there was one.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.borrow_mut().take()
    }
}

impl<F: Fn(u64, &mut [u8]) -> io::Result<()>> ReadAt for Guard<F> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let wanted = buffer.len() as u64;
        if offset.checked_add(wanted)? > self.size || self.failure.borrow().is_some() {
            return None;
        }
        // A read costs at least a block, so that very many small ones end as well.
        let cost = wanted.max(512);
        if cost > self.left.get() {
            self.left.set(0);
            return None;
        }
        self.left.set(self.left.get() - cost);
        match (self.read)(offset, buffer) {
            Ok(()) => Some(()),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }
}

impl<F> std::fmt::Debug for Guard<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("left", &self.left.get()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("start", &self.start)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
