//! Connections to the source, each proven by the ticket.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::channel::{Channel, Stop};
use crate::message::{Hello, LIMIT, Reply, Request, VERSION};
use crate::{Error, Result, Secret, Ticket, tls};

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// Who connects, and to where.
pub struct Caller<'a> {
    /// The ticket.
    pub ticket: &'a Ticket,
    /// The destination's own key.
    pub puller: &'a Secret,
    /// Which connections belong together.
    pub session: [u8; 16],
    /// How long nothing may move; the source reports that it is alive.
    pub patience: Duration,
    /// Whether to give up.
    pub stop: Stop<'a>,
}

impl Caller<'_> {
    /// Make one connection.
    ///
    /// # Errors
    /// [`Error::Wire`] if the source cannot be reached, [`Error::Refused`] if it refuses.
    pub fn connect(&self, data: bool) -> Result<Channel> {
        let config = tls::client(self.ticket.pin()?)?;
        let name = ServerName::try_from("holdfast-transfer").expect("a name of letters");
        let tls = ClientConnection::new(config, name)
            .map_err(|error| holdfast_engine::Error::Invalid(error.to_string()))?;
        let mut channel = Channel::client(tls, self.reach()?, self.patience)?;
        channel.set_deadline(Some(Instant::now() + HANDSHAKE));
        let secret = channel.handshake(self.stop)?;
        let puller = self.puller.public()?;
        let message = crate::source::proven(&secret, &puller, &self.session, data);
        let hello = Hello {
            version: VERSION,
            offer: self.ticket.id()?,
            puller,
            ticket_proof: self.ticket.secret()?.sign(&message)?,
            puller_proof: self.puller.sign(&message)?,
            session: self.session,
            data,
        };
        channel.send(&Request::Hello(hello), self.stop)?;
        match channel.receive_message(LIMIT, self.stop)? {
            Reply::Welcome => {}
            Reply::Refused(reason) => return Err(Error::Refused(reason)),
            _ => return Err(channel.broken("the first answer is no welcome")),
        }
        channel.set_deadline(None);
        Ok(channel)
    }

    fn reach(&self) -> Result<TcpStream> {
        let mut last = None;
        for address in &self.ticket.addresses {
            let failed = |source| Error::Wire { peer: address.clone(), source };
            let places = match (address.as_str(), self.ticket.port).to_socket_addrs() {
                Ok(places) => places,
                Err(error) => {
                    last = Some(failed(error));
                    continue;
                }
            };
            for place in places {
                if (self.stop)() {
                    return Err(holdfast_engine::Error::Cancelled.into());
                }
                match TcpStream::connect_timeout(&place, CONNECT) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = Some(failed(error)),
                }
            }
        }
        let none = || holdfast_engine::Error::Invalid("the ticket has no address".to_owned());
        Err(last.unwrap_or_else(|| none().into()))
    }
}
