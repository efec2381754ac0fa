//! The source: listens, admits by ticket, lists what is offered, reads and sends.

mod admission;
mod alive;
mod block;
mod completion;
mod digests;
mod listing;
mod offer;
mod packer;
mod queue;
mod reading;
mod repair;
mod session;
mod turns;

pub(crate) use admission::proven;
pub use offer::{Bound, Events, Mounts, Offer, Status};
pub(crate) use offer::{MOST_PAGE_CACHE, accounts};

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use serde::Deserialize;

use crate::ticket::{Certificate, hex, parse_hex};
use crate::{Error, Result, tls};
use admission::{Admission, Strangers};
use digests::Digests;
use offer::Offering;
use session::Session;

/// Stack of a thread that serves a connection.
const STACK: usize = 512 << 10;

/// Bounds on what strangers and destinations can cost.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections that have not proven a ticket; a further one replaces the oldest.
    pub strangers: usize,
    /// How long a connection may take until it has proven a ticket, in seconds.
    pub handshake_seconds: u64,
    /// Connections of one destination.
    pub connections: usize,
    /// How long nothing may move on a connection, in seconds.
    pub patience_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { strangers: 32, handshake_seconds: 10, connections: 33, patience_seconds: 60 }
    }
}

/// What the threads of a server share.
struct Shared {
    tls: Arc<ServerConfig>,
    limits: Limits,
    events: Arc<dyn Events>,
    stopping: AtomicBool,
    counter: AtomicU64,
    strangers: Mutex<Strangers>,
    offers: Mutex<HashMap<[u8; 16], Arc<Offering>>>,
    /// Connections that have proven a ticket.
    admitted: Mutex<HashMap<u64, ([u8; 16], TcpStream)>>,
    sessions: Mutex<HashMap<[u8; 16], Arc<Session>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves offers on one listener until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Begin to serve on a listener.
    ///
    /// # Errors
    /// [`Error::Engine`] for a certificate that cannot be used, or if no thread can be started.
    pub fn start(
        listener: TcpListener,
        certificate: &Certificate,
        limits: Limits,
        events: Arc<dyn Events>,
    ) -> Result<Self> {
        let failed = |error| Error::io("the listener", error);
        let shared = Arc::new(Shared {
            tls: tls::server(certificate)?,
            limits,
            events,
            stopping: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            strangers: Mutex::default(),
            offers: Mutex::default(),
            admitted: Mutex::default(),
            sessions: Mutex::default(),
        });
        let address = listener.local_addr().map_err(failed)?;
        let accepting = listener.try_clone().map_err(failed)?;
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("holdfast-accept".into())
            .spawn(move || accept(&accepting, &for_thread))
            .map_err(failed)?;
        Ok(Self { shared, address, listener, thread: Some(thread) })
    }

    /// Return the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Add an offer, or replace that with its id.
    ///
    /// # Errors
    /// [`Error::Engine`] for malformed ids, keys or patterns.
    pub fn offer(&self, offer: Offer) -> Result<()> {
        let invalid = |reason: &str| holdfast_engine::Error::Invalid(reason.to_owned());
        let id = parse_hex(&offer.id).ok_or_else(|| invalid("the offer has a malformed id"))?;
        let verifier =
            parse_hex(&offer.verifier).ok_or_else(|| invalid("the offer has a malformed key"))?;
        let puller = match &offer.puller {
            None => None,
            Some(text) => {
                Some(parse_hex(text).ok_or_else(|| invalid("the destination's key is malformed"))?)
            }
        };
        holdfast_engine::tree::patterns::Patterns::new(
            &offer.include_patterns,
            &offer.exclude_patterns,
        )?;
        let files = offer
            .files
            .as_ref()
            .map(|files| files.iter().map(|path| path.as_os_str().as_bytes().into()).collect());
        let digests = Digests::new(offer.digests.clone());
        let offering = Offering {
            digests,
            offer,
            verifier,
            puller: Mutex::new(puller),
            revoked: AtomicBool::new(false),
            sent_bytes: AtomicU64::new(0),
            files,
        };
        lock(&self.shared.offers).insert(id, Arc::new(offering));
        Ok(())
    }

    /// Withdraw an offer and cut its connections; false if there is none.
    pub fn revoke(&self, id: &str) -> bool {
        let Some(id) = parse_hex(id) else { return false };
        let Some(offering) = lock(&self.shared.offers).remove(&id) else { return false };
        offering.revoked.store(true, Ordering::Relaxed);
        self.shared.cut(Some(id));
        true
    }

    /// Return how each offer is doing.
    pub fn status(&self) -> Vec<Status> {
        let admitted = lock(&self.shared.admitted);
        let offers = lock(&self.shared.offers);
        let status = |(id, offering): (&[u8; 16], &Arc<Offering>)| Status {
            id: hex(id),
            puller: lock(&offering.puller).as_ref().map(|key| hex(key)),
            connections: admitted.values().filter(|(offer, _)| offer == id).count(),
            sent_bytes: offering.sent_bytes.load(Ordering::Relaxed),
        };
        offers.iter().map(status).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Wakes accept(2) with an error.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        lock(&self.shared.strangers).cut_all();
        self.shared.cut(None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Return on how many connections each destination that fetches just now may send.
    fn share(&self) -> usize {
        let sessions = lock(&self.sessions);
        let competing: Vec<_> =
            sessions.values().filter_map(|session| session.turns.competing()).collect();
        if competing.len() < 2 { usize::MAX } else { competing.into_iter().min().unwrap_or(1) }
    }

    /// Cut the connections of one offer, or all.
    fn cut(&self, offer: Option<[u8; 16]>) {
        for (of, socket) in lock(&self.admitted).values() {
            if offer.is_none_or(|offer| offer == *of) {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let socket = listener.accept();
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        match socket {
            Ok((socket, _)) => {
                let number = shared.counter.fetch_add(1, Ordering::Relaxed);
                let Ok(clone) = socket.try_clone() else { continue };
                lock(&shared.strangers).add(number, clone, shared.limits.strangers);
                let admission = Admission { shared: Arc::clone(shared), number };
                let thread = std::thread::Builder::new().name("holdfast-send".into());
                // Without a thread the connection is dropped with the closure.
                let _ = thread.stack_size(STACK).spawn(move || admission.serve(socket));
            }
            // Out of descriptors, as a rule: the next one may find some.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
