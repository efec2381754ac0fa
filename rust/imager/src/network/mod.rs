//! A network for those that need one: an address from DHCP or from the job, and name servers.

pub mod address;
pub mod dhcp;
pub mod dns;
pub mod netlink;
pub mod packet;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;

use crate::disk::devices;
use crate::status::lock;
use crate::{Fault, Result, job, say, threads};
use netlink::Netlink;
use packet::Reply;

/// How long to ask for an address before taking the job's own.
const DHCP_PATIENCE: Duration = Duration::from_secs(15);
/// How long an interface may take to appear.
const INTERFACE_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// The least time between two renewals.
const LEAST_RENEWAL: Duration = Duration::from_secs(5);

/// An interface.
#[derive(Debug, Clone)]
pub struct Interface {
    /// The kernel's name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its hardware address.
    pub hardware: [u8; 6],
}

/// A network that works as far as can be checked.
#[derive(Debug, Clone, Default)]
pub struct Network {
    dns: Arc<Mutex<Vec<IpAddr>>>,
}

impl Network {
    /// One that is there already, with these name servers.
    pub fn with_dns(servers: Vec<IpAddr>) -> Self {
        Self { dns: Arc::new(Mutex::new(servers)) }
    }

    /// All addresses of a name.
    ///
    /// # Errors
    /// As [`dns::resolve`].
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        let servers = lock(&self.dns).clone();
        dns::resolve(name, &servers)
    }
}

/// The cryptography of all TLS here: no way to choose another at run time.
pub fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Switch the interface on and give it an address: the DHCP server's, or after a while the job's. A
/// lease is renewed in the background for as long as the program runs.
///
/// # Errors
/// If there is no such interface, or no address to be had.
pub fn bring_up(wanted: &job::Network, host_name: &str) -> Result<Network> {
    let interface = wait_for(&wanted.interface)?;
    let netlink = Netlink::open()?;
    let mtu = wanted.fixed.as_ref().and_then(|fixed| fixed.mtu);
    netlink.up(interface.index, mtu)?;
    let network = Network::default();
    if wanted.dhcp {
        match dhcp::acquire(&interface, host_name, DHCP_PATIENCE) {
            Ok(lease) => {
                take(&netlink, &interface, &lease, &network)?;
                let (kept, host_name) = (network.clone(), host_name.to_owned());
                threads::in_background("keeping the lease", move || {
                    keep(&netlink, &interface, &host_name, lease, &kept);
                });
                return Ok(network);
            }
            Err(fault) => match &wanted.fixed {
                Some(_) => say!("{fault}; taking the addresses that the machine had"),
                None => return Err(fault),
            },
        }
    }
    let Some(fixed) = &wanted.fixed else {
        return Err(Fault::new("the job has neither DHCP nor addresses"));
    };
    take_fixed(&netlink, &interface, fixed, &network)?;
    Ok(network)
}

fn wait_for(wanted: &job::Interface) -> Result<Interface> {
    let deadline = Instant::now() + INTERFACE_PATIENCE;
    loop {
        if let Some(interface) = find(Path::new("/sys/class/net"), wanted) {
            return Ok(interface);
        }
        if Instant::now() > deadline {
            return Err(Fault(format!(
                "there is no network interface {} ({}); there are: {}",
                wanted.mac.as_deref().unwrap_or("without hardware address"),
                wanted.name.as_deref().unwrap_or("without name"),
                devices::names(Path::new("/sys/class/net")).join(", ")
            )));
        }
        thread::sleep(PAUSE);
    }
}

/// By its hardware address, or where there is none by its name.
fn find(class: &Path, wanted: &job::Interface) -> Option<Interface> {
    let mut names = devices::names(class);
    names.sort();
    names.into_iter().find_map(|name| {
        let directory = class.join(&name);
        let mac = devices::text(&directory.join("address"))?;
        let hardware = hardware(&mac)?;
        let ours = match (&wanted.mac, &wanted.name) {
            // A bond or a VLAN has the address of what it is on; only that is a device of its own.
            (Some(mac), _) => self::hardware(mac)? == hardware && directory.join("device").exists(),
            (None, Some(wanted)) => *wanted == name,
            (None, None) => false,
        };
        let index = devices::text(&directory.join("ifindex"))?.parse().ok()?;
        Some(Interface { name, index, hardware }).filter(|_| ours)
    })
}

