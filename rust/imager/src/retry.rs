//! Trying again: from the first write on there is no system to go back to.

use std::time::{Duration, Instant};

use crate::status::{Phase, Status};
use crate::{Fault, Result, say, threads};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long nothing but faults may come until the machine is reset, which may help a disk or a
/// controller, and boots the lifeboat. Each boot from it doubles this, up to [`DOUBLINGS`] times.
const FAULT_LIMIT: Duration = Duration::from_secs(600);
const DOUBLINGS: u64 = 4;
/// How often to try before that in any case.
const TRIES: u32 = 3;

/// How long to try before a reset; `resumed` is how many times the lifeboat was booted.
pub fn fault_limit(resumed: u64) -> Duration {
    FAULT_LIMIT * (1 << resumed.min(DOUBLINGS))
}

/// Try until it is done: for ever, or where a reset boots the lifeboat until only faults came for `fault_limit`.
///
/// # Errors
/// The last fault, where a reset may help.
pub fn until_done<T>(
    status: &Status,
    fault_limit: Option<Duration>,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut pause = Duration::from_secs(1);
    let (mut since, mut tries) = (None, 0);
    loop {
        let fault = match threads::caught(&mut attempt) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        tries += 1;
        let since = *since.get_or_insert_with(Instant::now);
        status.retry();
        status.enter(Phase::Waiting, 0);
        status.problem(format!("writing to the disk has started and must be finished: {fault}"));
        if fault_limit.is_some_and(|fault_limit| tries >= TRIES && since.elapsed() >= fault_limit) {
            let minutes = since.elapsed().as_secs() / 60;
            return Err(Fault(format!("nothing but faults for {minutes} minutes; {fault}")));
        }
        say!("trying again from the beginning in {} s", pause.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::until_done;
    use crate::Fault;
    use crate::status::Status;

    #[test]
    fn what_was_begun_is_tried_again_also_after_a_panic() {
        let mut left = vec![Ok(7), Err(Fault::new("the disk fails"))];
        let done = until_done(&Status::new(), None, || match left.len() {
            2 => left.pop().unwrap(),
            1 => {
                left.push(Ok(8));
                panic!("no thread to be had")
            }
            _ => left.pop().unwrap(),
        });
        assert_eq!(done, Ok(8));
    }

    #[test]
    fn where_only_faults_come_a_reset_is_asked_for() {
        let mut tries = 0;
        let fault = until_done(&Status::new(), Some(Duration::ZERO), || -> crate::Result<()> {
            tries += 1;
            Err(Fault::new("the disk fails"))
        });
        assert_eq!(tries, 3);
        assert!(fault.unwrap_err().to_string().ends_with("the disk fails"));
    }
}
