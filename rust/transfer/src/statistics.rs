//! What all transfers of this process have done, live, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::{Limited, Proof};

static SENT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static RECEIVED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static LIMITED_MS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Counters since the process started.
#[derive(Debug, Clone, Serialize)]
pub struct Statistics {
    /// Bytes of files that were sent, by level of proof.
    pub sent_bytes: BTreeMap<Proof, u64>,
    /// Bytes of files that were received, by level of proof.
    pub received_bytes: BTreeMap<Proof, u64>,
    /// Seconds that transfers into this machine were limited, by what limited them.
    pub limited_seconds: BTreeMap<Limited, f64>,
}

/// Return the counters.
pub fn statistics() -> Statistics {
    let proofs = [Proof::Wire, Proof::Flushed, Proof::Media];
    let bytes = |counters: &[AtomicU64; 3]| {
        let one = |proof: Proof| (proof, counters[proof as usize].load(Ordering::Relaxed));
        proofs.into_iter().map(one).collect()
    };
    let seconds = |limited: Limited| {
        (limited, LIMITED_MS[limited as usize].load(Ordering::Relaxed) as f64 / 1e3)
    };
    Statistics {
        sent_bytes: bytes(&SENT),
        received_bytes: bytes(&RECEIVED),
        limited_seconds: Limited::ALL.into_iter().map(seconds).collect(),
    }
}

/// Count bytes of files that were sent.
pub(crate) fn sent(proof: Proof, bytes: u64) {
    SENT[proof as usize].fetch_add(bytes, Ordering::Relaxed);
}

/// Count bytes of files that were received.
pub(crate) fn received(proof: Proof, bytes: u64) {
    RECEIVED[proof as usize].fetch_add(bytes, Ordering::Relaxed);
}

/// Count time in which a transfer was limited.
pub(crate) fn limited(by: Limited, time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    LIMITED_MS[by as usize].fetch_add(millis, Ordering::Relaxed);
}
