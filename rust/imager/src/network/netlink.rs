//! Interfaces, addresses and routes through rtnetlink(7).

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::{Context as _, Fault, Result};

// include/uapi/linux/netlink.h and rtnetlink.h.
const REQUEST_ACK: u16 = 0x1 | 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Do not wait until it is certain that nobody else has the address: it is this machine's.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
/// Take the gateway to be directly reachable, also where no address implies it.
const RTNH_F_ONLINK: u32 = 4;

/// A way to the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Open it.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> Result<Self> {
        let kind = SocketType::RAW;
        let flags = SocketFlags::CLOEXEC;
        // NETLINK_ROUTE is 0, and so none.
        socket_with(AddressFamily::NETLINK, kind, flags, None)
            .map(|socket| Self { socket })
            .context("a netlink socket")
    }

    /// Switch an interface on, and set the size of its largest packet if one is stated.
    ///
    /// # Errors
    /// The system's.
    pub fn up(&self, interface: u32, mtu: Option<u32>) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, REQUEST_ACK);
        message.bytes(&[0, 0, 0, 0]);
        message.number(interface);
        message.number(IFF_UP);
        message.number(IFF_UP);
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(message).context("switching the interface on")
    }

    /// Give an interface an address.
    ///
    /// # Errors
    /// The system's.
    pub fn add_address(&self, interface: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let mut message = Message::new(RTM_NEWADDR, REQUEST_ACK | CREATE | REPLACE);
        message.bytes(&[family(address), prefix, IFA_F_NODAD, 0]);
        message.number(interface);
        message.attribute(IFA_LOCAL, &octets(address));
        message.attribute(IFA_ADDRESS, &octets(address));
        self.request(message).context(format_args!("the address {address}/{prefix}"))
    }

    /// Add a route through an interface, to everything if the prefix has no bits; directly if there is
    /// no gateway.
    ///
    /// # Errors
    /// The system's.
    pub fn add_route(
        &self,
        interface: u32,
        to: (IpAddr, u8),
        gateway: Option<IpAddr>,
    ) -> Result<()> {
        let (network, prefix) = to;
        let scope = if gateway.is_none() && network.is_ipv4() { SCOPE_LINK } else { 0 };
        let flags = if gateway.is_some() { RTNH_F_ONLINK } else { 0 };
        let mut message = Message::new(RTM_NEWROUTE, REQUEST_ACK | CREATE | REPLACE);
        message.bytes(&[family(network), prefix, 0, 0]);
        message.bytes(&[TABLE_MAIN, PROTOCOL_BOOT, scope, TYPE_UNICAST]);
        message.number(flags);
        if prefix > 0 {
            message.attribute(RTA_DST, &octets(network));
        }
        if let Some(gateway) = gateway {
            message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        message.attribute(RTA_OIF, &interface.to_ne_bytes());
        self.request(message).context(format_args!("the route to {network}/{prefix}"))
    }

    fn request(&self, message: Message) -> Result<()> {
        let message = message.finish();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &message, SendFlags::empty(), &kernel).context("netlink")?;
        let mut answer = [0; 4096];
        let (_, length) =
            recv(&self.socket, &mut answer[..], RecvFlags::empty()).context("netlink")?;
        // A header of 16 bytes with the kind after the length, then the error's number.
        let kind = answer[..length].get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        let number = answer[..length].get(16..).and_then(|bytes| bytes.first_chunk::<4>());
        match (kind, number.map(|bytes| i32::from_ne_bytes(*bytes))) {
            (Some(NLMSG_ERROR), Some(0)) => Ok(()),
            (Some(NLMSG_ERROR), Some(number)) => {
                Err(Fault(std::io::Error::from_raw_os_error(-number).to_string()))
            }
            _ => Err(Fault::new("the kernel's answer cannot be understood")),
        }
    }
}

fn family(address: IpAddr) -> u8 {
    // AF_INET and AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A message that is being put together: numbers are in the machine's order.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self(vec![0; 4]);
        message.bytes(&kind.to_ne_bytes());
        message.bytes(&flags.to_ne_bytes());
        // The sequence, and the sender, whom the kernel knows.
        message.number(1);
        message.number(0);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u32) {
        self.bytes(&number.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("values have a few bytes");
        self.bytes(&length.to_ne_bytes());
        self.bytes(&kind.to_ne_bytes());
        self.bytes(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("messages have a few bytes");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}
