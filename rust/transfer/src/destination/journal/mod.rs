//! What the destination has, in an order that survives kills and power cuts.
//!
//! A file of frames, each with its length and digest; a frame that a crash cut short is dropped with
//! all behind it. A record of data is appended only after the data were flushed, and a record that
//! takes data back is flushed before the data are touched.

mod records;

pub use records::{Chunks, Held, Item, Record, Staged, State};

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use holdfast_engine::space;

use crate::frames::{Frames, HEAD as FRAME_HEAD, frame};
use crate::message::{decode, encode};
use crate::ticket::random;
use crate::{Error, Result, Secret};

/// The version of this format.
const VERSION: u32 = 1;
/// Records in one frame when the journal is written anew.
const BATCH: usize = 4096;

/// The journal of one destination directory.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Whether records are flushed to the device.
    durable: bool,
}

impl Journal {
    /// Open the journal in a directory, or make it. It is locked until it is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has it, [`Error::Engine`].
    pub fn open(directory: &Path, durable: bool, of: &Path) -> Result<(Self, State, Secret)> {
        let path = directory.join("journal");
        let failed = |error| Error::io(&path, error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        if file.try_lock().is_err() {
            return Err(Error::Busy { path: of.to_string_lossy().into_owned() });
        }
        let (state, puller, whole, records) = read(&mut file).map_err(failed)?;
        if let Some(reason) = damage(&file, whole).map_err(failed)? {
            let path = path.display();
            return Err(holdfast_engine::Error::Invalid(format!(
                "{path} is damaged at byte {whole}: {reason}. What is in {} is not known any more; \
                 pull into an empty directory, with a new ticket",
                of.display()
            ))
            .into());
        }
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::Start(whole)).map_err(failed)?;
        let puller = match puller {
            Some(puller) => puller,
            None => random()?,
        };
        let mut journal = Self { file, path, durable };
        let live = state.items.len() + state.staged.len();
        if whole == 0 {
            journal.append(&[Record::Begin { version: VERSION, puller }], true)?;
        } else if records > 1000 + 4 * live {
            journal = journal.rewrite(directory, &state, puller)?;
        }
        let secret = Secret::from_seed(puller);
        Ok((journal, state, secret))
    }

    /// Replace the file by one that has only what counts.
    fn rewrite(self, directory: &Path, state: &State, puller: [u8; 32]) -> Result<Self> {
        let temporary = directory.join("journal.partial");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&temporary).map_err(|e| Error::io(&temporary, e))?;
        file.lock().map_err(|e| Error::io(&temporary, e))?;
        let mut new = Self { file, path: self.path.clone(), durable: true };
        let complete = state.complete.then_some(Record::Complete);
        let items = state.items.iter().map(|(path, item)| Record::Made(path.clone(), item.clone()));
        let proven = state.items.iter().filter_map(|(path, item)| match item {
            Item::File(held) if held.proven => Some(Record::Proven(path.clone())),
            _ => None,
        });
        let staged = state.staged.iter().map(|(path, s)| Record::Staged(path.clone(), s.clone()));
        let mapped = state.mapped.map(Record::Mapped);
        let unflushed = state.unflushed.clone();
        let unflushed = unflushed.map(|boot| Record::Unflushed { boot, suspect: state.suspect });
        let begin = Record::Begin { version: VERSION, puller };
        let mut batch = Vec::new();
        for record in std::iter::once(begin)
            .chain(items)
            .chain(proven)
            .chain(staged)
            .chain(mapped)
            .chain(unflushed)
            .chain(complete)
        {
            batch.push(record);
            if batch.len() == BATCH {
                new.append(&batch, false)?;
                batch.clear();
            }
        }
        new.append(&batch, true)?;
        let place = || {
            std::fs::rename(&temporary, &self.path)?;
            File::open(directory)?.sync_all()
        };
        place().map_err(|e| Error::io(&self.path, e))?;
        new.durable = self.durable;
        Ok(new)
    }

    /// Append records as one frame; `sync` makes it durable, unless nothing is.
    ///
    /// # Errors
    /// [`Error::Engine`], also below the floor of free space.
    pub fn append(&mut self, records: &[Record], sync: bool) -> Result<()> {
        if !records.is_empty() {
            let body = encode(&records);
            let frame = frame(&body);
            space::check_file(&self.file, &self.path, frame.len() as u64)?;
            self.file.write_all(&frame).map_err(|e| Error::io(&self.path, e))?;
        }
        if sync && self.durable {
            self.file.sync_data().map_err(|e| Error::io(&self.path, e))?;
        }
        Ok(())
    }

    /// Read what has been appended so far.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn reload(&mut self) -> Result<State> {
        let mut reload = || -> std::io::Result<State> {
            self.file.seek(SeekFrom::Start(0))?;
            let (state, _, _, _) = read(&mut self.file)?;
            self.file.seek(SeekFrom::End(0))?;
            Ok(state)
        };
        reload().map_err(|error| Error::io(&self.path, error))
    }

    /// Make everything durable, whatever the level of proof.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))
    }
}

