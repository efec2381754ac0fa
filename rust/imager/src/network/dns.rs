//! Names to addresses, by asking name servers (RFC 1035). The C library's way needs files and libraries
//! that are not here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::{Fault, Result};

const PORT: u16 = 53;
/// How long to wait for a server, and how often to ask each.
const PATIENCE: Duration = Duration::from_secs(3);
const ROUNDS: usize = 2;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// All addresses of a name, those of IPv4 first. An address is its own.
///
/// # Errors
/// If there is none, or no server answers.
pub fn resolve(name: &str, servers: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    if servers.is_empty() {
        return Err(Fault(format!("{name} cannot be looked up: no name server is known")));
    }
    let mut why = String::from("no name server answers");
    for _ in 0..ROUNDS {
        for &server in servers {
            let mut addresses = Vec::new();
            for kind in [Kind::A, Kind::Aaaa] {
                match ask(SocketAddr::new(server, PORT), name, kind) {
                    Ok(found) => addresses.extend(found),
                    Err(fault) => why = format!("{server}: {fault}"),
                }
            }
            if !addresses.is_empty() {
                return Ok(addresses);
            }
        }
    }
    Err(Fault(format!("{name} cannot be looked up: {why}")))
}

fn ask(server: SocketAddr, name: &str, kind: Kind) -> std::result::Result<Vec<IpAddr>, String> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| e.to_string())?;
    let id = u16::from_ne_bytes(id);
    let query = query(id, name, kind).ok_or("it is no name")?;
    let own: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let answer = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(own)?;
        socket.connect(server)?;
        socket.send(&query)?;
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = socket.recv(&mut buffer)?;
            // What is not the answer to this question is skipped.
            if is_answer(&buffer[..length], &query) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    };
    let answer = answer().map_err(|e| e.to_string())?;
    addresses(&answer, kind).ok_or_else(|| "its answer cannot be understood".to_owned())?
}

/// A question's bytes; `None` for what is no name.
pub fn query(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Please look further; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = name.trim_end_matches('.');
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend([0, 1]);
    Some(bytes).filter(|_| name.len() < 254)
}

/// Whether it is an answer to this query: the same number and question.
pub fn is_answer(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= query.len()
        && answer[..2] == query[..2]
        && answer[2] & 0x80 != 0
        && answer[12..query.len()].eq_ignore_ascii_case(&query[12..])
}

/// The addresses in an answer, or what the server reports instead; `None` if it cannot be
/// understood.
pub fn addresses(answer: &[u8], kind: Kind) -> Option<std::result::Result<Vec<IpAddr>, String>> {
    match answer.get(3)? & 0xf {
        0 => {}
        3 => return Some(Err("there is no such name".to_owned())),
        code => return Some(Err(format!("it answers with code {code}"))),
    }
    let number =
        |offset: usize| answer.get(offset..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    let mut at = 12;
    for _ in 0..number(4)? {
        at = skip_name(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        at = skip_name(answer, at)?;
        // An answer that was cut off has some of its records.
        let (Some(record), Some(length)) = (number(at), number(at + 8)) else { break };
        let Some(data) = answer.get(at + 10..at + 10 + usize::from(length)) else { break };
        if record == kind as u16 {
            // Records of other names are there when the name is an alias.
            let address = match kind {
                Kind::A => data.try_into().ok().map(|o: [u8; 4]| IpAddr::from(o)),
                Kind::Aaaa => data.try_into().ok().map(|o: [u8; 16]| IpAddr::from(o)),
            };
            found.extend(address);
        }
        at += 10 + usize::from(length);
    }
    Some(Ok(found))
}

/// Where a name ends; one that continues elsewhere ends with two bytes that point there.
fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, addresses, is_answer, query};

    #[test]
    fn an_answer_through_another_name_is_read() {
        let query = query(7, "images.example", Kind::A).unwrap();
        let mut answer = query.clone();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2]);
        // CNAME, then the address, both of names given as pointers.
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 19]);
        answer.extend([0xc0, 19, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        assert!(is_answer(&answer, &query));
        let found = addresses(&answer, Kind::A).unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
        answer[3] = 0x83;
        addresses(&answer, Kind::A).unwrap().unwrap_err();
        answer[0] = 9;
        assert!(!is_answer(&answer, &query));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            name in ".{0,300}",
        ) {
            let mut answer = vec![0, 0, 0x80, 0, 0, 1, 0, 3];
            answer.extend(&bytes);
            for kind in [Kind::A, Kind::Aaaa] {
                let _ = addresses(&answer, kind);
                let _ = addresses(&bytes, kind);
                if let Some(query) = query(1, &name, kind) {
                    let _ = is_answer(&bytes, &query);
                }
            }
        }
    }
}
