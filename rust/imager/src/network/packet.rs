//! DHCP for IPv4 on the wire: RFC 2131 and 2132, and the classless routes of RFC 3442.

use std::net::Ipv4Addr;

/// What begins the options.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The length of what comes before the cookie.
const FIXED: usize = 236;
/// The least that a message has, for old relays.
const LEAST: usize = 300;

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOST_NAME: u8 = 12;
const MTU: u8 = 26;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;
const LARGEST: u8 = 57;
const RENEWAL: u8 = 58;
const CLASSLESS_ROUTES: u8 = 121;
const END: u8 = 255;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who is there?
    Discover = 1,
    /// A server's proposal.
    Offer = 2,
    /// Yes, please.
    Request = 3,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
}

/// What this machine sends.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// What for.
    pub kind: Kind,
    /// Distinguishes this exchange from others.
    pub id: u32,
    /// The hardware address.
    pub hardware: [u8; 6],
    /// The address that it has already and wants to keep.
    pub own: Option<Ipv4Addr>,
    /// The address and the server that offered it.
    pub chosen: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The machine's name, if it has a plain one.
    pub host_name: &'a str,
    /// Seconds since it began to ask.
    pub seconds: u16,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What for.
    pub kind: Kind,
    /// The exchange that it belongs to.
    pub id: u32,
    /// The address for this machine.
    pub address: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix: u8,
    /// Who answers.
    pub server: Option<Ipv4Addr>,
    /// Routes: network, length of its prefix, gateway (0.0.0.0: none).
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The largest packet.
    pub mtu: Option<u16>,
    /// How long it may be used, in seconds.
    pub lease_seconds: u32,
    /// After how long to ask again, in seconds.
    pub renew_seconds: u32,
}

impl Query<'_> {
    /// The message's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A request, Ethernet, six bytes of address.
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.seconds.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.resize(28, 0);
        bytes.extend(self.hardware);
        bytes.resize(FIXED, 0);
        bytes.extend(COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            let length = u8::try_from(value.len()).expect("options are short");
            bytes.extend([code, length]);
            bytes.extend(value);
        };
        option(MESSAGE_TYPE, &[self.kind as u8]);
        if let Some((address, server)) = self.chosen {
            option(REQUESTED_ADDRESS, &address.octets());
            option(SERVER, &server.octets());
        }
        option(LARGEST, &1472_u16.to_be_bytes());
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        if !self.host_name.is_empty()
            && self.host_name.len() < 64
            && self.host_name.bytes().all(plain)
        {
            option(HOST_NAME, self.host_name.as_bytes());
        }
        option(
            PARAMETERS,
            &[SUBNET_MASK, ROUTER, DNS, MTU, LEASE_TIME, SERVER, RENEWAL, CLASSLESS_ROUTES],
        );
        bytes.push(END);
        bytes.resize(bytes.len().max(LEAST), 0);
        bytes
    }
}

impl Reply {
    /// Read an answer for this machine; `None` for anything else.
    pub fn parse(bytes: &[u8], hardware: [u8; 6]) -> Option<Self> {
        let fixed = bytes.get(..FIXED)?;
        let for_us = fixed[..3] == [2, 1, 6] && fixed[28..34] == hardware;
        let rest = bytes[FIXED..].strip_prefix(&COOKIE)?;
        if !for_us {
            return None;
        }
        let mut options = Vec::new();
        collect(rest, &mut options);
        // Options may continue where boot servers' names were in older times.
        let overload = find(&options, OVERLOAD).and_then(|value| value.first().copied());
        for (bit, range) in [(1, 108..236), (2, 44..108)] {
            if overload.unwrap_or(0) & bit != 0 {
                collect(&fixed[range], &mut options);
            }
        }
        let get = |code| find(&options, code);
        let number = |code| get(code)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        let kind = match get(MESSAGE_TYPE)?.first()? {
            2 => Kind::Offer,
            5 => Kind::Ack,
            6 => Kind::Nak,
            _ => return None,
        };
        let address = Ipv4Addr::from(*fixed[16..].first_chunk::<4>()?);
        let lease_seconds = number(LEASE_TIME).unwrap_or(3600);
        Some(Self {
            kind,
            id: u32::from_be_bytes(*fixed[4..].first_chunk()?),
            address,
            prefix: number(SUBNET_MASK).and_then(prefix_of).unwrap_or_else(|| class_of(address)),
            server: get(SERVER).and_then(|value| addresses(value).next()),
            routes: routes(get(CLASSLESS_ROUTES), get(ROUTER)),
            dns: get(DNS).map(|value| addresses(value).collect()).unwrap_or_default(),
            mtu: get(MTU)
                .and_then(|value| value.first_chunk())
                .map(|bytes| u16::from_be_bytes(*bytes))
                // RFC 791 and 2132: less than 68 is no packet, and less than 576 no network.
                .filter(|&mtu| mtu >= 576),
            lease_seconds,
            renew_seconds: number(RENEWAL).unwrap_or(lease_seconds / 2).min(lease_seconds),
        })
    }
}

