//! A file that is being put together in the staging directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_engine::manifest::record::chunk_size;
use holdfast_engine::read::buffers::Buffer;
use holdfast_engine::space;
use holdfast_engine::tree::confine::{DIOALIGN, stat};
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, fadvise, fallocate, openat};

use crate::destination::journal::Chunks;
use crate::destination::staging::Staging;
use crate::message::{End, Table};
use crate::ranges::Ranges;
use crate::{Error, Result};

/// What direct writes are aligned to, unless the file system wants more.
const ALIGNMENT: usize = 4096;

/// The file.
#[derive(Debug)]
pub struct Target {
    /// Which want it is.
    pub want: u32,
    /// Its path below the destination.
    pub path: Arc<[u8]>,
    /// Its name in the staging directory.
    pub name: u64,
    /// Its size when it is whole, in bytes.
    pub size: u64,
    /// Whether it began as an older version.
    pub based: bool,
    /// Through the page cache, for what is not aligned.
    pub plain: File,
    /// Past the page cache, where the file system can.
    direct: Option<(File, usize)>,
    state: Mutex<State>,
    compared: Condvar,
}

/// What of it is there.
#[derive(Debug, Default)]
pub struct State {
    /// Bytes that arrived, of chunks that are not whole.
    parts: HashMap<u32, Ranges>,
    /// Chunks that are whole.
    pub whole: BTreeMap<u32, bool>,
    /// Digests and states of chunks.
    pub digests: Chunks,
    /// Chunks that the source found to differ, once it compared, and the digests that they will
    /// have. The source confirms each after it sent it: it may change before it is read again.
    differing: Option<Chunks>,
    /// Its end, once it came.
    pub end: Option<End>,
    /// Whether it is done or lost.
    pub over: bool,
}

