//! What the imager does, line by line: on every console of the kernel, and the last lines in memory
//! for the status and the outcome record.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Lines that are kept.
const KEPT: usize = 50;

static CONSOLE: OnceLock<Mutex<File>> = OnceLock::new();
static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Send lines to the kernel's log, and so to all its consoles, from now on; without it they go to
/// standard error.
///
/// The kernel drops lines of programs that come too fast, and shows them on consoles only if it is
/// not set to be quiet, so both are set. Where that fails, lines go to `/dev/console`.
pub fn use_kernel_log() {
    let set = |path: &str, value: &str| std::fs::write(path, value);
    // Fails where the kernel's command line has printk.devkmsg=: then some lines may be missing.
    let _ = set("/proc/sys/kernel/printk_devkmsg", "on\n");
    let shown = set("/proc/sys/kernel/printk", "7\n").is_ok();
    let open = |path: &str| OpenOptions::new().write(true).open(path);
    let file = match open("/dev/kmsg") {
        Ok(file) if shown => Ok(file),
        _ => open("/dev/console"),
    };
    if let Ok(file) = file {
        let _ = CONSOLE.set(Mutex::new(file));
    }
}

/// Print a line on the console.
pub fn line(text: impl AsRef<str>) {
    // A line of another's making (an error with a newline, a name) must stay one line.
    let text: String =
        text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let whole = format!("holdfast-imager: {text}\n");
    match CONSOLE.get() {
        // In one write, or it is several records. A failure of the console can be reported nowhere.
        Some(console) => {
            let _ =
                console.lock().unwrap_or_else(PoisonError::into_inner).write_all(whole.as_bytes());
        }
        None => eprint!("{whole}"),
    }
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == KEPT {
        lines.pop_front();
    }
    lines.push_back(text);
}

/// The last lines, the oldest first.
pub fn recent() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Print a line on the console, as with `format!`.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::initramfs::log::line(format!($($argument)*)) };
}
