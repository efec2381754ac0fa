//! Reading files of a data directory: confined to the root, bounded, and without filling memory.

use std::collections::HashMap;

use super::heap;
use crate::read::access;
use crate::tree::confine::OpenFile;
use crate::{Progress, Root};

/// Bytes read at a time: a multiple of every size of pages.
const STRETCH: usize = 128 * 1024;
/// A table of the catalogue that is larger is not read: hundreds of thousands of relations fit.
const MOST: u64 = 256 << 20;
/// Files of the commit log that are read at most for one data directory.
const LOGS: usize = 64;
/// Transactions in a byte of the commit log, and pages in a file of it.
const PER_BYTE: u32 = 4;
const LOG_PAGES: u32 = 32;
const COMMITTED: u8 = 1;

/// Reads below a root what the catalogue needs.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The root.
    pub root: &'a Root,
    /// Of the call.
    pub progress: &'a Progress,
}

impl Reading<'_> {
    /// Read a small file.
    ///
    /// # Errors
    /// Why it cannot be read, for a person.
    pub fn small(&self, path: &[u8]) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let file = self.open(path)?;
        self.stretches(&file, path, &mut |bytes| {
            content.extend_from_slice(bytes);
            content.len() <= 1 << 20
        })?;
        Ok(content)
    }

    /// The size of the pages of a table.
    ///
    /// # Errors
    /// Why it is not known, for a person.
    pub fn page_size(&self, path: &[u8]) -> Result<usize, String> {
        let mut size = None;
        let file = self.open(path)?;
        self.stretches(&file, path, &mut |bytes| {
            size = heap::page_size(bytes);
            false
        })?;
        size.ok_or_else(|| format!("{} has no pages of a table", shown(path)))
    }

    /// Pass each row of a table to a function, whether it is there or not.
    ///
    /// # Errors
    /// Why it cannot be read, for a person.
    pub fn rows(&self, path: &[u8], mut each: impl FnMut(&heap::Row<'_>)) -> Result<(), String> {
        let size = self.page_size(path)?;
        let mut total = 0;
        for segment in 0_u32.. {
            let name = match segment {
                0 => path.to_vec(),
                _ => [path, format!(".{segment}").as_bytes()].concat(),
            };
            let file = match self.open(&name) {
                Ok(file) => file,
                Err(_) if segment > 0 => break,
                Err(problem) => return Err(problem),
            };
            total += file.stat.stx_size;
            if total > MOST {
                return Err(format!("{} is larger than 256 MiB", shown(path)));
            }
            self.stretches(&file, &name, &mut |bytes| {
                bytes.chunks_exact(size).flat_map(heap::rows).for_each(|row| each(&row));
                true
            })?;
        }
        Ok(())
    }

    fn open(&self, path: &[u8]) -> Result<OpenFile, String> {
        self.root.open_file(path, self.progress).map_err(|refusal| {
            let why = serde_json::to_value(refusal.reason).unwrap_or_default();
            let why = why.as_str().unwrap_or_default().replace('_', " ");
            format!("{} cannot be read: {}", shown(path), refusal.detail.unwrap_or(why))
        })
    }

    /// Read until a function has enough; what was not in memory before is dropped again.
    fn stretches(
        &self,
        file: &OpenFile,
        path: &[u8],
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), String> {
        let mut buffer = vec![0; STRETCH];
        access::no_readahead(&file.fd);
        for offset in (0..file.stat.stx_size).step_by(STRETCH) {
            if self.progress.cancelled() {
                return Err("it was cancelled".to_owned());
            }
            let known = access::before(file, offset, STRETCH as u64);
            let mut filled = 0;
            while filled < STRETCH {
                match rustix::io::pread(&file.fd, &mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(format!("{} cannot be read: {errno}", shown(path))),
                }
            }
            if let Some(known) = known {
                access::after(&file.fd, &known, offset, filled as u64);
            }
            if filled == 0 || !each(&buffer[..filled]) {
                break;
            }
        }
        Ok(())
    }
}

/// Who committed, by the commit log of a data directory as it is on the disk.
#[derive(Debug)]
pub struct Commits<'a> {
    reading: Reading<'a>,
    data: Option<Vec<u8>>,
    page_size: u32,
    logs: HashMap<u32, Vec<u8>>,
}

impl<'a> Commits<'a> {
    /// Of a data directory, where it is known, with pages of this size.
    pub fn new(reading: Reading<'a>, data: Option<Vec<u8>>, page_size: usize) -> Self {
        let page_size = u32::try_from(page_size).unwrap_or(8192);
        Self { reading, data, page_size, logs: HashMap::new() }
    }

    /// Whether a transaction is known to have committed.
    pub fn has(&mut self, transaction: u32) -> bool {
        // The first two are always there: of initdb, and of rows that were frozen.
        if matches!(transaction, 1 | 2) {
            return true;
        }
        let per_log = LOG_PAGES * self.page_size * PER_BYTE;
        let log = transaction / per_log;
        if let Some(data) = &self.data
            && !self.logs.contains_key(&log)
            && self.logs.len() < LOGS
        {
            let path = super::join(data, format!("pg_xact/{log:04X}").as_bytes());
            self.logs.insert(log, self.reading.small(&path).unwrap_or_default());
        }
        let (byte, nth) = (transaction % per_log / PER_BYTE, transaction % PER_BYTE);
        let known = self.logs.get(&log).and_then(|log| log.get(byte as usize));
        known.is_some_and(|byte| byte >> (2 * nth) & 3 == COMMITTED)
    }
}

/// A path for a person.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
