//! Before the first pass: what a crash left half done is placed, or cleared away.

use std::sync::Arc;

use rustix::fs::{FileType, renameat};

use crate::destination::Proof;
use crate::destination::flush::lock;
use crate::destination::journal::{Item, Record, Staged};
use crate::destination::pass::plan::{is_held, stamp_of};
use crate::destination::staging::{Staging, split};
use crate::{Error, Result};

use super::Fetching;

impl Fetching<'_> {
    /// Suspect what was not flushed before another boot, place what was recorded but not placed
    /// before a crash, and clear the staging directory.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn settle(&self) -> Result<()> {
        self.suspect_unflushed()?;
        let staging = self.ledger.staging;
        let mut placed = Vec::new();
        let mut kept = Vec::new();
        {
            let state = lock(self.ledger.state);
            for (path, staged) in &state.staged {
                let name = Staging::name(staged.name);
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let basic = rustix::fs::StatxFlags::BASIC_STATS;
                let there = rustix::fs::statx(staging.fd(), &name, flags, basic).ok();
                let Some(Item::File(held)) = state.items.get(path) else {
                    // A base that was to be moved here, and was not, is where it was.
                    if there.is_none() && staged.based && !state.items.contains_key(path) {
                        let (parent, file) = split(path);
                        let failed = |errno| Error::io(staging.shown(path), errno);
                        if staging.stat(path).map_err(failed)?.is_some_and(|found| {
                            FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile
                        }) {
                            let parent = staging.directory(parent).map_err(failed)?;
                            renameat(&parent, file, staging.fd(), &name).map_err(failed)?;
                        }
                    }
                    kept.push(staged.name);
                    continue;
                };
                match there {
                    Some(stat) if stat.stx_ino == held.ino && held.ctime_ns == 0 => {
                        if !is_held(held, &stat) {
                            continue;
                        }
                        let (parent, file) = split(path);
                        let failed = |errno| Error::io(staging.shown(path), errno);
                        let parent = staging.directory(parent).map_err(failed)?;
                        renameat(staging.fd(), &name, &parent, file).map_err(failed)?;
                        placed.push(path.clone());
                    }
                    Some(_) => kept.push(staged.name),
                    None => {}
                }
            }
        }
        let mut records = Vec::new();
        for path in placed {
            let failed = |errno| Error::io(staging.shown(&path), errno);
            let fd = staging.open_path(&path).map_err(failed)?;
            let stamp = stamp_of(&fd).map_err(failed)?;
            records.push(Record::Placed(path, stamp.ctime_ns));
        }
        self.ledger.record(records, true)?;
        kept.sort_unstable();
        staging.clear(|name| kept.binary_search(&name).is_ok())
    }

    /// Where the machine was booted since something was written that was not flushed, nothing is
    /// believed that was not read back, and what was being put together is fetched anew.
    fn suspect_unflushed(&self) -> Result<()> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let boot = boot.trim().to_owned();
        let mut records = Vec::new();
        {
            let state = &mut *lock(self.ledger.state);
            state.suspect |= state.unflushed.as_ref().is_some_and(|other| *other != boot);
            if state.suspect {
                let spoiled = |(path, staged): (&Arc<[u8]>, &Staged)| {
                    Record::Spoiled(Arc::clone(path), staged.chunks.keys().copied().collect())
                };
                records.extend(state.staged.iter().map(spoiled));
            }
            if self.request.proof == Proof::Wire && state.unflushed.as_ref() != Some(&boot) {
                records.push(Record::Unflushed { boot, suspect: state.suspect });
            }
        }
        self.ledger.record(records, true)
    }
}
