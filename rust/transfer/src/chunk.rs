//! One chunk of a file, read past the page cache into memory.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_engine::read::{self, Device, End, Opened, Outcome, ReadOptions, Source, Stream};
use holdfast_engine::tree::confine::{OpenFile, device};
use holdfast_engine::{Progress, Result};

/// Hands out one range, and takes its bytes.
struct One<'a> {
    file: &'a Arc<OpenFile>,
    range: Range<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    given: bool,
    bytes: Vec<u8>,
    complete: bool,
}

struct Taking<'a>(&'a One<'a>, Vec<u8>);

impl<'a> Source for &'a One<'a> {
    type Stream = Taking<'a>;

    fn next(&self, _: End) -> Result<Option<Opened<Taking<'a>>>> {
        let one = *self;
        let mut state = one.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut state.given, true) {
            return Ok(None);
        }
        let length = usize::try_from(one.range.end - one.range.start).unwrap_or(0);
        let stream = Taking(one, Vec::with_capacity(length));
        let (file, range) = (Arc::clone(one.file), one.range.clone());
        Ok(Some(Opened { file, range, stream, name: "a chunk".into() }))
    }
}

impl Stream for Taking<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.1.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self, end: Outcome) -> Result<()> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.complete = end == Outcome::Complete;
        state.bytes = self.1;
        Ok(())
    }
}

/// Return the bytes of a range that begins at a multiple of the reader's block; `None` if they
/// cannot be read.
///
/// # Errors
/// [`holdfast_engine::Error::Cancelled`].
pub fn read_chunk(
    file: &Arc<OpenFile>,
    range: Range<u64>,
    bytes_per_second: Option<u64>,
    progress: &Progress,
) -> Result<Option<Vec<u8>>> {
    let one = One { file, range, state: Mutex::default() };
    let options = ReadOptions { bytes_per_second, pressure: None, reader: read::Preference::Auto };
    read::read(&&one, Device::of(device(&file.stat)), &options, progress)?;
    let state = one.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(state.complete.then_some(state.bytes))
}
