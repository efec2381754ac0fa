//! A pool of threads over a stack of tasks, which tasks may add to.

use std::sync::{Condvar, Mutex};

use crate::progress::lock;

/// Tasks waiting for a thread. Last in, first out: a tree is walked depth first, so that the stack
/// stays small.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    drained: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    running: usize,
    stopped: bool,
}

impl<T> Queue<T> {
    /// Add a task.
    pub fn push(&self, task: T) {
        lock(&self.state).waiting.push(task);
        self.changed.notify_one();
    }

    /// How many tasks wait, for callers that would rather do the work themselves than queue more.
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Wait until fewer than `limit` tasks wait; false if the pool stopped because of an error.
    pub fn wait_for_room(&self, limit: usize) -> bool {
        let mut state = lock(&self.state);
        while !state.stopped && state.waiting.len() >= limit {
            state = self.drained.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        !state.stopped
    }

    fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(task) = state.waiting.pop() {
                state.running += 1;
                self.drained.notify_one();
                return Some(task);
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn finished(&self, stop: bool) {
        let mut state = lock(&self.state);
        state.running -= 1;
        state.stopped |= stop;
        if state.stopped || (state.running == 0 && state.waiting.is_empty()) {
            self.changed.notify_all();
            self.drained.notify_all();
        }
    }
}

/// Stops the pool also when a task panics, so that the others do not wait for it for ever.
struct Finish<'a, T> {
    queue: &'a Queue<T>,
    stop: bool,
}

impl<T> Drop for Finish<'_, T> {
    fn drop(&mut self) {
        self.queue.finished(self.stop);
    }
}

/// Run `work` on `seed` and on whatever it pushes, on `threads` threads.
///
/// # Errors
/// The first error of any task; the tasks that still wait are then dropped.
pub fn run<T, E>(
    threads: usize,
    seed: Vec<T>,
    work: impl Fn(T, &Queue<T>) -> Result<(), E> + Sync,
) -> Result<(), E>
where
    T: Send,
    E: Send,
{
    feed(
        threads,
        |queue| {
            seed.into_iter().for_each(|task| queue.push(task));
            Ok(())
        },
        work,
    )
}

/// Run `work` on what `produce` pushes from this thread, and on whatever `work` pushes.
///
/// A producer calls [`Queue::wait_for_room`] before it pushes, so that memory stays bounded.
///
/// # Errors
/// The first error of any task or of the producer; the tasks that still wait are then dropped.
pub fn feed<T, E>(
    threads: usize,
    produce: impl FnOnce(&Queue<T>) -> Result<(), E>,
    work: impl Fn(T, &Queue<T>) -> Result<(), E> + Sync,
) -> Result<(), E>
where
    T: Send,
    E: Send,
{
    // The producer counts as a running task, so that workers wait for what it will push.
    let queue = Queue {
        state: Mutex::new(State { waiting: Vec::new(), running: 1, stopped: false }),
        changed: Condvar::new(),
        drained: Condvar::new(),
    };
    let failure = Mutex::new(None);
    let settle = |mut finish: Finish<'_, T>, result| match result {
        Ok(()) => finish.stop = false,
        Err(error) => {
            lock(&failure).get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                be_nice();
                while let Some(task) = queue.next() {
                    let finish = Finish { queue: &queue, stop: true };
                    settle(finish, work(task, &queue));
                }
            });
        }
        let finish = Finish { queue: &queue, stop: true };
        settle(finish, produce(&queue));
    });
    failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Give way to the datastore and to our own HTTP threads.
pub fn be_nice() {
    // Being denied this only costs politeness.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// The number of processors this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::run;

    #[test]
    fn tasks_may_add_tasks() {
        let sum = AtomicU64::new(0);
        let result: Result<(), ()> = run(4, vec![1000_u64], |n, queue| {
            sum.fetch_add(1, Ordering::Relaxed);
            if n > 1 {
                queue.push(n / 2);
                queue.push(n - n / 2);
            }
            Ok(())
        });
        assert_eq!(result, Ok(()));
        assert_eq!(sum.into_inner(), 1999);
    }

    #[test]
    fn the_first_error_ends_it() {
        let result = run(3, (0..100).collect(), |n, _| if n == 50 { Err(n) } else { Ok(()) });
        assert_eq!(result, Err(50));
    }
}
