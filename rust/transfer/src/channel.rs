//! Frames over TLS over TCP, with bounds on memory and patience.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, Connection, ServerConnection};

use crate::message::{self, HEAD, Kind, LIMIT, Reply};
use crate::{Error, Result};

/// How long one wait for the socket is, between two checks whether to stop.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that are encrypted before they are handed to the kernel.
const PIECE: usize = 128 << 10;
/// Bytes that are read from the socket at once. rustls asks for 4 KiB, a system call each.
const INCOMING: usize = 128 << 10;
/// Bytes of the secret that both ends derive from one connection.
const BINDING: usize = 32;
/// Its label (RFC 5705).
const LABEL: &[u8] = b"EXPORTER-holdfast-transfer-1";

/// Whether a wait must end.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// One connection.
pub struct Channel {
    tls: Connection,
    socket: TcpStream,
    incoming: Incoming,
    peer: String,
    /// How long nothing may move.
    patience: Duration,
    /// When all must be over, whatever moves.
    deadline: Option<Instant>,
    /// Time spent waiting for the other end to send, and to take.
    waited: Waited,
}

/// Time spent waiting for the socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waited {
    /// For bytes to arrive.
    pub reading: Duration,
    /// For space in the socket's buffer.
    pub writing: Duration,
}

/// Bytes of the socket that were not decrypted yet.
#[derive(Default)]
struct Incoming {
    /// Empty until the handshake is over: a stranger costs no memory here.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Incoming {
    /// Read from the socket if there is nothing left; false at the end of the stream.
    fn fill(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        if self.begin == self.end {
            self.buffer.resize(INCOMING, 0);
            (self.begin, self.end) = (0, socket.read(&mut self.buffer)?);
        }
        Ok(self.begin < self.end)
    }

    /// Hand bytes on to be decrypted.
    fn hand_on(&mut self, tls: &mut Connection) -> io::Result<usize> {
        let count = tls.read_tls(&mut &self.buffer[self.begin..self.end])?;
        self.begin += count;
        Ok(count)
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Channel {
    /// Wrap the source's end of a connection.
    ///
    /// # Errors
    /// [`Error::Wire`].
    pub fn server(tls: ServerConnection, socket: TcpStream, patience: Duration) -> Result<Self> {
        Self::new(tls.into(), socket, patience)
    }

    /// Wrap the destination's end of a connection.
    ///
    /// # Errors
    /// [`Error::Wire`].
    pub fn client(tls: ClientConnection, socket: TcpStream, patience: Duration) -> Result<Self> {
        Self::new(tls.into(), socket, patience)
    }

    fn new(mut tls: Connection, socket: TcpStream, patience: Duration) -> Result<Self> {
        let peer =
            socket.peer_addr().map_or_else(|_| "the other end".to_owned(), |a| a.to_string());
        tls.set_buffer_limit(Some(2 * PIECE));
        let set = || {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))
        };
        set().map_err(|source| Error::Wire { peer: peer.clone(), source })?;
        let (incoming, waited) = (Incoming::default(), Waited::default());
        Ok(Self { tls, socket, incoming, peer, patience, deadline: None, waited })
    }

    /// Return the time spent waiting for the socket so far.
    pub fn waited(&self) -> Waited {
        self.waited
    }

