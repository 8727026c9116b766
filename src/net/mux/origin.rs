//! Where a connection comes from: the addresses that count as one.

use std::net::{IpAddr, SocketAddr};

/// Where a connection comes from, as far as it can be told before anything is proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    Ip(IpAddr),
    /// A provider gives each customer a network of this size, so a single address counts for nothing.
    Network64([u16; 4]),
    /// The name of a node on a network in memory.
    Named(String),
}

impl Origin {
    pub(super) fn of(peer: &str) -> Self {
        let Ok(addr) = peer.parse::<SocketAddr>() else {
            let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
            return Self::Named(host.to_owned());
        };
        match addr.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                let [a, b, c, d, ..] = ip.segments();
                Self::Network64([a, b, c, d])
            }
            ip => Self::Ip(ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        assert_eq!(Origin::of("[2001:db8::1]:1"), Origin::of("[2001:db8::2]:9"));
        assert_ne!(
            Origin::of("[2001:db8::1]:1"),
            Origin::of("[2001:db8:0:1::1]:1")
        );
        assert_eq!(
            Origin::of("[::ffff:192.0.2.1]:1"),
            Origin::of("192.0.2.1:2")
        );
        assert_ne!(Origin::of("192.0.2.1:1"), Origin::of("192.0.2.2:1"));
    }
}
