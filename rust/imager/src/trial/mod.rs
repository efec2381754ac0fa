//! The new root is tried on the machine that will write it, while the old system still runs: by the
//! program that will carry identity over, and by the kernel that will run it.
//!
//! A copy of the root is mounted in a mount namespace of this process: read-only and without its journal
//! first, then as the imager mounts it. Everything goes with the process, also if it is killed.

mod copy;
mod kernel_log;
mod location;
mod loop_device;
mod mounting;
mod root;
mod rows;

use std::io::{BufRead as _, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use holdfast_engine::image::Descriptor;
use holdfast_engine::image::descriptor::Partition;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use serde::Deserialize;
use serde_json::json;

use crate::identity::Identity;
use crate::source::staged::Staged;
use crate::{Context as _, Fault, Result, threads};
use copy::Missing;
use location::RootLocation;
use root::RootTrial;
use rows::{Outcome, Rows};

/// The most bytes of a request: a descriptor, in JSON within JSON, and an identity.
const REQUEST: u64 = 160 << 20;
/// Types of partitions that a boot loader reads: EFI system partitions (GPT, MBR), and extended boot
/// loader partitions.
const BOOT_TYPES: [&str; 3] =
    ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef", "bc13c2ff-59e6-4262-a352-b275fd6f7172"];
/// Directories one of which every system has; a file system in memory hides it from this process only.
const PLACES: [&str; 3] = ["/run", "/tmp", "/mnt"];
/// By how many bytes a root is extended at most, to see that the kernel grows it.
const GROWN: u64 = 1 << 30;

/// What is tried.
#[derive(Debug, Deserialize)]
struct Request {
    /// The descriptor's text.
    descriptor: String,
    /// The staged image, packed or not as its descriptor states.
    image: PathBuf,
    /// The directory in which a copy may be made.
    scratch: PathBuf,
    /// Bytes of its file system that stay free.
    floor_bytes: u64,
    /// What is carried over; the contents of secrets may be others of the same length.
    identity: Identity,
    /// The size of the disk, if the root is to be extended.
    #[serde(default)]
    grow_to_bytes: Option<u64>,
}

/// Try what a request on standard input asks for. Each line of the output is JSON: what is being done,
/// and in the end all that was found.
pub fn run() -> ExitCode {
    // Nobody would read the outcome.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let mut line = Vec::new();
    let request = std::io::stdin()
        .lock()
        .take(REQUEST)
        .read_until(b'\n', &mut line)
        .context("reading the request")
        .and_then(|_| {
            serde_json::from_slice::<Request>(&line).context("the request cannot be used")
        })
        .and_then(|request| {
            let image =
                Descriptor::parse(Path::new("the descriptor"), request.descriptor.as_bytes())?;
            Ok((request, image))
        });
    match request {
        Ok((request, image)) => {
            let mut rows = Rows::default();
            attempt(&request, &image, &mut rows);
            send(&json!({ "rows": rows.rows }));
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("holdfast-imager: {fault}");
            ExitCode::from(2)
        }
    }
}

/// Write a line for the caller; end if nobody listens any more.
fn send(value: &serde_json::Value) {
    let mut output = std::io::stdout().lock();
    let line = format!("{value}\n");
    if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
        std::process::exit(3);
    }
}

/// End as soon as nobody listens any more, whatever is being done.
fn end_unheard() {
    let output = std::io::stdout();
    let mut ends = [PollFd::new(&output, PollFlags::empty())];
    while let Ok(0) | Err(Errno::INTR) = poll(&mut ends, None) {}
    std::process::exit(3);
}

/// Report what is being done.
fn step(name: &str) {
    send(&json!({ "step": name }));
}

