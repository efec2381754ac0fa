//! The connections to the status, of which strangers may hold any number open: each has a deadline for
//! all of it, there are up to a few at a time, and one that is new takes the place of one that has not
//! asked for anything yet.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;

/// A stream of which all reads and writes end at one time.
#[derive(Debug)]
pub struct Limited {
    stream: TcpStream,
    deadline: Instant,
}

impl Limited {
    /// Reads and writes until then.
    pub fn new(stream: TcpStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    /// Send no more.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Limited {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

struct Open {
    number: u64,
    address: IpAddr,
    stream: TcpStream,
    admitted: Arc<AtomicBool>,
}

/// Those that are open.
#[derive(Clone)]
pub struct Connections {
    most: usize,
    next: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<Open>>>,
}

impl Connections {
    /// Up to `most` at a time.
    pub fn new(most: usize) -> Self {
        Self { most, next: Arc::default(), open: Arc::default() }
    }

    /// Take a connection in. Where there are as many as there may be, one that was not admitted is
    /// closed for it: the oldest of the address that has the most. `None` if all were admitted.
    pub fn take(&self, stream: &TcpStream, address: IpAddr) -> Option<Slot> {
        let mut open = lock(&self.open);
        if open.len() >= self.most {
            let strangers =
                || open.iter().filter(|connection| !connection.admitted.load(Ordering::Acquire));
            let of =
                |address| strangers().filter(|connection| connection.address == address).count();
            // Of those with the most, the first one is the oldest.
            let worst = strangers().map(|connection| of(connection.address)).max()?;
            let number = strangers().find(|connection| of(connection.address) == worst)?.number;
            let at = open.iter().position(|connection| connection.number == number)?;
            // Its thread notices, and ends.
            let _ = open.remove(at).stream.shutdown(Shutdown::Both);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let admitted = Arc::<AtomicBool>::default();
        let stream = stream.try_clone().ok()?;
        open.push(Open { number, address, stream, admitted: Arc::clone(&admitted) });
        Some(Slot { number, admitted, of: self.clone() })
    }
}

/// A connection's slot; free again when dropped, however that comes.
pub struct Slot {
    number: u64,
    admitted: Arc<AtomicBool>,
    of: Connections,
}

impl Slot {
    /// Keep it until its deadline: the client has asked for what it may have.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.of.open).retain(|connection| connection.number != self.number);
    }
}
