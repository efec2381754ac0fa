//! Addresses as text. Names are not resolved here: the C library's way needs what a static program
//! does not have.

use std::net::{IpAddr, SocketAddr};

/// `192.0.2.1:9918` or `[2001:db8::1]:9918`.
pub fn socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// `192.0.2.1/24`: an address and the length of its network's prefix, all of it if that is left out.
pub fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix)),
        None => (text.parse().ok()?, None),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok())?;
    Some((address, prefix)).filter(|(_, prefix)| *prefix <= most)
}
