//! Resets a machine that hangs, where a reset boots something: by the hardware's watchdog if there is one,
//! else by the kernel's own means.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::status::{Status, lock};
use crate::{Result, say, threads};

/// How long nothing may happen: no byte read or written, no try that failed, no wait that was announced.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often to check.
const STEP: Duration = Duration::from_secs(5);
/// After how many seconds without a sign of life the hardware resets the machine.
const HARDWARE_SECONDS: libc::c_int = 60;
/// How long the device may take to appear once its module is loaded.
const APPEARS: Duration = Duration::from_secs(5);

// include/uapi/linux/watchdog.h: _IOWR('W', 6, int), _IOR('W', 7, int).
const SETTIMEOUT: u32 = 0xc004_5706;
const GETTIMEOUT: u32 = 0x8004_5707;

/// The hardware's watchdog while it runs.
static HARDWARE: Mutex<Option<File>> = Mutex::new(None);

/// From now on reset the machine if its work hangs; `expected` says whether there is a watchdog for sure.
pub fn start(expected: bool, status: &Arc<Status>) {
    let deadline = Instant::now() + if expected { APPEARS } else { Duration::ZERO };
    let device = loop {
        let found = ["/dev/watchdog0", "/dev/watchdog"].map(Path::new);
        let found = found.into_iter().find(|path| path.exists());
        if found.is_some() || Instant::now() >= deadline {
            break found;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    match device.map(arm) {
        Some(Ok((file, seconds))) => {
            say!("the hardware watchdog resets this machine {seconds} s after it hangs");
            *lock(&HARDWARE) = Some(file);
        }
        Some(Err(fault)) => say!("the hardware watchdog cannot be used: {fault}"),
        None if expected => say!("there is no hardware watchdog after all"),
        None => {}
    }
    let status = Arc::clone(status);
    threads::in_background("the watchdog", move || {
        while keep(&status, PATIENCE) {
            std::thread::sleep(STEP);
        }
        say!("nothing happened for {} s; resetting", PATIENCE.as_secs());
        // At once: an orderly reboot waits for the disk that may be what hangs. If even that fails, the
        // hardware does it, as nobody keeps it from it any more.
        if let Err(error) = fs::write("/proc/sysrq-trigger", "b") {
            say!("the kernel does not reset: {error}");
        }
    });
}

/// Show the hardware a sign of life, unless nothing happened for too long.
fn keep(status: &Status, patience: Duration) -> bool {
    if status.silent_for() > patience {
        return false;
    }
    if let Some(file) = lock(&HARDWARE).as_mut()
        && let Err(error) = file.write_all(b"\0")
    {
        say!("the hardware watchdog: {error}");
    }
    true
}

/// Stop the hardware's watchdog, before an orderly reboot. A kernel that lets nobody stop it resets the
/// machine if the next system does not take it over in time.
pub fn stop() {
    if let Some(mut file) = lock(&HARDWARE).take()
        && let Err(error) = file.write_all(b"V")
    {
        say!("the hardware watchdog stays on: {error}");
    }
}

/// Start the hardware's watchdog; return it and its patience in seconds.
fn arm(path: &Path) -> Result<(File, libc::c_int)> {
    use crate::Context as _;
    let file = OpenOptions::new().write(true).open(path).context(path.display())?;
    let mut seconds = HARDWARE_SECONDS;
    // SAFETY: both requests read and write one int where they are pointed to.
    let done = unsafe {
        let set = libc::ioctl(file.as_raw_fd(), SETTIMEOUT as _, &raw mut seconds);
        // One whose patience cannot be changed has the one that it reports.
        if set < 0 { libc::ioctl(file.as_raw_fd(), GETTIMEOUT as _, &raw mut seconds) } else { set }
    };
    if done < 0 {
        say!("{}: {}", path.display(), std::io::Error::last_os_error());
    }
    Ok((file, seconds))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::keep;
    use crate::status::Status;

    const AT_ONCE: Duration = Duration::ZERO;
    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_kept_from_a_reset_while_something_happens_or_a_wait_is_announced() {
        let status = Status::new();
        assert!(keep(&status, NEVER));
        assert!(!keep(&status, AT_ONCE), "nothing happened");
        let wait = status.expect_silence();
        assert!(keep(&status, AT_ONCE), "it was announced");
        let another = status.expect_silence();
        drop(wait);
        assert!(keep(&status, AT_ONCE), "the other one was");
        drop(another);
        assert!(!keep(&status, AT_ONCE));
    }

    #[test]
    fn progress_and_faults_are_signs_of_life() {
        for sign in [Status::retry, |status: &Status| status.advance(1)] {
            let status = Status::new();
            std::thread::sleep(Duration::from_millis(200));
            let before = status.silent_for();
            sign(&status);
            assert!(status.silent_for() < before);
        }
    }
}