fn attempt(request: &Request, image: &Descriptor, rows: &mut Rows) {
    let Some(partition) = image.root() else {
        rows.add("mount", Outcome::NotTried, "No root is known in the image, so none is mounted.");
        return;
    };
    let place = match RootLocation::of(image, partition) {
        Ok(place) => place,
        Err(why) => {
            rows.add("mount", Outcome::NotTried, why);
            return;
        }
    };
    let root = RootTrial {
        image,
        place,
        identity: &request.identity,
        extended_to: request.grow_to_bytes.and_then(|disk| extended(image, partition, disk)),
    };
    if let Some(why) = root.hindrance() {
        rows.add("mount", Outcome::NotTried, why);
        return;
    }
    let boots = boot_partitions(image, partition);
    let mut parts: Vec<Range<u64>> = boots.iter().copied().map(range).collect();
    parts.push(range(partition));
    step("namespace");
    // Before anything is unpacked, and while this process has no other threads.
    if let Err(fault) = separate() {
        rows.add("mount", Outcome::NotTried, format!("Nothing can be mounted here: {fault}."));
        return;
    }
    threads::in_background("the listener", end_unheard);
    step("copy");
    let supply = Staged::at(request.image.clone());
    let report = |bytes: u64| send(&json!({ "step": "copy", "bytes": bytes }));
    let copied = copy::copy(image, &supply, &parts, &request.scratch, request.floor_bytes, &report);
    let file = match copied {
        Ok(file) => file,
        Err(Missing::NoSpace(why)) => {
            rows.advise(
                "copy",
                Outcome::NotTried,
                format!("The image cannot be unpacked for the trial: {why}."),
                "Free space on the data volume, and ask for the plan again.",
            );
            return;
        }
        Err(Missing::Image(why)) => {
            rows.advise("copy", Outcome::Failed, format!("{why}."), "Stage the image again.");
            return;
        }
    };
    rows.add("copy", Outcome::Passed, "The staged image matches its descriptor.");
    let at = match mount_point() {
        Ok(at) => at,
        Err(fault) => {
            rows.add("mount", Outcome::NotTried, format!("Nothing can be mounted here: {fault}."));
            return;
        }
    };
    for boot in boots {
        step("boot");
        root::boot(&file, boot, &at, rows);
    }
    root.run(&file, &at, rows);
}

fn range(partition: &Partition) -> Range<u64> {
    partition.start_bytes..partition.start_bytes + partition.size_bytes
}

/// How large the root's partition would be made: as far as is tried.
fn extended(image: &Descriptor, root: &Partition, disk: u64) -> Option<u64> {
    let table = image.partition_table.as_ref()?;
    let last = table.partitions.iter().all(|partition| partition.start_bytes <= root.start_bytes);
    // The backup of the table is behind it.
    let most = disk.checked_sub(root.start_bytes)?.checked_sub(1 << 20)? / 4096 * 4096;
    (last && most > root.size_bytes).then(|| most.min(root.size_bytes / 4096 * 4096 + GROWN))
}

fn boot_partitions<'a>(image: &'a Descriptor, root: &Partition) -> Vec<&'a Partition> {
    let partitions = image.partition_table.iter().flat_map(|table| &table.partitions);
    partitions
        .filter(|partition| partition.number != root.number && partition.file_system.is_some())
        .filter(|partition| BOOT_TYPES.iter().any(|kind| partition.kind.eq_ignore_ascii_case(kind)))
        .take(2)
        .collect()
}

/// Have a mount namespace of this process's own.
fn separate() -> Result<()> {
    // SAFETY: this process has no other thread that could rely on what they share.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("a mount namespace")?;
    let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", flags).context("a private mount namespace")
}

/// A directory to mount at that no other process sees.
fn mount_point() -> Result<PathBuf> {
    let place = PLACES
        .iter()
        .find(|place| Path::new(place).is_dir())
        .ok_or_else(|| Fault::new("there is no directory to mount at"))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", *place, "tmpfs", flags, Some(c"size=64k,mode=0700")).context(place)?;
    Ok(Path::new(place).join("root"))
}
