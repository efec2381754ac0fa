//! Giving way while others wait for the device: pressure stall information (Linux 4.20,
//! Documentation/accounting/psi.rst).

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::progress::lock;
use crate::{Error, Result};

/// How often the kernel is asked; its own figures change twice a second at the most.
const INTERVAL: Duration = Duration::from_millis(250);

/// Which pressure to watch, and when it is too much.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// `/proc/pressure/io`, or `io.pressure` of a control group.
    pub file: PathBuf,
    /// Percent of the time in which some task waited for the device.
    pub threshold_percent: f64,
}

/// Watches a pressure for all threads of a call.
#[derive(Debug)]
pub struct Pressure {
    limit: Limit,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    asked: Instant,
    stalled: Duration,
    too_much: bool,
}

impl Pressure {
    /// Start to watch.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel does not report this pressure, [`Error::Invalid`] if its report
    /// has another form.
    pub fn new(limit: Limit) -> Result<Self> {
        let text = fs::read_to_string(&limit.file).map_err(|e| Error::io(&limit.file, e))?;
        let stalled = stalled(&text).ok_or_else(|| {
            Error::Invalid(format!("{} is not a pressure file of the kernel", limit.file.display()))
        })?;
        let state = State { asked: Instant::now(), stalled, too_much: false };
        Ok(Self { limit, state: Mutex::new(state) })
    }

    /// How long to wait before asking again, if the pressure is above the limit.
    pub fn wait(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let passed = now.saturating_duration_since(state.asked);
        if passed >= INTERVAL {
            // A control group whose service stopped is gone, and nobody waits in it.
            let text = fs::read_to_string(&self.limit.file).unwrap_or_default();
            let stalled = stalled(&text).unwrap_or_default();
            let waited = stalled.saturating_sub(state.stalled);
            let percent = 100.0 * waited.as_secs_f64() / passed.as_secs_f64();
            *state =
                State { asked: now, stalled, too_much: percent > self.limit.threshold_percent };
        }
        let left = INTERVAL.saturating_sub(now.saturating_duration_since(state.asked));
        state.too_much.then_some(left.max(Duration::from_millis(1)))
    }
}

/// For how long some task was stalled since the machine or the group began.
fn stalled(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Limit, Pressure, stalled};

    #[test]
    fn the_kernels_format() {
        let text =
            "some avg10=0.12 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 total=9\n";
        assert_eq!(stalled(text), Some(Duration::from_micros(1_234_567)));
        assert_eq!(stalled("nonsense"), None);
    }

    #[test]
    fn above_the_limit_it_asks_to_wait_and_when_the_group_is_gone_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |total: u64| {
            std::fs::write(file.path(), format!("some avg10=0 total={total}\n")).unwrap();
        };
        write(0);
        let limit = Limit { file: file.path().to_owned(), threshold_percent: 50.0 };
        let pressure = Pressure::new(limit).unwrap();
        assert_eq!(pressure.wait(), None);
        write(60_000_000);
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while pressure.wait().is_none() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        std::fs::remove_file(file.path()).unwrap();
        while let Some(wait) = pressure.wait() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(wait);
        }
    }
}
