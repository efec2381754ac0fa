//! Writing the record file.

use super::Request;
use crate::manifest::fingerprint::{Fingerprint, Printer};
use crate::manifest::record::{Entry, FORMAT, Header, VERSION};
use crate::manifest::totals::Counts;
use crate::record::Writer;
use crate::tree::filesystem::Filesystem;
use crate::{Progress, Result};

/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 1 << 20;

pub(super) fn write(
    entries: &[Entry],
    request: &Request,
    started: i64,
    filesystem: Filesystem,
    progress: &Progress,
) -> Result<(Counts, u64, Fingerprint)> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        algorithm: request.algorithm,
        root: request.place.root.to_string_lossy().into_owned(),
        path: request.place.path.to_string_lossy().into_owned(),
        include: request.include_patterns.clone(),
        exclude: request.exclude_patterns.clone(),
        scan_started_ns: started,
        written_back: filesystem.keeps_track(),
        other: request.header.clone(),
    };
    let mut writer = Writer::create(&request.destination, &header)?;
    let mut counts = Counts::default();
    let mut printer = Printer::default();
    let mut lines = Vec::with_capacity(BATCH + (64 << 10));
    for entry in entries {
        counts.count(entry);
        printer.add(entry);
        entry.push(&mut lines)?;
        if lines.len() >= BATCH {
            progress.check()?;
            writer.write(&lines)?;
            lines.clear();
        }
    }
    writer.write(&lines)?;
    progress.check()?;
    let record_bytes = writer.finish(counts.entries, counts.bytes)?;
    Ok((counts, record_bytes, printer.finish()))
}
