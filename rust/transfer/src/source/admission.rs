//! From a stranger to a destination: the handshake and the proof of the ticket.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_engine::signature;
use rustls::ServerConnection;

use super::offer::{Bound, Offering};
use super::session::{self, Session};
use super::{Shared, lock};
use crate::channel::Channel;
use crate::clock::now_seconds;
use crate::message::{Hello, Reply, Request, VERSION};
use crate::ticket::hex;
use crate::{Error, Result};

/// The longest first message.
const HELLO: usize = 512;
/// One answer for all that do not prove a ticket, so that it shows nothing.
const STRANGER: &str = "there is no such offer, or the ticket is not valid for it";

/// Connections that have proven nothing, the oldest first.
#[derive(Debug, Default)]
pub struct Strangers(VecDeque<(u64, TcpStream)>);

impl Strangers {
    /// Add one; the oldest give way beyond the limit.
    pub fn add(&mut self, number: u64, socket: TcpStream, limit: usize) {
        self.0.push_back((number, socket));
        while self.0.len() > limit.max(1) {
            if let Some((_, socket)) = self.0.pop_front() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<TcpStream> {
        let place = self.0.iter().position(|(other, _)| *other == number)?;
        self.0.remove(place).map(|(_, socket)| socket)
    }

    /// Cut all of them.
    pub fn cut_all(&mut self) {
        for (_, socket) in self.0.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Returns a message that a proof signs: for this purpose, this connection and this destination.
pub fn proven(secret: &[u8; 32], puller: &[u8; 32], session: &[u8; 16], data: bool) -> Vec<u8> {
    let label = b"holdfast-transfer-1 proof".as_slice();
    [label, secret, puller, session, &[u8::from(data)]].concat()
}

/// A connection on its way in.
pub struct Admission {
    /// The server.
    pub shared: Arc<Shared>,
    /// Its number.
    pub number: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        lock(&self.shared.strangers).remove(self.number);
        lock(&self.shared.admitted).remove(&self.number);
    }
}

impl Admission {
    /// Serve the connection to its end.
    pub fn serve(self, socket: TcpStream) {
        // Why a connection failed is the other end's affair, which reports it.
        let _ = self.run(socket);
    }

    fn run(&self, socket: TcpStream) -> Result<()> {
        let limits = &self.shared.limits;
        let stop = || self.shared.stopping.load(Ordering::Relaxed);
        let failed = |error: rustls::Error| holdfast_engine::Error::Invalid(error.to_string());
        let tls = ServerConnection::new(Arc::clone(&self.shared.tls)).map_err(failed)?;
        let patience = Duration::from_secs(limits.patience_seconds);
        let mut channel = Channel::server(tls, socket, patience)?;
        channel.set_deadline(Some(Instant::now() + Duration::from_secs(limits.handshake_seconds)));
        let secret = channel.handshake(&stop)?;
        let Request::Hello(hello) = channel.receive_message(HELLO, &stop)? else {
            return Err(channel.broken("the first message is no greeting"));
        };
        let session = match self.admit(&hello, &secret) {
            Ok(session) => session,
            Err(reason) => {
                channel.send(&Reply::Refused(reason.to_owned()), &stop)?;
                channel.close();
                return Err(Error::Refused(reason.to_owned()));
            }
        };
        channel.set_deadline(None);
        channel.send(&Reply::Welcome, &stop)?;
        if hello.data {
            session::send(&session, channel, &self.shared)
        } else {
            let result = session::control(&session, channel, &self.shared);
            session.end();
            let mut sessions = lock(&self.shared.sessions);
            if sessions.get(&hello.session).is_some_and(|other| Arc::ptr_eq(other, &session)) {
                sessions.remove(&hello.session);
            }
            result
        }
    }

    fn admit(
        &self,
        hello: &Hello,
        secret: &[u8; 32],
    ) -> std::result::Result<Arc<Session>, &'static str> {
        if hello.version != VERSION {
            return Err("the versions of the protocol differ; update the older end");
        }
        let offering = lock(&self.shared.offers).get(&hello.offer).cloned().ok_or(STRANGER)?;
        let message = proven(secret, &hello.puller, &hello.session, hello.data);
        let by_ticket = signature::verify(&offering.verifier, &message, &hello.ticket_proof);
        let by_puller = signature::verify(&hello.puller, &message, &hello.puller_proof);
        if !by_ticket || !by_puller {
            return Err(STRANGER);
        }
        if now_seconds() >= offering.offer.expires_at {
            return Err("the offer has expired");
        }
        self.bind(&offering, hello)?;
        let session = self.session(&offering, hello)?;
        let socket = lock(&self.shared.strangers).remove(self.number);
        let socket = socket.ok_or("too many others are connecting")?;
        let mut admitted = lock(&self.shared.admitted);
        if admitted.values().filter(|(of, _)| *of == hello.offer).count()
            >= self.shared.limits.connections
        {
            return Err("there are too many connections for this offer");
        }
        admitted.insert(self.number, (hello.offer, socket));
        // An offer that was withdrawn meanwhile has cut what was there before this one.
        if offering.revoked.load(Ordering::Relaxed) { Err(STRANGER) } else { Ok(session) }
    }

    /// Make the first destination that uses a ticket its only one.
    fn bind(&self, offering: &Offering, hello: &Hello) -> std::result::Result<(), &'static str> {
        let mut owner = lock(&offering.puller);
        match *owner {
            Some(known) if known == hello.puller => Ok(()),
            Some(_) => Err("the ticket was used by another destination"),
            None => {
                let stored = self.shared.events.bind(&offering.offer.id, &hex(&hello.puller));
                if stored != Bound::Stored {
                    return Err("the source could not store who uses the ticket");
                }
                *owner = Some(hello.puller);
                Ok(())
            }
        }
    }

    fn session(
        &self,
        offering: &Arc<Offering>,
        hello: &Hello,
    ) -> std::result::Result<Arc<Session>, &'static str> {
        let mut sessions = lock(&self.shared.sessions);
        if hello.data {
            let session = sessions.get(&hello.session).cloned();
            let same = session.filter(|session| Arc::ptr_eq(&session.offering, offering));
            return same.ok_or("there is no such session");
        }
        if sessions.contains_key(&hello.session) {
            return Err("there is such a session already");
        }
        // A destination that starts again has given up what it did before.
        for other in sessions.values().filter(|other| Arc::ptr_eq(&other.offering, offering)) {
            other.end();
        }
        // Its connections of before must not count against those that it makes now.
        lock(&self.shared.admitted).retain(|_, (offer, socket)| {
            let stays = *offer != hello.offer;
            if !stays {
                let _ = socket.shutdown(Shutdown::Both);
            }
            stays
        });
        let session = Arc::new(Session::new(Arc::clone(offering)));
        sessions.insert(hello.session, Arc::clone(&session));
        Ok(session)
    }
}
