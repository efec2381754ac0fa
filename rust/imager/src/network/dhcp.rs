//! Asking for an address. Below the kernel's own IP, since without an address it takes only what is
//! sent to all, and not every server does.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::Interface;
use super::packet::{Kind, Query, Reply};
use crate::{Context as _, Fault, Result};

/// `ETH_P_IP` of `include/uapi/linux/if_ether.h`.
const ETH_P_IP: u16 = 0x0800;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long to wait for an answer before asking again, at first and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// Ask until a server answers or the time is over.
///
/// # Errors
/// If no server replied, or the system refuses.
pub fn acquire(interface: &Interface, host_name: &str, patience: Duration) -> Result<Reply> {
    converse(interface, host_name, None, patience)
}

/// Ask for more time with an address.
///
/// # Errors
/// If no server replied, or the reply is a refusal.
pub fn renew(
    interface: &Interface,
    host_name: &str,
    address: Ipv4Addr,
    patience: Duration,
) -> Result<Reply> {
    converse(interface, host_name, Some(address), patience)
}

fn converse(
    interface: &Interface,
    host_name: &str,
    own: Option<Ipv4Addr>,
    patience: Duration,
) -> Result<Reply> {
    let socket = Packets::open(interface.index).context("asking for an address")?;
    let begin = Instant::now();
    let deadline = begin + patience;
    let mut id = [0; 4];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).context("DHCP")?;
    let id = u32::from_ne_bytes(id);
    let mut chosen: Option<(Ipv4Addr, Ipv4Addr)> = None;
    let mut wait = FIRST_WAIT;
    loop {
        let asking = own.is_none() && chosen.is_none();
        let kind = if asking { Kind::Discover } else { Kind::Request };
        let seconds = u16::try_from(begin.elapsed().as_secs()).unwrap_or(u16::MAX);
        let query =
            Query { kind, id, hardware: interface.hardware, own, chosen, host_name, seconds };
        // The link may not be up yet; the next try will show.
        let _ = socket.send(own.unwrap_or(Ipv4Addr::UNSPECIFIED), &query.to_bytes());
        let until = (Instant::now() + wait).min(deadline);
        let wanted = |reply: &Reply| match reply.kind {
            Kind::Offer => asking && reply.server.is_some(),
            Kind::Ack | Kind::Nak => !asking,
            _ => false,
        };
        match socket.receive(interface.hardware, id, until, wanted).context("DHCP")? {
            Some(reply) if reply.kind == Kind::Ack => return Ok(reply),
            Some(reply) if reply.kind == Kind::Nak && own.is_some() => {
                return Err(Fault::new("the DHCP server takes the address back"));
            }
            Some(reply) if reply.kind == Kind::Nak => chosen = None,
            Some(offer) => {
                chosen = offer.server.map(|server| (offer.address, server));
                wait = FIRST_WAIT;
            }
            None if Instant::now() >= deadline => {
                return Err(Fault(format!(
                    "no DHCP server answered on {} within {} s",
                    interface.name,
                    patience.as_secs()
                )));
            }
            None => {
                // The server that made the offer may be gone.
                chosen = None;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Whole IP packets of one interface.
struct Packets {
    socket: OwnedFd,
    interface: i32,
}

impl Packets {
    fn open(interface: u32) -> io::Result<Self> {
        let protocol = Protocol::from_raw(
            std::num::NonZeroU32::new(u32::from(ETH_P_IP.to_be())).expect("it is not zero"),
        );
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(protocol))?;
        let packets = Self { socket, interface: interface.cast_signed() };
        let (address, length) = packets.address(None);
        let fd = packets.socket.as_raw_fd();
        // SAFETY: the address is a whole `sockaddr_ll` that lives until the call ends.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        check(bound as isize)?;
        Ok(packets)
    }

    /// The interface's link-layer address structure, for everybody on the link or for nobody.
    fn address(&self, to: Option<[u8; 6]>) -> (libc::sockaddr_ll, libc::socklen_t) {
        // SAFETY: zeros are a valid value of this structure of numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_IP.to_be();
        address.sll_ifindex = self.interface;
        if let Some(to) = to {
            address.sll_halen = 6;
            address.sll_addr[..6].copy_from_slice(&to);
        }
        (address, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }

    fn send(&self, from: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        let packet = wrap(from, message);
        let (address, length) = self.address(Some([0xff; 6]));
        // SAFETY: packet and address live until the call ends, and have the stated lengths.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        check(sent)
    }

    /// The next answer that is wanted, or `None` when the time is over.
    fn receive(
        &self,
        hardware: [u8; 6],
        id: u32,
        until: Instant,
        wanted: impl Fn(&Reply) -> bool,
    ) -> io::Result<Option<Reply>> {
        let mut packet = vec![0; 65536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = rustix::time::Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut ready =
                [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let flags = rustix::net::RecvFlags::DONTWAIT;
            let length = match rustix::net::recv(&self.socket, &mut packet[..], flags) {
                Ok((_, length)) => length,
                // A link that goes down and up is reported here.
                Err(_) => continue,
            };
            let reply = unwrap(&packet[..length.min(packet.len())])
                .and_then(|message| Reply::parse(message, hardware))
                .filter(|reply| reply.id == id && wanted(reply));
            if reply.is_some() {
                return Ok(reply);
            }
        }
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A message in a UDP datagram in an IP packet, to everybody.
fn wrap(from: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("messages are short").to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(length(28 + message.len()));
    // No identification, no fragments, a time to live of 64, UDP, and space for the checksum.
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(CLIENT_PORT.to_be_bytes());
    header.extend(SERVER_PORT.to_be_bytes());
    header.extend(length(8 + message.len()));
    // No checksum, which UDP over IPv4 allows.
    header.extend([0, 0]);
    header.extend(message);
    header
}

/// The message in a packet to a DHCP client; `None` for any other packet.
fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff;
    let udp = packet[0] >> 4 == 4 && header >= 20 && packet.get(9) == Some(&17) && fragment == 0;
    let datagram = packet.get(header..total).filter(|_| udp)?;
    let port = u16::from_be_bytes(*datagram.get(2..)?.first_chunk()?);
    datagram.get(8..).filter(|_| port == CLIENT_PORT)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::{checksum, unwrap, wrap};

    proptest! {
        #[test]
        fn anything_is_unwrapped_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = unwrap(&packet);
        }

        #[test]
        fn a_header_has_the_right_checksum(message in prop::collection::vec(any::<u8>(), 0..500)) {
            let packet = wrap(Ipv4Addr::new(10, 0, 2, 15), &message);
            prop_assert_eq!(checksum(&packet[..20]), 0);
            // To a server's port, so no client takes it.
            prop_assert_eq!(unwrap(&packet), None);
            let mut answer = packet;
            answer[22..24].copy_from_slice(&68_u16.to_be_bytes());
            prop_assert_eq!(unwrap(&answer), Some(&message[..]));
        }
    }
}
