//! Where a sparse file has data: its holes can be larger than any memory, and asking about each of
//! their pages would never end.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::sys::page_size;

/// The first stretch of pages in `[start, end)` that has data, as `[from, to)`; all of it where the
/// file system does not report holes.
///
/// # Errors
/// The system's error.
pub fn next_data(fd: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    if start >= end {
        return Ok(None);
    }
    let data = match seek(fd, SeekFrom::Data(start * page_size())) {
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((start, end))),
        other => other?,
    };
    let from = (data / page_size()).max(start);
    if from >= end {
        return Ok(None);
    }
    let hole = seek(fd, SeekFrom::Hole(data))?.div_ceil(page_size());
    Ok(Some((from, hole.clamp(from + 1, end))))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use super::next_data;
    use crate::sys::page_size;

    #[test]
    fn data_behind_a_large_hole_is_found_at_once() {
        let file = tempfile::tempfile().unwrap();
        let far = 1 << 28;
        file.set_len((far + 16) * page_size()).unwrap();
        file.write_all_at(b"x", far * page_size()).unwrap();
        let fd = OwnedFd::from(file);
        let (from, to) = next_data(&fd, 0, far + 16).unwrap().unwrap();
        assert!(from <= far && far < to, "{from}..{to}");
        assert_eq!(next_data(&fd, to, far + 16).unwrap(), None);
        assert_eq!(next_data(&fd, 5, 5).unwrap(), None);
    }
}
