//! Threads, and faults of the program itself: a panic is a fault like any other wherever it can be
//! handled, and what nothing depends on can end without ending the work.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;
use std::thread::Builder;

use crate::status::lock;
use crate::{Fault, Result, say};

/// The first panic since [`caught`] began, with its place.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// Print each panic on the console, from now on.
pub fn report_panics() {
    set_hook(Box::new(|panic| {
        let text = format!("a fault of the imager itself: {panic}");
        say!("{text}");
        lock(&FIRST).get_or_insert(text);
    }));
}

/// Do something; its panic, or that of a thread that it waits for, is its fault.
///
/// # Errors
/// Those of `work`, and a panic.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    lock(&FIRST).take();
    // The caller gives up on what the work held, or starts anew with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let first = lock(&FIRST).take();
        Err(Fault(
            first.unwrap_or_else(|| format!("a fault of the imager itself: {}", text(&*payload))),
        ))
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

/// Do something beside the work. Where no thread can be started for it, it is not done, and that is
/// reported.
pub fn in_background(what: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = Builder::new().spawn(work) {
        say!("{what}: no thread for it: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::caught;
    use crate::Fault;

    #[test]
    fn a_panic_is_a_fault() {
        assert_eq!(caught(|| Ok(7)), Ok(7));
        assert_eq!(caught::<()>(|| Err(Fault::new("no"))), Err(Fault::new("no")));
        let message = caught::<()>(|| panic!("chunk {}", 9)).unwrap_err().to_string();
        assert!(
            message.contains("a fault of the imager itself") && message.contains("chunk 9"),
            "{message}"
        );
    }

    #[test]
    fn so_is_one_of_a_thread_that_was_waited_for() {
        let scoped = || {
            std::thread::scope(|scope| {
                scope.spawn(|| panic!("in a thread"));
            });
            Ok(())
        };
        assert!(caught(scoped).unwrap_err().to_string().contains("a fault of the imager itself"));
    }
}