/// Read all whole frames: the state, the key, where they end, and how many records they have.
fn read(file: &mut File) -> std::io::Result<(State, Option<[u8; 32]>, u64, usize)> {
    let mut state = State::default();
    let (mut puller, mut whole, mut count) = (None, 0, 0);
    let mut frames = Frames::new(std::io::BufReader::with_capacity(1 << 20, file));
    while let Some(body) = frames.next()? {
        let Some(records) = decode::<Vec<Record>>(&body) else { break };
        for record in records {
            if let Record::Begin { puller: seed, .. } = &record {
                puller = Some(*seed);
            }
            count += 1;
            state.apply(record);
        }
        whole = frames.end;
    }
    Ok((state, puller, if puller.is_some() { whole } else { 0 }, count))
}

/// Return why what is behind the whole frames cannot be the end that a crash cut short: then it was
/// flushed, and it was changed since, by the device or a program.
fn damage(file: &File, whole: u64) -> std::io::Result<Option<&'static str>> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata()?.len();
    if length == whole {
        return Ok(None);
    }
    let one = |record: Record| frame(&encode(&[record].as_slice()));
    let complete = one(Record::Complete);
    if let Some(start) = length.checked_sub(complete.len() as u64) {
        let mut last = vec![0; complete.len()];
        file.read_exact_at(&mut last, start)?;
        if last == complete {
            return Ok(Some("the transfer was complete"));
        }
    }
    // The first frame is flushed before there is a second one.
    let begin = Record::Begin { version: VERSION, puller: [0; 32] };
    if whole == 0 && length > one(begin).len() as u64 {
        return Ok(Some("it does not begin as a journal does"));
    }
    // A frame that is not whole, with one behind it that was flushed with all before it.
    let mut skipped = whole;
    loop {
        let mut head = [0; 8];
        if length - skipped < FRAME_HEAD || file.read_exact_at(&mut head, skipped).is_err() {
            return Ok(None);
        }
        let next = skipped.saturating_add(FRAME_HEAD).saturating_add(u64::from_le_bytes(head));
        if next >= length {
            return Ok(None);
        }
        skipped = next;
        let mut reader = file;
        reader.seek(SeekFrom::Start(skipped))?;
        let mut frames = Frames::new(std::io::BufReader::new(reader));
        while let Some(body) = frames.next()? {
            let records = decode::<Vec<Record>>(&body).unwrap_or_default();
            if records.iter().any(is_flushed) {
                return Ok(Some("there are whole records behind it"));
            }
        }
        skipped += frames.end;
    }
}

