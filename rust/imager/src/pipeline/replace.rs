//! Making a disk another one, in the order in which no cut leaves a disk that boots half a system.
//!
//! 1. What makes the old disk boot goes: its first mebibyte, and the header of its table's backup.
//! 2. Everything else is written, flushed and read back.
//! 3. The new system gets what belongs to this machine, and its marker.
//! 4. The backup's header is written, and at last the first mebibyte. Only now the disk boots.

use holdfast_engine::image::Descriptor;

use super::read_back::read_back;
use super::{Blocks, Digests, Supply, write};
use crate::Result;
use crate::status::Status;
use crate::table::Fitted;

/// Replace what is on `disk` by an image; `grow` is the number of the partition to extend, if any.
/// `carry` puts into the new system what is not of the image; it is called once everything but the
/// last writes was read back.
///
/// # Errors
/// The disk's, the source's or those of `carry`; the disk does not boot then.
pub fn replace(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &dyn Blocks,
    grow: Option<u32>,
    status: &Status,
    carry: impl FnOnce(&Fitted) -> Result<()>,
) -> Result<()> {
    let written = write::write(image, supply, digests, disk, grow, status)?;
    read_back(image, digests, &written, disk, status)?;
    carry(&written.table)?;
    write::complete(&written, disk, status)
}
