//! Addresses and names, from a real DHCP server and a real name server.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{is_root, shell};
use holdfast_imager::job;
use holdfast_imager::network::{self, dhcp};

/// A child that is gone at the end.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_address_and_names_come_from_a_dhcp_server() {
    if !is_root() {
        return;
    }
    // In a network of its own, which /sys must show as well.
    let inside =
        "mount -t sysfs sysfs /sys && exec \"$0\" --exact in_a_network_of_its_own --ignored";
    let done = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", inside])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
#[ignore = "it is run by the test before it, in a network of its own"]
fn in_a_network_of_its_own() {
    let server = "echo ready; read go; ip link set lo up; ip address add 10.77.0.1/24 dev far; \
                  ip link set far up; exec dnsmasq --keep-in-foreground --log-facility=- --user=root \
                  --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --interface=far \
                  --dhcp-authoritative --dhcp-leasefile=/dev/null --pid-file= \
                  --dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,2m --dhcp-option=26,1400 \
                  --dhcp-option=121,0.0.0.0/0,10.77.0.1,10.88.0.0/16,10.77.0.2 \
                  --address=/images.test/10.77.0.9";
    let mut server = Command::new("unshare")
        .args(["--net", "sh", "-c", server])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id();
    let mut ready = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    shell("ip link set lo up; ip link add near type veth peer name far");
    shell(&format!("ip link set far netns {pid}"));
    server.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let _server = Child(server);

    let interface = job::Interface { mac: None, name: Some("near".to_owned()) };
    let wanted = job::Network { interface, dhcp: true, fixed: None };
    let network = network::bring_up(&wanted, "node-7").unwrap();
    let addresses = shell("ip -4 -o address show dev near");
    assert!(addresses.contains("inet 10.77.0.5") || addresses.contains("inet 10.77.0.6"));
    assert!(addresses.contains("/24"), "{addresses}");
    let routes = shell("ip -4 route show");
    assert!(routes.contains("default via 10.77.0.1 dev near"), "{routes}");
    assert!(routes.contains("10.88.0.0/16 via 10.77.0.2 dev near"), "{routes}");
    assert!(shell("ip link show near").contains("mtu 1400"));
    let found = network.resolve("images.test").unwrap();
    assert_eq!(found, ["10.77.0.9".parse::<std::net::IpAddr>().unwrap()]);
    let fault = network.resolve("elsewhere.test").unwrap_err();
    assert!(fault.0.starts_with("elsewhere.test cannot be looked up: 10.77.0.1: "), "{fault}");

    let number = |path: &str| fs::read_to_string(format!("/sys/class/net/near/{path}")).unwrap();
    let mac: Vec<u8> =
        number("address").trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    let interface = network::Interface {
        name: "near".to_owned(),
        index: number("ifindex").trim().parse().unwrap(),
        hardware: mac.try_into().unwrap(),
    };
    let address: std::net::Ipv4Addr =
        addresses.split("inet ").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let renewed = dhcp::renew(&interface, "node-7", address, Duration::from_secs(10)).unwrap();
    assert_eq!((renewed.address, renewed.lease_seconds), (address, 120));
    // Declined: it belongs to another network.
    let stranger = "10.99.0.1".parse().unwrap();
    dhcp::renew(&interface, "node-7", stranger, Duration::from_secs(10)).unwrap_err();
}
