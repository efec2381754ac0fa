//! A limit on bytes per second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::progress::lock;
use crate::{Progress, Result};

/// How often a waiting thread looks whether it was cancelled.
const NAP: Duration = Duration::from_millis(50);

/// Spreads work over time, for all threads together.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: Option<u64>,
    /// When the bytes granted so far will have been worth their time.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// A limit, or none.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid: Mutex::new(Instant::now()) }
    }

    /// The most that is worth asking for at a time, up to `most` bytes: an eighth of a second's, so
    /// that progress is seen to be made under a low limit as well.
    pub fn portion(&self, most: u64) -> u64 {
        self.bytes_per_second.map_or(most, |rate| most.min(rate / 8))
    }

    /// How long to wait before more may be read, if that is not now.
    pub fn wanting(&self) -> Option<Duration> {
        self.bytes_per_second?;
        let wait = lock(&self.paid).saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// Count `bytes` that are being read now, after [`Throttle::wanting`] returned nothing.
    pub fn charge(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let mut paid = lock(&self.paid);
        let now = Instant::now();
        // Time in which nothing was read is not saved up for a burst, beyond that of a short nap.
        let begin = (*paid).max(now.checked_sub(NAP).unwrap_or(now));
        *paid = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
    }

    /// Wait until `bytes` more may be read.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn wait(&self, bytes: u64, progress: &Progress) -> Result<()> {
        progress.check()?;
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let begin = {
            let mut paid = lock(&self.paid);
            // Time in which nothing was read is not saved up for a burst.
            let begin = (*paid).max(Instant::now());
            *paid = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            begin
        };
        loop {
            progress.check()?;
            let left = begin.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}