/// `52:54:00:12:34:56`.
fn hardware(text: &str) -> Option<[u8; 6]> {
    let parts: Option<Vec<_>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts?.try_into().ok()
}

fn take(netlink: &Netlink, interface: &Interface, lease: &Reply, network: &Network) -> Result<()> {
    if let Some(mtu) = lease.mtu {
        netlink.up(interface.index, Some(mtu.into()))?;
    }
    netlink.add_address(interface.index, lease.address.into(), lease.prefix)?;
    // Those without a gateway first: others may need them.
    let mut routes = lease.routes.clone();
    routes.sort_by_key(|(_, _, gateway)| !gateway.is_unspecified());
    for (to, prefix, gateway) in routes {
        let gateway = Some(IpAddr::from(gateway)).filter(|gateway| !gateway.is_unspecified());
        netlink.add_route(interface.index, (to.into(), prefix), gateway)?;
    }
    *lock(&network.dns) = lease.dns.iter().map(|&server| server.into()).collect();
    say!(
        "{} has the address {}/{} for {} s, from the DHCP server {}",
        interface.name,
        lease.address,
        lease.prefix,
        lease.lease_seconds,
        lease.server.unwrap_or(Ipv4Addr::UNSPECIFIED)
    );
    Ok(())
}

fn take_fixed(
    netlink: &Netlink,
    interface: &Interface,
    fixed: &job::Static,
    network: &Network,
) -> Result<()> {
    for text in &fixed.addresses {
        let (address, prefix) = address::with_prefix(text)
            .ok_or_else(|| Fault(format!("{text} is no address with a prefix")))?;
        netlink.add_address(interface.index, address, prefix)?;
    }
    if let Some(text) = &fixed.gateway {
        let gateway: IpAddr =
            text.parse().map_err(|_| Fault(format!("{text} is no gateway's address")))?;
        let everything: IpAddr = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        netlink.add_route(interface.index, (everything, 0), Some(gateway))?;
    }
    *lock(&network.dns) = fixed.dns.iter().filter_map(|server| server.parse().ok()).collect();
    say!("{} has the addresses {}", interface.name, fixed.addresses.join(", "));
    Ok(())
}

/// Renew a lease for as long as the program runs; where that fails the address stays in use, since
/// without it the machine could not be finished.
fn keep(
    netlink: &Netlink,
    interface: &Interface,
    host_name: &str,
    mut lease: Reply,
    network: &Network,
) {
    loop {
        thread::sleep(Duration::from_secs(lease.renew_seconds.into()).max(LEAST_RENEWAL));
        match dhcp::renew(interface, host_name, lease.address, DHCP_PATIENCE) {
            Ok(renewed) => {
                let known = (lease.address, lease.prefix, &lease.routes, &lease.dns);
                if known == (renewed.address, renewed.prefix, &renewed.routes, &renewed.dns) {
                    lease = renewed;
                } else if let Err(fault) = take(netlink, interface, &renewed, network) {
                    say!("{fault}");
                } else {
                    lease = renewed;
                }
            }
            Err(fault) => {
                say!("the address {} is not renewed: {fault}", lease.address);
                lease.renew_seconds = 30;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{address, hardware};

    #[test]
    fn addresses_are_read_as_people_write_them() {
        assert_eq!(hardware("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(hardware("52:54:00:12:34"), None);
        assert_eq!(address::with_prefix("10.0.2.15/24"), Some(("10.0.2.15".parse().unwrap(), 24)));
        assert_eq!(address::with_prefix("fe80::1").map(|(_, prefix)| prefix), Some(128));
        for wrong in ["10.0.2.15/33", "10.0.2", "10.0.2.15/", "host/24"] {
            assert_eq!(address::with_prefix(wrong), None, "{wrong}");
        }
    }
}
