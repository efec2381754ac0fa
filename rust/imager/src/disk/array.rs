//! Arrays of the kernel's md driver, put together read-only: no superblock is written, nothing is
//! resynchronised. The requests are those of `include/uapi/linux/raid/md_u.h`.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::disk::devices::{self, Device};
use holdfast_media::digits;
use holdfast_media::superblock::Member;

use crate::disk::superblock;
use crate::{Context as _, Fault, Result, job, say};

/// `SET_ARRAY_INFO`: _IOW(9, 0x23, mdu_array_info_t), which has 72 bytes.
const SET_ARRAY_INFO: u32 = 0x4048_0923;
/// `ADD_NEW_DISK`: _IOW(9, 0x21, mdu_disk_info_t), which has 20 bytes.
const ADD_NEW_DISK: u32 = 0x4014_0921;
/// `STOP_ARRAY`: _IO(9, 0x32).
const STOP_ARRAY: u32 = 0x0932;
/// `STOP_ARRAY_RO`: _IO(9, 0x33), which lets it run on, read-only.
const STOP_ARRAY_RO: u32 = 0x0933;
/// `RESTART_ARRAY_RW`: _IO(9, 0x34).
const RESTART_ARRAY_RW: u32 = 0x0934;
/// `MD_MAJOR` of `include/uapi/linux/major.h`.
const MAJOR: u32 = 9;
/// Arrays are numbered from here: mdadm counts down from md127.
const FIRST_MINOR: u32 = 100;

/// How long members, and then the array, may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// `mdu_array_info_t` as far as it matters: with no disks it only returns the version.
#[repr(C)]
#[derive(Default)]
struct ArrayInfo {
    major_version: i32,
    minor_version: i32,
    rest: [i32; 16],
}

#[repr(C)]
#[derive(Default)]
struct DiskInfo {
    number: i32,
    major: i32,
    minor: i32,
    raid_disk: i32,
    state: i32,
}

/// An array that runs read-only; it is stopped when dropped.
#[derive(Debug)]
pub struct Running {
    file: File,
    /// Its node.
    pub path: PathBuf,
    members: Vec<Device>,
}

impl Running {
    /// Let it be written to, or no more. Nothing on it may be mounted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_read_only(&self, refuse: bool) -> Result<()> {
        let what = || {
            let how = if refuse { "no more" } else { "from now on" };
            format!("letting {} be written to {how}", self.path.display())
        };
        if refuse {
            // What was mounted on it lets go of it a moment after it was unmounted.
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = request(&self.file, STOP_ARRAY_RO, std::ptr::null::<u8>()) {
                if Instant::now() > deadline {
                    return Err(error).context(what());
                }
                std::thread::sleep(PAUSE);
            }
        }
        for member in &self.members {
            member.set_read_only(refuse).context(what())?;
        }
        if !refuse {
            request(&self.file, RESTART_ARRAY_RW, std::ptr::null::<u8>()).context(what())?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = request(&self.file, STOP_ARRAY, std::ptr::null::<u8>()) {
            say!("the array cannot be stopped: {error}");
        }
    }
}

/// Find the members of an array and start it, read-only; `number` is no other array's of this boot.
///
/// # Errors
/// A sentence about what is missing or what the kernel refused.
pub fn assemble(wanted: &job::Array, target: &str, number: u32) -> Result<Running> {
    let deadline = Instant::now() + PATIENCE;
    let uuid = digits(&wanted.uuid);
    let members = loop {
        let members = current(members(&uuid, target));
        // Redundant levels run with fewer, but not before all had time to appear.
        let enough = members.len() as u32 >= wanted.devices;
        if enough || Instant::now() > deadline {
            break members;
        }
        std::thread::sleep(PAUSE);
    };
    let Some((_, first)) = members.first() else {
        return Err(Fault(format!("no disk is a member of the array {}", wanted.uuid)));
    };
    if first.level == 0 && members.len() != first.raid_disks as usize {
        return Err(Fault(format!(
            "only {} of {} members of the array {} are there, and a RAID0 needs all",
            members.len(),
            first.raid_disks,
            wanted.uuid
        )));
    }
    let names: Vec<_> = members.iter().map(|(device, _)| device.name.clone()).collect();
    say!("starting the array {} read-only from {}", wanted.uuid, names.join(", "));
    start(&members, first.minor_version, number)
        .context(format_args!("the array {} ({}) cannot be started", wanted.uuid, wanted.level))
}

/// All members of an array, but for those on the target.
fn members(uuid: &str, target: &str) -> Vec<(Device, Member)> {
    let mut members = Vec::new();
    for device in devices::all() {
        if device.name == target || device.disk.as_deref() == Some(target) {
            continue;
        }
        // What cannot be read is no member that could be used.
        let found = Disk::open(&device.path).and_then(|disk| superblock::read(&disk));
        if let Some(member) = found.ok().and_then(|found| found.member)
            && member.array == uuid
        {
            members.push((device, member));
        }
    }
    members
}

/// Of several members for one place those with the newest superblock, and no spares.
fn current(members: Vec<(Device, Member)>) -> Vec<(Device, Member)> {
    let newest = members.iter().map(|(_, member)| member.events).max().unwrap_or(0);
    // The kernel puts up with a difference of one as well.
    let usable = |member: &Member| member.role.is_some() && member.events + 1 >= newest;
    members.into_iter().filter(|(_, member)| usable(member)).collect()
}

fn start(members: &[(Device, Member)], minor_version: u32, number: u32) -> Result<Running> {
    let minor = FIRST_MINOR + number;
    let name = format!("md{minor}");
    // Older kernels, and those with create_on_open, make it when the node is opened.
    let _ = fs::write("/sys/module/md_mod/parameters/new_array", &name);
    let path = Path::new("/dev").join(&name);
    if !path.exists() {
        let device = rustix::fs::makedev(MAJOR, minor);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::BlockDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, device).context(path.display())?;
    }
    let file = File::options().read(true).write(true).open(&path).context(path.display())?;
    let minor_version = i32::try_from(minor_version).context("the superblock's version")?;
    let info = ArrayInfo { major_version: 1, minor_version, ..ArrayInfo::default() };
    request(&file, SET_ARRAY_INFO, &raw const info).context("setting the version")?;
    let running =
        Running { file, path, members: members.iter().map(|(one, _)| one.clone()).collect() };
    for (device, _) in members {
        let (major, minor) = device.number;
        let disk = DiskInfo {
            major: major.cast_signed(),
            minor: minor.cast_signed(),
            ..DiskInfo::default()
        };
        request(&running.file, ADD_NEW_DISK, &raw const disk)
            .context(format_args!("adding {}", device.path.display()))?;
    }
    let state = Path::new("/sys/block").join(&name).join("md/array_state");
    fs::write(&state, "readonly").context("starting it read-only")?;
    let now = devices::text(&state).unwrap_or_default();
    if now != "readonly" {
        return Err(Fault(format!("it should be read-only, and is {now}")));
    }
    Ok(running)
}

fn request<T>(file: &File, request: u32, argument: *const T) -> std::io::Result<()> {
    // SAFETY: the argument points to the structure that the request reads, or it reads none.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
