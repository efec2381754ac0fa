//! Answers that take long: meanwhile the destination learns that the source is alive.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use holdfast_engine::Progress;

use crate::channel::{Channel, Stop};
use crate::message::Reply;
use crate::{Error, Result};

/// How long the source is silent at most.
pub const ALIVE: Duration = Duration::from_secs(5);
/// How long it takes at most until the work is cancelled.
const TICK: Duration = Duration::from_millis(100);

/// Do the work for an answer, and send [`Reply::Wait`] until it is done. `progress` is cancelled when
/// the answer is wanted no more; the work heeds it.
///
/// # Errors
/// [`Error::Wire`]; [`Error::Engine`] when `stop` says so.
pub fn while_alive<T: Send>(
    channel: &mut Channel,
    progress: &Progress,
    stop: Stop<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (working, done) = mpsc::channel::<()>();
        let work = move || {
            let _working = working;
            work()
        };
        let worker = std::thread::Builder::new().name("holdfast-answer".to_owned());
        let worker = worker.spawn_scoped(scope, work).map_err(|e| Error::io("a thread", e))?;
        let mut said = Instant::now();
        let watched = loop {
            if done.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                break Ok(());
            }
            if stop() {
                break Err(holdfast_engine::Error::Cancelled.into());
            }
            if said.elapsed() >= ALIVE {
                said = Instant::now();
                let sent = channel.send(&Reply::Wait, stop);
                if sent.is_err() {
                    break sent;
                }
            }
        };
        if watched.is_err() {
            progress.cancel();
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        watched.map(|()| result)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::ALIVE;
    use crate::destination::connect::Caller;
    use crate::message::{Reply, Request};
    use crate::testing::offer;
    use crate::{Bound, Events, Secret};

    /// Looks for writers for longer than the destination is patient.
    struct Slow;

    const PATIENCE: Duration = ALIVE.saturating_add(Duration::from_secs(2));

    impl Events for Slow {
        fn bind(&self, _: &str, _: &str) -> Bound {
            Bound::Stored
        }

        fn writers(&self, _: &str, _: bool) -> Option<String> {
            std::thread::sleep(PATIENCE.saturating_add(Duration::from_secs(2)));
            None
        }
    }

    #[test]
    fn a_source_that_works_for_longer_than_the_destination_is_patient_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("source")).unwrap();
        let (_server, ticket) = offer(directory.path(), Arc::new(Slow));
        let (puller, stop) = (Secret::generate().unwrap(), || false);
        let caller = Caller {
            ticket: &ticket,
            puller: &puller,
            session: [7; 16],
            patience: PATIENCE,
            stop: &stop,
        };
        let mut control = caller.connect(false).unwrap();
        control.send(&Request::Final { overrule: false }, &stop).unwrap();
        assert_eq!(control.receive_reply(&stop).unwrap(), Reply::Welcome);
    }
}
