//! An image from a server: fetched once for each pass, resuming where it stopped.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Body, Client};
use super::url::Url;
use crate::Result;
use crate::pipeline::Supply;
use crate::status::Status;

/// How long nothing may come before the first write, until it is given up.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A file on a server.
#[derive(Debug, Clone)]
pub struct Download {
    client: Client,
    url: Url,
    size_bytes: u64,
    patience: Duration,
    status: Arc<Status>,
}

impl Download {
    /// A file of this size.
    pub fn new(client: Client, url: Url, size_bytes: u64, status: Arc<Status>) -> Self {
        Self { client, url, size_bytes, patience: PATIENCE, status }
    }

    /// Give up after another time without a byte.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

impl Supply for Download {
    fn name(&self) -> String {
        let scheme = if self.url.secure { "https" } else { "http" };
        // Neither name and password, nor the query, which may be a key.
        let path = self.url.target.split('?').next().unwrap_or("");
        format!("{scheme}://{}{path}", self.url.authority())
    }

    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Resuming { download: self.clone(), body: None, offset: 0 }))
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// The bytes of the file, whatever happens to connections.
#[derive(Debug)]
struct Resuming {
    download: Download,
    body: Option<Body>,
    offset: u64,
}

impl Resuming {
    /// Some bytes, or why there are none and whether that will last.
    fn some(&mut self, into: &mut [u8]) -> std::result::Result<usize, (String, bool)> {
        let Download { client, url, size_bytes, .. } = &self.download;
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let body = client
                    .get(url, self.offset, *size_bytes)
                    .map_err(|failure| (failure.fault.to_string(), failure.lasting))?;
                self.body.insert(body)
            }
        };
        match body.read(into) {
            Ok(0) => Err((format!("it ends after {} bytes", self.offset), true)),
            Ok(read) => Ok(read),
            // TLS reports more about it than an operator needs.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(("the connection ended".to_owned(), false))
            }
            Err(error) => Err((error.to_string(), false)),
        }
    }
}

impl Read for Resuming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.offset >= self.download.size_bytes || into.is_empty() {
            return Ok(0);
        }
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (why, lasting) = match self.some(into) {
                Ok(read) => {
                    // More than there should be is not asked for, nor believed.
                    let left = self.download.size_bytes - self.offset;
                    let read = read.min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(failure) => failure,
            };
            self.body = None;
            let status = &self.download.status;
            let name = self.download.name();
            // Once the disk is written to, there is nothing else to do than to try again.
            if !status.first_write() && (lasting || begin.elapsed() > self.download.patience) {
                return Err(io::Error::other(why));
            }
            status.retry();
            status.problem(format!("{name} is asked again from {} on: {why}", self.offset));
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
