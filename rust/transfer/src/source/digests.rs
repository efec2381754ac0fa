//! Digests of what a source read for a destination, kept for its own manifest.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use holdfast_engine::space;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::frames::{Frames, frame};
use crate::message::{Stamp, Table, decode, encode};
use crate::{Error, Result};

/// Records in one frame.
const BATCH: usize = 4096;

/// What was found when a file was read, and did not change meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digested {
    /// What the file was.
    pub stamp: Stamp,
    /// XXH64 of all of it.
    pub digest: u64,
    /// Its chunks, if it has more than one.
    pub table: Option<Table>,
}

/// A file of such records, which survives restarts but need not survive a power cut: what is missing
/// is read again.
#[derive(Debug)]
pub struct Digests {
    path: Option<PathBuf>,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    waiting: Vec<Digested>,
    /// What the file has, by a keyed hash: a destination may ask for the same again and again.
    known: HashSet<u64>,
    keys: RandomState,
}

impl Digests {
    /// Keep records in a file; none without a path.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, open: Mutex::default() }
    }

    /// Add a record.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn add(&self, digested: Digested) -> Result<()> {
        if self.path.is_none() {
            return Ok(());
        }
        let mut open = lock(&self.open);
        let open = self.opened(&mut open)?;
        if open.known.insert(open.keys.hash_one((&digested.stamp, digested.digest))) {
            open.waiting.push(digested);
            if open.waiting.len() >= BATCH {
                self.write(open)?;
            }
        }
        Ok(())
    }

    /// Write what waits.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn flush(&self) -> Result<()> {
        match &mut *lock(&self.open) {
            Some(open) if !open.waiting.is_empty() => self.write(open),
            _ => Ok(()),
        }
    }

    /// Hand over all records, in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn read(&self, mut each: impl FnMut(&Digested)) -> Result<()> {
        self.flush()?;
        let Some(path) = &self.path else { return Ok(()) };
        let failed = |error| Error::io(path, error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let mut frames = Frames::new(BufReader::with_capacity(1 << 20, file));
        while let Some(body) = frames.next().map_err(failed)? {
            let Some(records) = decode::<Vec<Digested>>(&body) else { break };
            records.iter().for_each(&mut each);
        }
        Ok(())
    }

    fn opened<'a>(&self, open: &'a mut Option<Open>) -> Result<&'a mut Open> {
        let path = self.path.clone().unwrap_or_default();
        let failed = |error| Error::io(&path, error);
        if open.is_none() {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = options.open(&path).map_err(failed)?;
            let keys = RandomState::new();
            let mut known = HashSet::new();
            let mut frames = Frames::new(BufReader::with_capacity(1 << 20, &file));
            let mut whole = 0;
            while let Some(body) = frames.next().map_err(failed)? {
                let Some(records) = decode::<Vec<Digested>>(&body) else { break };
                known.extend(
                    records.iter().map(|record| keys.hash_one((&record.stamp, record.digest))),
                );
                whole = frames.end;
            }
            drop(frames);
            file.set_len(whole).map_err(failed)?;
            file.seek(SeekFrom::Start(whole)).map_err(failed)?;
            *open = Some(Open { file, waiting: Vec::new(), known, keys });
        }
        Ok(open.as_mut().expect("it was opened above"))
    }

    fn write(&self, open: &mut Open) -> Result<()> {
        let path = self.path.clone().unwrap_or_default();
        let frame = frame(&encode(&std::mem::take(&mut open.waiting)));
        space::check_file(&open.file, &path, frame.len() as u64)?;
        open.file.write_all(&frame).map_err(|error| Error::io(&path, error))
    }
}
