//! Small files, which arrive many in a frame.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Instant;

use holdfast_engine::space;
use holdfast_engine::tree::confine::stat;
use rustix::fs::{Mode, OFlags, openat};

use crate::channel::Channel;
use crate::destination::flush::Finished;
use crate::destination::staging::Staging;
use crate::message::{SMALL, Small};
use crate::metadata::{self, Of};
use crate::{Error, Result};

use super::arrival::held;
use super::{ARRIVED, Round};

/// Bytes of small files between two checks of the free space.
const STRIDE: u64 = 16 << 20;

impl Round<'_> {
    pub(super) fn small(
        &self,
        channel: &Channel,
        files: Vec<Small>,
        mut bytes: &[u8],
    ) -> Result<()> {
        let begin = Instant::now();
        let before = self.small_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before / STRIDE != (before + bytes.len() as u64) / STRIDE {
            let root = self.staging.root();
            space::check_file(root.fd(), root.path(), STRIDE)?;
        }
        let mut finished = Vec::with_capacity(files.len());
        for Small { mut end, length } in files {
            self.owners.map(&mut end.metadata);
            let (content, rest) = bytes.split_at(length as usize);
            bytes = rest;
            self.settle(channel, end.want, ARRIVED)?;
            let wanted = &self.wants[end.want as usize];
            let size = wanted.stamp.size;
            if size > SMALL || u64::from(length) != size || end.stamp.size != size {
                return Err(channel.broken("a small file has another size"));
            }
            let failed = |errno| Error::io(self.staging.shown(&wanted.path), errno);
            let name = self.staging.number();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let fd = openat(self.staging.fd(), Staging::name(name), flags, mode).map_err(failed)?;
            let mut file = File::from(fd);
            let written = file.write_all(content);
            written.map_err(|error| Error::io(self.staging.shown(&wanted.path), error))?;
            let before = stat(&file).map_err(failed)?;
            let applied = metadata::apply(&file, &before, &end.metadata, Of::NewFile);
            let (unset, now) = applied.map_err(failed)?;
            self.note(unset);
            let held = held(&now, &end, None);
            self.count(size);
            self.progress.add_bytes(size);
            finished.push(Finished { path: wanted.path.clone(), name, target: None, held });
        }
        self.spend(begin.elapsed());
        self.hand_on(Vec::new(), finished)
    }
}
