//! Deciding in which order to load a dump.

use std::path::Path;

use serde::Serialize;

use super::heat::{DUMPS, Heat, LEVELS};
use super::order::{Counts, Order};
use super::{Request, WhenOrdered};
use crate::pagecache::record::{Dump, Inspection, inspect};
use crate::{Error, Progress, Result};

/// What decided on the order of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ordered {
    order: By,
    /// Earlier dumps that decided, by their index in the request; empty unless dumps did.
    dumps: Vec<usize>,
    /// Why no dumps decided, where that was to be.
    order_detail: Option<&'static str>,
    /// Earlier dumps that could not be used.
    dumps_left_out: Vec<LeftOutDump>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum By {
    /// All of it was allowed: as it is on the device.
    Device,
    /// An even share of every file first.
    Share,
    /// The expected use first.
    Dumps,
}

/// An earlier dump that could not be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOutDump {
    /// Its index in the request.
    index: usize,
    detail: String,
}

impl Ordered {
    /// Whether dumps decided.
    pub fn by_dumps(&self) -> bool {
        self.order == By::Dumps
    }
}

/// Plan the load of a dump under a budget of `budget` pages.
///
/// # Errors
/// As [`Dump::next`], for the dump that is loaded. Others are left out.
pub fn plan(
    request: &Request,
    inspection: &Inspection,
    budget: u64,
    progress: &Progress,
) -> Result<(Order, Ordered)> {
    let pages = inspection.bytes / inspection.header.page_size;
    let wanted = match request.order {
        WhenOrdered::Auto => budget < pages,
        WhenOrdered::Dumps => true,
        WhenOrdered::Share => false,
    };
    let mut ordered = Ordered {
        order: if budget < pages { By::Share } else { By::Device },
        dumps: Vec::new(),
        order_detail: None,
        dumps_left_out: Vec::new(),
    };
    if wanted {
        match learn(request, inspection, &mut ordered, progress)? {
            Ok(heat) => {
                ordered.order = By::Dumps;
                let counts = count(request, &heat, progress)?;
                return Ok((Order::expected(heat, &counts, budget), ordered));
            }
            Err(detail) => {
                ordered.dumps.clear();
                ordered.order_detail = Some(detail);
            }
        }
    }
    Ok((Order::even(pages, budget), ordered))
}

/// Read the dumps; the inner error is why nothing can be learnt.
fn learn(
    request: &Request,
    inspection: &Inspection,
    ordered: &mut Ordered,
    progress: &Progress,
) -> Result<std::result::Result<Heat, &'static str>> {
    for (index, path) in request.earlier.iter().enumerate() {
        if ordered.dumps.len() == DUMPS - 1 {
            break;
        }
        match check(path, request.max_bytes, inspection, progress) {
            Ok(()) => ordered.dumps.push(index),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => {
                ordered.dumps_left_out.push(LeftOutDump { index, detail: error.to_string() });
            }
        }
    }
    if ordered.dumps.is_empty() {
        return Ok(Err("There is no earlier dump of the same roots that can be used."));
    }
    let Some(mut heat) = Heat::new(Dump::open(&request.record, request.max_bytes)?, progress)?
    else {
        return Ok(Err("The pages of the dump are scattered over too many places to count each."));
    };
    for (number, &index) in (1..).zip(&ordered.dumps) {
        heat.add(number, Dump::open(&request.earlier[index], request.max_bytes)?, progress)?;
    }
    if heat.settle() {
        Ok(Ok(heat))
    } else {
        Ok(Err("No file of the dump has pages in an earlier one and is the same as then."))
    }
}

/// Check an earlier dump as the one that is loaded is checked.
fn check(path: &Path, limit: u64, loaded: &Inspection, progress: &Progress) -> Result<()> {
    let found = inspect(Dump::open(path, limit)?, progress)?;
    let (header, other) = (&loaded.header, &found.header);
    if (header.page_size, &header.roots) == (other.page_size, &other.roots) {
        return Ok(());
    }
    Err(Error::record(path, "it has other roots or pages of another size".to_owned()))
}

/// How many pages there are of each level.
fn count(request: &Request, heat: &Heat, progress: &Progress) -> Result<Counts> {
    let mut counts = [0; LEVELS as usize + 1];
    let mut dump = Dump::open(&request.record, request.max_bytes)?;
    while let Some(entry) = dump.next(progress)? {
        heat.each_run(&entry, &entry.pages, |_, count, level| counts[usize::from(level)] += count);
    }
    Ok(counts)
}