impl Target {
    /// Open a file in the staging directory, or make it.
    ///
    /// # Errors
    /// [`Error::Engine`], also below the floor of free space.
    pub fn open(
        staging: &Staging,
        (want, path, name): (u32, Arc<[u8]>, u64),
        size: u64,
        based: bool,
        known: Chunks,
    ) -> Result<Self> {
        let failed = |errno: rustix::io::Errno| Error::io(staging.shown(&path), errno);
        let text = Staging::name(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |flags| openat(staging.fd(), &text, flags, Mode::RUSR | Mode::WUSR);
        let plain = File::from(open(flags | OFlags::CREATE).map_err(failed)?);
        let found = stat(&plain).map_err(failed)?;
        if found.stx_size != size {
            plain.set_len(size).map_err(|error| Error::io(staging.shown(&path), error))?;
        }
        let aligned = found.stx_mask & DIOALIGN.bits() == 0 || found.stx_dio_offset_align > 0;
        let alignment = ALIGNMENT.max(found.stx_dio_offset_align as usize);
        let direct = open(flags | OFlags::DIRECT).ok().filter(|_| aligned);
        let direct = direct.map(|fd| (File::from(fd), alignment));
        let whole = known.keys().map(|&index| (index, true)).collect();
        let state = State { whole, digests: known, ..State::default() };
        Ok(Self {
            want,
            path,
            name,
            size,
            based,
            plain,
            direct,
            state: Mutex::new(state),
            compared: Condvar::new(),
        })
    }

    /// Lock what is known of it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocate its space, where it has no holes.
    ///
    /// # Errors
    /// [`Error::Engine`] below the floor of free space, or if there is none.
    pub fn allocate(&self, shown: &Path) -> Result<()> {
        space::check_file(&self.plain, shown, self.size)?;
        match fallocate(&self.plain, FallocateFlags::KEEP_SIZE, 0, self.size) {
            // Where it cannot be, the writes allocate.
            Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(errno) => Err(Error::io(shown, errno)),
        }
    }

    /// Write the first `length` bytes of a buffer.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, buffer: &Buffer, length: usize, offset: u64) -> std::io::Result<()> {
        let data = buffer.filled(length);
        let mut done = 0;
        if let Some((direct, alignment)) = &self.direct
            && offset.is_multiple_of(*alignment as u64)
        {
            let aligned = length - length % alignment;
            match direct.write_all_at(&data[..aligned], offset) {
                Ok(()) => done = aligned,
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        if done < length {
            self.plain.write_all_at(&data[done..], offset + done as u64)?;
        }
        Ok(())
    }

    /// Make a hole, where an older version may have had data.
    ///
    /// # Errors
    /// The system's error.
    pub fn punch(&self, offset: u64, length: u64) -> std::io::Result<()> {
        if !self.based {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.plain, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut left = length;
                while left > 0 {
                    let portion = left.min(zeros.len() as u64);
                    let at = offset + length - left;
                    self.plain.write_all_at(&zeros[..portion as usize], at)?;
                    left -= portion;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Return the number of its chunks.
    pub fn chunks(&self) -> u32 {
        self.size.div_ceil(chunk_size(self.size)) as u32
    }

    /// Return how many bytes a chunk has.
    pub fn chunk_length(&self, index: u32) -> u64 {
        let chunk = chunk_size(self.size);
        (self.size - u64::from(index) * chunk).min(chunk)
    }

    /// Wait until it is known which chunks of an older version are replaced; false if the round
    /// failed meanwhile.
    pub fn wait_until_compared(&self, failed: impl Fn() -> bool) -> bool {
        let mut state = self.state();
        while self.based && state.differing.is_none() {
            if failed() {
                return false;
            }
            let wait = self.compared.wait_timeout(state, Duration::from_millis(100));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Take in which chunks are replaced, after the journal has it; false if that makes no sense.
    pub fn compared(&self, table: Table, differing: Vec<u32>) -> bool {
        let mut state = self.state();
        let last = self.chunks();
        let sorted = differing.is_sorted_by(|one, other| one < other);
        let fits = table.digests.len() as u64 == u64::from(last)
            && table.states.len() + 1 == table.digests.len()
            && differing.last().is_none_or(|&index| index < last);
        if !self.based || state.differing.is_some() || !sorted || !fits {
            return false;
        }
        let mut states = table.states.into_iter();
        let mut expected = BTreeMap::new();
        for (index, digest) in (0..).zip(table.digests) {
            let digest = (digest, states.next());
            if differing.binary_search(&index).is_ok() {
                state.whole.remove(&index);
                state.digests.remove(&index);
                expected.insert(index, digest);
            } else if state.digests.get(&index).is_none_or(|known| known.0 != digest.0) {
                return false;
            } else {
                state.whole.insert(index, true);
                state.digests.insert(index, digest);
            }
        }
        // What an earlier, longer version had beyond the end.
        state.whole.retain(|&index, _| index < last);
        state.digests.retain(|&index, _| index < last);
        state.differing = Some(expected);
        drop(state);
        self.compared.notify_all();
        true
    }

    /// Take in what the source reports of a chunk that it read to its end; false if the file has no
    /// such chunk, or of an older version, if it is not what the source compared.
    pub fn reported(&self, index: u32, digest: (u64, Option<[u64; 4]>)) -> bool {
        let mut state = self.state();
        let known = match &state.differing {
            Some(expected) => expected.get(&index) == Some(&digest),
            None => !self.based && index < self.chunks(),
        };
        if known {
            state.digests.insert(index, digest);
        }
        known
    }

    /// Account for bytes that were written: the chunks that they complete, or `None` if they
    /// overlap others or lie beyond the end.
    pub fn arrived(&self, offset: u64, length: u64) -> Option<Vec<u32>> {
        let chunk = chunk_size(self.size);
        let end = offset.checked_add(length).filter(|&end| end <= self.size && length > 0)?;
        let mut state = self.state();
        let (mut at, mut complete) = (offset, Vec::new());
        while at < end {
            let index = u32::try_from(at / chunk).ok()?;
            let until = (u64::from(index) + 1).saturating_mul(chunk).min(end);
            let excess = state.differing.as_ref().is_some_and(|d| !d.contains_key(&index));
            if state.whole.contains_key(&index) || excess || state.over {
                return None;
            }
            let ranges = state.parts.entry(index).or_default();
            if !ranges.insert(at, until - at) {
                return None;
            }
            if ranges.total() == self.chunk_length(index) {
                state.parts.remove(&index);
                state.whole.insert(index, false);
                complete.push(index);
            }
            at = until;
        }
        Some(complete)
    }

    /// Drop what the page cache has of it.
    pub fn forget_pages(&self) {
        // It is advice; what stays is evicted when memory is needed.
        let _ = fadvise(&self.plain, 0, None, Advice::DontNeed);
    }

    /// Return the chunk table when the file is whole. Messages of several connections can overtake:
    /// of an older version nothing counts before the source has compared it.
    pub fn table(&self, state: &State) -> Option<Table> {
        if self.based && state.differing.is_none() {
            return None;
        }
        state.table(self.chunks())
    }

    /// Return another descriptor of it.
    ///
    /// # Errors
    /// The system's error.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.plain.as_fd().try_clone_to_owned()
    }
}

impl State {
    fn table(&self, chunks: u32) -> Option<Table> {
        let count = chunks as usize;
        if self.end.is_none() || self.whole.len() != count {
            return None;
        }
        // Of an older version also the only chunk is confirmed.
        let confirmed = |differing: &BTreeMap<_, _>| {
            differing.keys().all(|index| self.digests.contains_key(index))
        };
        if !self.differing.as_ref().is_none_or(confirmed) {
            return None;
        }
        if chunks <= 1 {
            return Some(Table::default());
        }
        if self.digests.len() != count {
            return None;
        }
        let digests = self.digests.values().map(|(digest, _)| *digest).collect();
        let states: Vec<_> = self.digests.values().filter_map(|(_, state)| *state).collect();
        (states.len() + 1 == count).then_some(Table { digests, states })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_engine::RootPath;

    use super::Target;
    use crate::destination::staging::Staging;
    use crate::message::{End, Metadata, Stamp, Table};

    /// An older version of one chunk, of which the source's end came before its comparison.
    fn ended(directory: &std::path::Path) -> Target {
        let place = RootPath { root: directory.to_owned(), path: "destination".into() };
        let staging = Staging::open(&place).unwrap();
        let known = [(0, (1, None))].into();
        let target = Target::open(&staging, (0, (*b"a").into(), 7), 8, true, known).unwrap();
        let stamp = Stamp { size: 8, ..Stamp::default() };
        let end = End { want: 0, digest: 2, stamp, metadata: Metadata::default() };
        target.state().end = Some(end);
        target
    }

    #[test]
    fn an_end_that_overtakes_the_comparison_does_not_pass_the_older_version_off_as_new() {
        let directory = tempfile::tempdir().unwrap();
        let target = ended(directory.path());
        assert_eq!(target.table(&target.state()), None);
        let table = Table { digests: vec![2], states: Vec::new() };
        assert!(target.compared(table, vec![0]));
        assert_eq!(target.table(&target.state()), None);
        assert_eq!(target.arrived(0, 8), Some(vec![0]));
        // The bytes may be of a version later than the one that was compared.
        assert_eq!(target.table(&target.state()), None);
        assert!(!target.reported(0, (3, None)));
        assert!(target.reported(0, (2, None)));
        assert_eq!(target.table(&target.state()), Some(Table::default()));
    }

    #[test]
    fn an_older_version_that_is_the_same_is_whole_once_it_was_compared() {
        let directory = tempfile::tempdir().unwrap();
        let target = ended(directory.path());
        assert_eq!(target.table(&target.state()), None);
        let table = Table { digests: vec![1], states: Vec::new() };
        assert!(target.compared(table, Vec::new()));
        assert_eq!(target.table(&target.state()), Some(Table::default()));
    }
}
