//! Files of frames: each with its length and digest, so that one that a crash cut short is noticed.

use std::io::{ErrorKind, Read};

use holdfast_engine::xxh64::xxh64;

/// The largest frame.
const LARGEST: u64 = 64 << 20;
/// Before a frame: its length and the digest of what follows, little endian.
pub const HEAD: u64 = 16;

/// Return a frame in the form in which it is appended.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD as usize + body.len());
    frame.extend((body.len() as u64).to_le_bytes());
    frame.extend(xxh64(body).to_le_bytes());
    frame.extend(body);
    frame
}

/// Reads frames until the first one that is not whole.
#[derive(Debug)]
pub struct Frames<R> {
    input: R,
    /// Where the last whole frame ends, in bytes.
    pub end: u64,
}

impl<R: Read> Frames<R> {
    /// Read from the start of a file.
    pub fn new(input: R) -> Self {
        Self { input, end: 0 }
    }

    /// Return the next frame's body; `None` at the end, or at one that is not whole.
    ///
    /// # Errors
    /// The system's error.
    pub fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut head = [0; HEAD as usize];
        match self.input.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [a, b, c, d, e, f, g, h, digest @ ..] = head;
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if length > LARGEST {
            return Ok(None);
        }
        let mut body = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut body)?;
        if body.len() as u64 != length || xxh64(&body).to_le_bytes() != digest {
            return Ok(None);
        }
        self.end += HEAD + length;
        Ok(Some(body))
    }
}
