//! Which addresses a download may connect to.
//!
//! Globally routable ones, and those of the networks that the configuration adds. An IPv4 address
//! that travels inside an IPv6 one (mapped, NAT64, 6to4) is judged as the IPv4 address that it
//! reaches, so that no notation leads to a host that its plain notation would not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whether a connection to `address` is allowed.
pub(crate) fn is_allowed(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = judged_as(address);
    networks.iter().any(|network| network.contains(&address)) || is_global(address)
}

/// The address that a connection really reaches.
fn judged_as(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let embedded = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return address,
    };
    let [a, b] = embedded.0.to_be_bytes();
    let [c, d] = embedded.1.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// By the IANA registries of special-purpose addresses. The standard library's own `is_global` is
/// not stable. Where the registry has exceptions inside a block (a few anycast services), the
/// whole block is refused: no object store lives there.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let octets = address.octets();
    let special = matches!(
        octets,
        [0 | 10 | 127, ..]                  // this network, private, loopback
            | [100, 64..=127, ..]           // carrier-grade NAT
            | [169, 254, ..]                // link local: metadata services
            | [172, 16..=31, ..]            // private
            | [192, 0, 0 | 2, _]            // protocol assignments, documentation
            | [192, 88, 99, _]              // 6to4 relays, withdrawn
            | [192, 168, ..]                // private
            | [198, 18 | 19, ..]            // benchmarks
            | [198, 51, 100, _]             // documentation
            | [203, 0, 113, _]              // documentation
            | [168, 63, 129, 16]            // routable by its number, but the host service of a cloud
            | [224..=255, ..] // multicast, reserved, broadcast
    );
    !special
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    // Everything that is assigned for global unicast lies in 2000::/3; unspecified, loopback,
    // link and unique local, multicast and local NAT64 do not.
    let segments = address.segments();
    let unicast = (0x2000..=0x3fff).contains(&segments[0]);
    let special = matches!(
        segments,
        [0x2001, 0..=0x1ff, ..]             // protocol assignments, Teredo, ORCHID
            | [0x2001, 0xdb8, ..]           // documentation
            | [0x3fff, 0..=0xfff, ..] // documentation
    );
    unicast && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, networks: &[&str]) -> bool {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
        is_allowed(address.parse().unwrap(), &networks)
    }

    #[test]
    fn u05_only_globally_routable_addresses() {
        for address in [
            "52.216.8.83",
            "1.1.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "192.1.0.1",
            "223.255.255.255",
            "2600:1fa0:8000::1",
            "2a05:d07a::1",
            "::ffff:52.216.8.83",
            "64:ff9b::52.216.8.83",
            "2002:34d8:0853::1",
        ] {
            assert!(allowed(address, &[]), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allowed(address, &[]), "{address}");
        }
    }

    #[test]
    fn u05_networks_of_the_configuration_are_added() {
        let networks = ["10.0.0.0/8", "fd00::/8"];
        for address in [
            "10.255.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "fd12::1",
            "1.1.1.1",
        ] {
            assert!(allowed(address, &networks), "{address}");
        }
        for address in ["11.0.0.1", "fc00::1"] {
            assert_eq!(
                allowed(address, &networks),
                address == "11.0.0.1",
                "{address}"
            );
        }
        assert!(!allowed("127.0.0.1", &networks));
        // An IPv6 network is no way to an IPv4 address that is not allowed itself.
        assert!(!allowed("::ffff:127.0.0.1", &["::/0"]));
        assert!(allowed("::1", &["::/0"]));
    }
}
