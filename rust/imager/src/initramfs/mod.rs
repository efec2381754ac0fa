//! The first process of the boot: from the kernel's hand-over to the reboot, which always comes.

pub mod armed;
pub mod log;
pub mod modules;
pub mod watchdog;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use self::armed::Armed;
use crate::outcome::recorder;
use crate::reimage::Completion;
use crate::{reimage, say, threads};

/// Where the armed machine left what the imager needs.
pub const DIRECTORY: &str = "/holdfast";
/// How long a fault that can be reported nowhere else stays on the console.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Do everything, and reboot.
pub fn run() -> ! {
    prepare();
    say!("holdfast-imager {}: hello", env!("CARGO_PKG_VERSION"));
    threads::report_panics();
    match threads::caught(|| reimage::run(&Armed::in_directory(Path::new(DIRECTORY)))) {
        Ok(Completion::Written) => say!("the new system is on the disk; rebooting into it"),
        Ok(Completion::StartedBefore) => {
            say!("this was started before with the same arming; nothing is done, rebooting");
        }
        Ok(Completion::Faulty) => {
            say!("a reset may help; rebooting");
            std::thread::sleep(LAST_WORDS);
        }
        Err(fault) => {
            say!("refused, and nothing was written: {fault}");
            recorder::refused(&fault.to_string());
            std::thread::sleep(LAST_WORDS);
        }
    }
    leave()
}

/// What every program takes for granted.
fn prepare() {
    let mut faults = Vec::new();
    let mut attach = |kind: &str, at: &str, options: Option<&std::ffi::CStr>| {
        let result = fs::create_dir_all(at)
            .and_then(|()| Ok(mount(kind, at, kind, MountFlags::NOSUID, options)?));
        if let Err(error) = result {
            faults.push(format!("mounting {at}: {error}"));
        }
    };
    attach("proc", "/proc", None);
    attach("sysfs", "/sys", None);
    attach("devtmpfs", "/dev", Some(c"mode=0755"));
    log::use_kernel_log();
    // Kernels may mount /dev by themselves.
    faults.retain(|fault| !(fault.starts_with("mounting /dev") && Path::new("/dev/null").exists()));
    for fault in faults {
        say!("{fault}");
    }
    // Also if the boot loader's entry does not set it: never hang where nobody can press a key.
    for (knob, value) in [("panic", "10"), ("panic_on_oops", "1"), ("ctrl-alt-del", "0")] {
        if let Err(error) = fs::write(Path::new("/proc/sys/kernel").join(knob), value) {
            say!("setting kernel.{knob}: {error}");
        }
    }
}

/// Reboot; power off is never an option, since it would lose the data of instance storage.
fn leave() -> ! {
    rustix::fs::sync();
    watchdog::stop();
    let result = reboot(RebootCommand::Restart);
    say!("the kernel refuses to reboot: {result:?}; ending, so that it panics and reboots");
    std::process::exit(1)
}