/// Return whether a record is appended only with a flush.
fn is_flushed(record: &Record) -> bool {
    match record {
        Record::Made(_, Item::File(_))
        | Record::Spoiled(..)
        | Record::Flushed
        | Record::Complete => true,
        Record::Staged(_, staged) => staged.based,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::{Held, Item, Journal, Record, Staged};
    use crate::message::Stamp;

    fn held(digest: u64) -> Item {
        let source = Stamp::default();
        Item::File(Held {
            source,
            digest,
            table: None,
            ino: 1,
            mtime_ns: 2,
            ctime_ns: 0,
            proven: false,
        })
    }

    fn path(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn a_frame_cut_short_at_any_byte_is_dropped_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Journal::open(directory.path(), false, Path::new("/d")).unwrap();
        let (mut journal, _, secret) = open();
        journal.append(&[Record::Made(path("a"), held(1))], true).unwrap();
        let kept = std::fs::metadata(directory.path().join("journal")).unwrap().len();
        journal.append(&[Record::Made(path("b"), held(2))], true).unwrap();
        drop(journal);
        let whole = std::fs::read(directory.path().join("journal")).unwrap();
        for length in kept as usize..whole.len() {
            std::fs::write(directory.path().join("journal"), &whole[..length]).unwrap();
            let (_, state, again) = open();
            assert_eq!(again, secret);
            assert_eq!(state.items.len(), 1, "cut at {length}");
        }
    }

    #[test]
    fn a_byte_that_changed_in_a_complete_journal_is_damage_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path_of_it = directory.path().join("journal");
        let open = || Journal::open(directory.path(), false, Path::new("/d"));
        let (mut journal, _, _) = open().unwrap();
        journal.append(&[Record::Made(path("a"), held(1))], true).unwrap();
        let open_end = std::fs::metadata(&path_of_it).unwrap().len() as usize;
        journal.append(&[Record::Complete], true).unwrap();
        drop(journal);
        let whole = std::fs::read(&path_of_it).unwrap();
        for place in 0..open_end {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x40;
            std::fs::write(&path_of_it, &bytes).unwrap();
            let error = open().unwrap_err().to_string();
            assert!(error.contains("is damaged at byte"), "{place}: {error}");
            assert_eq!(std::fs::read(&path_of_it).unwrap(), bytes, "{place}");
        }
    }

    #[test]
    fn what_is_spoiled_is_not_believed_and_a_rewritten_journal_has_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Journal::open(directory.path(), false, Path::new("/d")).unwrap();
        let (mut journal, _, _) = open();
        let staged = Staged { name: 7, stamp: Stamp::default(), based: true, chunks: [].into() };
        journal.append(&[Record::Made(path("a"), held(1))], true).unwrap();
        journal.append(&[Record::Staged(path("a"), staged)], true).unwrap();
        for _ in 0..2000 {
            journal.append(&[Record::Chunk(path("a"), 0, 9, None)], false).unwrap();
        }
        journal.append(&[Record::Chunk(path("a"), 1, 8, Some([1; 4]))], true).unwrap();
        journal.append(&[Record::Spoiled(path("a"), vec![0])], true).unwrap();
        assert!(Journal::open(directory.path(), false, Path::new("/d")).is_err());
        drop(journal);
        for _ in 0..2 {
            let (_, state, _) = open();
            assert!(state.items.is_empty());
            let chunks = &state.staged[&path("a")].chunks;
            assert_eq!(chunks.iter().collect::<Vec<_>>(), [(&1, &(8, Some([1; 4])))]);
        }
        let size = std::fs::metadata(directory.path().join("journal")).unwrap().len();
        assert!(size < 1000, "{size}");
    }

    #[test]
    fn what_was_read_back_and_what_may_be_lost_outlive_a_rewrite() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Journal::open(directory.path(), false, Path::new("/d")).unwrap();
        let (mut journal, _, _) = open();
        for name in ["a", "b"] {
            journal.append(&[Record::Made(path(name), held(1))], true).unwrap();
        }
        journal.append(&[Record::Proven(path("a"))], false).unwrap();
        let boot = "a boot".to_owned();
        journal.append(&[Record::Unflushed { boot: boot.clone(), suspect: true }], true).unwrap();
        let size = |directory: &Path| std::fs::metadata(directory.join("journal")).unwrap().len();
        for _ in 0..2000 {
            journal.append(&[Record::Placed(path("b"), 0)], false).unwrap();
        }
        let before = size(directory.path());
        drop(journal);
        for _ in 0..2 {
            let (_, state, _) = open();
            assert!(size(directory.path()) < before / 10);
            let proven =
                |name| matches!(&state.items[&path(name)], Item::File(held) if held.proven);
            assert_eq!((proven("a"), proven("b")), (true, false));
            assert_eq!((state.unflushed.as_ref(), state.suspect), (Some(&boot), true));
        }
        let (mut journal, _, _) = open();
        journal.append(&[Record::Made(path("a"), held(2)), Record::Flushed], true).unwrap();
        drop(journal);
        let (_, state, _) = open();
        assert!(matches!(&state.items[&path("a")], Item::File(held) if !held.proven));
        assert_eq!((state.unflushed, state.suspect), (None, false));
    }
}
