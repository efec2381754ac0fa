//! How much memory may still be filled: of the machine, and of the control groups around this
//! process, to which the pages it loads are charged.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Memory for more pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headroom {
    /// Bytes.
    pub bytes: u64,
    /// What sets the limit: `memory`, or the control group that is the tightest.
    pub limit: String,
}

/// Where the kernel shows what this module reads. Only tests use others than the defaults.
#[derive(Debug, Clone)]
pub struct Sources {
    /// procfs.
    pub proc: PathBuf,
    /// The tree of control groups, version 1, 2 or both.
    pub cgroup: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

/// The smallest of MemAvailable and the memory left in each control group of this process.
///
/// Clean page cache counts as free, in the machine as in a group: the kernel drops it on demand.
///
/// # Errors
/// [`Error::Io`] if the kernel's files cannot be read.
pub fn headroom(sources: &Sources) -> Result<Headroom> {
    let mut tightest = Headroom { bytes: available(&sources.proc)?, limit: "memory".to_owned() };
    for group in groups(sources)? {
        if let Some(bytes) = group.headroom()?
            && bytes < tightest.bytes
        {
            tightest = Headroom { bytes, limit: group.name };
        }
    }
    Ok(tightest)
}

fn available(proc: &Path) -> Result<u64> {
    let path = proc.join("meminfo");
    let text = read(&path)?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes
        .map(|kb| kb * 1024)
        .ok_or_else(|| Error::Invalid(format!("{} has no MemAvailable", path.display())))
}

/// The names of the files that matter, which the two versions spell differently.
#[derive(Debug, Clone, Copy)]
struct Names {
    limits: &'static [&'static str],
    usage: &'static str,
    /// Prefix in memory.stat of what the group gives up for the asking.
    reclaimable: &'static str,
}

const V1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const V2: Names = Names {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    reclaimable: "inactive_file ",
};

#[derive(Debug)]
struct Group {
    name: String,
    directory: PathBuf,
    names: Names,
}

/// The groups of this process that control memory, and all their ancestors.
fn groups(sources: &Sources) -> Result<Vec<Group>> {
    let text = read(&sources.proc.join("self/cgroup"))?;
    let mut groups = Vec::new();
    for line in text.lines() {
        // hierarchy:controllers:path (cgroups(7)); version 2 has no controllers.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounts, names): (&[&str], _) = if controllers.is_empty() {
            (&["", "unified"], V2)
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["memory"], V1)
        } else {
            continue;
        };
        for mount in mounts {
            let top = sources.cgroup.join(mount);
            for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
                let directory = top.join(ancestor);
                if names.limits.iter().any(|limit| directory.join(limit).exists()) {
                    let name = format!("cgroup /{}", ancestor.display());
                    groups.push(Group { name, directory, names });
                }
            }
        }
    }
    Ok(groups)
}

impl Group {
    /// Bytes until the tighter of its limits, or `None` if it has none.
    fn headroom(&self) -> Result<Option<u64>> {
        let mut limit = None;
        for name in self.names.limits {
            // `max` means no limit in version 2, a number near 2^63 in version 1.
            let value = self.number(name)?.filter(|&bytes| bytes < 1 << 60);
            limit = [limit, value].into_iter().flatten().min();
        }
        let Some(limit) = limit else { return Ok(None) };
        let usage = self.number(self.names.usage)?.unwrap_or(0);
        let stat = read(&self.directory.join("memory.stat"))?;
        let reclaimable = stat
            .lines()
            .find_map(|line| line.strip_prefix(self.names.reclaimable)?.trim().parse().ok())
            .unwrap_or(0);
        Ok(Some(limit.saturating_sub(usage.saturating_sub(reclaimable))))
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let path = self.directory.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, error)),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, e))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Headroom, Sources, headroom};

    const MIB: u64 = 1 << 20;

    fn sources(top: &Path, groups: &str) -> Sources {
        let sources = Sources { proc: top.join("proc"), cgroup: top.join("cgroup") };
        fs::create_dir_all(sources.proc.join("self")).unwrap();
        fs::write(sources.proc.join("meminfo"), "MemFree: 1 kB\nMemAvailable:   4194304 kB\n")
            .unwrap();
        fs::write(sources.proc.join("self/cgroup"), groups).unwrap();
        sources
    }

    fn group(directory: &Path, files: &[(&str, String)]) {
        fs::create_dir_all(directory).unwrap();
        for (name, value) in files {
            fs::write(directory.join(name), value).unwrap();
        }
    }

    #[test]
    fn without_limits_the_machine_decides() {
        let top = tempfile::tempdir().unwrap();
        let sources = sources(top.path(), "0::/a\n");
        group(&sources.cgroup.join("a"), &[("memory.max", "max\n".into())]);
        let found = headroom(&sources).unwrap();
        assert_eq!(found, Headroom { bytes: 4096 * MIB, limit: "memory".into() });
    }

    #[test]
    fn the_tightest_ancestor_decides_and_reclaimable_cache_counts_as_room() {
        let top = tempfile::tempdir().unwrap();
        let sources = sources(top.path(), "0::/a/b\n");
        let usage = |used: u64, cache: u64| {
            [
                ("memory.current", used.to_string()),
                ("memory.stat", format!("anon 5\ninactive_file {cache}\n")),
            ]
        };
        let limits = [("memory.max", "max".into()), ("memory.high", (512 * MIB).to_string())];
        group(&sources.cgroup.join("a"), &limits);
        group(&sources.cgroup.join("a"), &usage(300 * MIB, 100 * MIB));
        group(&sources.cgroup.join("a/b"), &[("memory.max", (2048 * MIB).to_string())]);
        group(&sources.cgroup.join("a/b"), &usage(100 * MIB, 0));
        let found = headroom(&sources).unwrap();
        assert_eq!(found, Headroom { bytes: 312 * MIB, limit: "cgroup /a".into() });
    }

    #[test]
    fn version_1_is_understood() {
        let top = tempfile::tempdir().unwrap();
        let sources = sources(top.path(), "4:memory:/x\n1:cpu:/x\n0::/\n");
        let files = [
            ("memory.limit_in_bytes", (64 * MIB).to_string()),
            ("memory.usage_in_bytes", (60 * MIB).to_string()),
            ("memory.stat", "total_inactive_file 0\n".into()),
        ];
        group(&sources.cgroup.join("memory/x"), &files);
        let found = headroom(&sources).unwrap();
        assert_eq!(found, Headroom { bytes: 4 * MIB, limit: "cgroup /x".into() });
    }
}