/// The options in a field, in order; what is cut off ends it.
fn collect(field: &[u8], options: &mut Vec<(u8, Vec<u8>)>) {
    let mut rest = field;
    while let [code, after @ ..] = rest {
        match code {
            0 => rest = after,
            &END => return,
            _ => {
                let [length, after @ ..] = after else { return };
                let Some((value, after)) = after.split_at_checked(usize::from(*length)) else {
                    return;
                };
                // RFC 3396: what is there several times is one that was too long.
                match options.iter_mut().find(|(one, _)| one == code) {
                    Some((_, whole)) => whole.extend_from_slice(value),
                    None => options.push((*code, value.to_vec())),
                }
                rest = after;
            }
        }
    }
}

fn find(options: &[(u8, Vec<u8>)], code: u8) -> Option<&[u8]> {
    options.iter().find(|(one, _)| *one == code).map(|(_, value)| value.as_slice())
}

fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    value.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
}

fn prefix_of(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    u8::try_from(ones).ok().filter(|_| mask.count_ones() == ones)
}

/// Where no mask is sent: that of the address's class.
fn class_of(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// Classless routes, or else the first router as the default: By RFC 3442 the former win.
fn routes(classless: Option<&[u8]>, router: Option<&[u8]>) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut routes = Vec::new();
    let mut rest = classless.unwrap_or_default();
    while let [prefix @ 0..=32, after @ ..] = rest {
        let significant = usize::from(*prefix).div_ceil(8);
        let Some((network, after)) = after.split_at_checked(significant) else { break };
        let Some((gateway, after)) = after.split_first_chunk::<4>() else { break };
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(network);
        routes.push((Ipv4Addr::from(octets), *prefix, Ipv4Addr::from(*gateway)));
        rest = after;
    }
    if routes.is_empty() {
        let gateway = router.and_then(|value| addresses(value).next());
        routes.extend(gateway.map(|gateway| (Ipv4Addr::UNSPECIFIED, 0, gateway)));
    }
    routes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::{COOKIE, FIXED, Kind, Query, Reply, find, prefix_of};

    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes[28..34].copy_from_slice(&HARDWARE);
        bytes.extend(COOKIE);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn classless_routes_win_over_the_router() {
        let options = [
            53, 1, 5, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 54, 4, 10, 0, 2, 1, 51, 4, 0, 0,
            0, 60, // 0.0.0.0/0 through 10.0.2.3, and 169.254.169.254/32 directly
            121, 14, 0, 10, 0, 2, 3, 32, 169, 254, 169, 254, 0, 0, 0, 0, 255,
        ];
        let reply = Reply::parse(&reply(&options), HARDWARE).unwrap();
        assert_eq!((reply.kind, reply.id, reply.prefix), (Kind::Ack, 7, 24));
        assert_eq!((reply.lease_seconds, reply.renew_seconds), (60, 30));
        assert_eq!(
            reply.routes,
            [
                (Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 0, 2, 3)),
                (Ipv4Addr::new(169, 254, 169, 254), 32, Ipv4Addr::UNSPECIFIED),
            ]
        );
    }

    #[test]
    fn what_is_for_another_machine_is_passed_over() {
        assert_eq!(Reply::parse(&reply(&[53, 1, 5, 255]), [9; 6]), None);
        assert_eq!(prefix_of(0xff00_ff00), None);
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(options in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reply::parse(&reply(&options), HARDWARE);
            let _ = Reply::parse(&options, HARDWARE);
        }

        #[test]
        fn a_query_has_its_options(id: u32, name in "[a-z]{0,80}") {
            let query = Query {
                kind: Kind::Discover,
                id,
                hardware: HARDWARE,
                own: None,
                chosen: None,
                host_name: &name,
                seconds: 0,
            };
            let bytes = query.to_bytes();
            prop_assert!(bytes.len() >= 300 && bytes[FIXED..].starts_with(&COOKIE));
            let mut options = Vec::new();
            super::collect(&bytes[FIXED + 4..], &mut options);
            prop_assert_eq!(find(&options, 53), Some(&[1][..]));
            prop_assert_eq!(find(&options, 12).is_some(), !name.is_empty() && name.len() < 64);
        }
    }
}
