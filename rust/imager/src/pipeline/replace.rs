//! Making a disk another one, in the order in which no cut leaves a disk that boots half a system.
//!
//! 1. With a lifeboat: the first switch. The disk boots the lifeboat.
//! 2. What makes the old disk boot goes: its first mebibyte (with a lifeboat only what is behind the sector
//!    that boots it), and the header of its table's backup.
//! 3. Everything else is written, flushed and read back.
//! 4. The new system gets what belongs to this machine, and its marker.
//! 5. The backup's header is written, and at last the first mebibyte; with a lifeboat the sector that boots
//!    it last and alone. Only now the disk boots the new system.
//! 6. The lifeboat is removed.

use holdfast_engine::image::Descriptor;

use super::read_back::read_back;
use super::{Blocks, Digests, Supply, WriteOptions, write};
use crate::Result;
use crate::disk::table::Fitted;
use crate::lifeboat::Fence;
use crate::lifeboat::journal::State;
use crate::status::Status;

/// Replace what is on `disk` by an image. `carry` puts into the new system what is not of the image; it is
/// called once everything but the last writes was read back.
///
/// # Errors
/// The disk's, the source's or those of `carry`; the disk does not boot then, or boots the lifeboat.
pub fn replace(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &dyn Blocks,
    options: WriteOptions<'_>,
    status: &Status,
    carry: impl FnOnce(&Fitted) -> Result<()>,
) -> Result<()> {
    status.begin_writing();
    let Some(lifeboat) = options.lifeboat else {
        let written = write::write(image, supply, digests, disk, options, status)?;
        read_back(image, digests, &written, disk, status)?;
        carry(&written.table)?;
        return write::complete(&written, disk, None, status);
    };
    lifeboat.switch_to_lifeboat(disk, status)?;
    let note = |state, bytes| lifeboat.came_to(state, bytes, disk, status);
    let fenced = &Fence::around(lifeboat, disk);
    note(State::Writing, 0);
    let written = write::write(image, supply, digests, fenced, options, status)?;
    read_back(image, digests, &written, fenced, status)?;
    note(State::Carrying, image.size_bytes);
    carry(&written.table)?;
    note(State::Written, image.size_bytes);
    write::complete(&written, disk, Some((lifeboat, fenced)), status)?;
    lifeboat.wipe(disk, status);
    Ok(())
}