    /// Set the moment at which everything fails, or lift it.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Set how long nothing may move.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Return the error for a broken protocol.
    pub fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Protocol { peer: self.peer.clone(), reason: reason.into() }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Wire { peer: self.peer.clone(), source }
    }

    /// Finish the handshake and return what only the two ends of this connection know.
    ///
    /// # Errors
    /// [`Error::Wire`]; [`Error::Protocol`] if the other end is not the pinned one.
    pub fn handshake(&mut self, stop: Stop<'_>) -> Result<[u8; BINDING]> {
        while self.tls.is_handshaking() {
            self.flush(stop)?;
            if self.tls.is_handshaking() {
                self.fill(stop)?;
            }
        }
        self.flush(stop)?;
        let secret = self.tls.export_keying_material([0; BINDING], LABEL, None);
        secret.map_err(|error| self.broken(error.to_string()))
    }

    /// Send a message.
    ///
    /// # Errors
    /// [`Error::Wire`].
    pub fn send(&mut self, message: &impl serde::Serialize, stop: Stop<'_>) -> Result<()> {
        self.send_frame(Kind::Message, &[&message::encode(message)], stop)
    }

    /// Send a frame whose body is in parts.
    ///
    /// # Errors
    /// [`Error::Wire`].
    pub fn send_frame(&mut self, kind: Kind, parts: &[&[u8]], stop: Stop<'_>) -> Result<()> {
        let length = parts.iter().map(|part| part.len()).sum();
        let head = message::head(kind, length);
        for part in std::iter::once(head.as_slice()).chain(parts.iter().copied()) {
            for piece in part.chunks(PIECE) {
                let written = self.tls.writer().write_all(piece);
                written.map_err(|error| self.failed(error))?;
                if piece.len() == PIECE {
                    self.flush(stop)?;
                }
            }
        }
        self.flush(stop)
    }

    /// Receive the head of a frame.
    ///
    /// # Errors
    /// [`Error::Wire`], [`Error::Protocol`].
    pub fn receive_head(&mut self, stop: Stop<'_>) -> Result<(Kind, usize)> {
        let mut head = [0; HEAD];
        self.receive(&mut head, stop)?;
        message::parse_head(head).ok_or_else(|| self.broken("a frame has a malformed head"))
    }

    /// Receive a message, when nothing else may come.
    ///
    /// # Errors
    /// [`Error::Wire`], [`Error::Protocol`].
    pub fn receive_message<T: serde::de::DeserializeOwned>(
        &mut self,
        limit: usize,
        stop: Stop<'_>,
    ) -> Result<T> {
        let (kind, length) = self.receive_head(stop)?;
        if kind != Kind::Message || length > limit {
            return Err(self.broken("a frame came where a message was due"));
        }
        let mut body = vec![0; length];
        self.receive(&mut body, stop)?;
        self.parse(&body)
    }

    /// Receive the source's answer, however long it works for it: meanwhile it reports that it is
    /// alive.
    ///
    /// # Errors
    /// [`Error::Wire`], [`Error::Protocol`].
    pub fn receive_reply(&mut self, stop: Stop<'_>) -> Result<Reply> {
        loop {
            match self.receive_message(LIMIT, stop)? {
                Reply::Wait => {}
                reply => return Ok(reply),
            }
        }
    }

    /// Parse a message.
    ///
    /// # Errors
    /// [`Error::Protocol`].
    pub fn parse<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        message::decode(body).ok_or_else(|| self.broken("a message is malformed"))
    }

    /// Fill a buffer from the stream.
    ///
    /// # Errors
    /// [`Error::Wire`].
    pub fn receive(&mut self, buffer: &mut [u8], stop: Stop<'_>) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.fill(stop)?,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// Read from the socket once.
    fn fill(&mut self, stop: Stop<'_>) -> Result<()> {
        // What is queued, such as an alert or a key update, must not wait for the other end.
        self.flush(stop)?;
        let begin = Instant::now();
        loop {
            let read = if self.tls.is_handshaking() {
                self.tls.read_tls(&mut self.socket)
            } else {
                match self.incoming.fill(&mut self.socket) {
                    Ok(true) => self.incoming.hand_on(&mut self.tls),
                    Ok(false) => Ok(0),
                    Err(error) => Err(error),
                }
            };
            match read {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => break,
                Err(error) => self.wait(error, begin, stop)?,
            }
        }
        self.waited.reading += begin.elapsed();
        if let Err(error) = self.tls.process_new_packets() {
            // The alert states why, if it can be sent.
            let _ = self.tls.write_tls(&mut self.socket);
            return Err(match error {
                // The authentication of a record failed: the wire, or an attacker on it, changed
                // it.
                rustls::Error::DecryptError => self.failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a record was damaged on the wire",
                )),
                rustls::Error::InvalidCertificate(_) => {
                    Error::Refused(format!("{} has another certificate than the ticket", self.peer))
                }
                error => self.broken(error.to_string()),
            });
        }
        Ok(())
    }

    fn flush(&mut self, stop: Stop<'_>) -> Result<()> {
        while self.tls.wants_write() {
            let begin = Instant::now();
            loop {
                match self.tls.write_tls(&mut self.socket) {
                    Ok(0) => return Err(self.failed(io::ErrorKind::WriteZero.into())),
                    Ok(_) => break,
                    Err(error) => self.wait(error, begin, stop)?,
                }
            }
            self.waited.writing += begin.elapsed();
        }
        Ok(())
    }

    /// Decide whether to try again after an error.
    fn wait(&self, error: io::Error, begin: Instant, stop: Stop<'_>) -> Result<()> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        if !matches!(error.kind(), WouldBlock | TimedOut | Interrupted) {
            return Err(self.failed(error));
        }
        if stop() {
            return Err(holdfast_engine::Error::Cancelled.into());
        }
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late || begin.elapsed() >= self.patience {
            return Err(self.failed(TimedOut.into()));
        }
        Ok(())
    }

    /// Mark the end: nothing more follows.
    pub fn close(mut self) {
        self.tls.send_close_notify();
        // Whether it arrives makes no difference: what counts was acknowledged before.
        let _ = self.flush(&|| false);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}
