//! Where a node listens and where others reach it: what must not be.

use super::AgentError;

/// Where others reach a node that listens at `local`: where that is not to be, an error.
///
/// # Errors
///
/// [`AgentError::InsecureAddress`] if plaintext could be reached from another machine; [`AgentError::Advertise`] if
/// nobody can dial the address.
pub fn check_addresses(
    insecure: bool,
    local: &str,
    advertise: Option<&str>,
) -> Result<String, AgentError> {
    let refused = |addr: &str| AgentError::InsecureAddress {
        addr: addr.to_owned(),
    };
    if insecure && !is_loopback(local) {
        return Err(refused(local));
    }
    let addr = advertise.unwrap_or(local).to_owned();
    if is_unspecified(&addr) {
        return Err(AgentError::Advertise { addr });
    }
    if insecure && !is_loopback(&addr) {
        return Err(refused(&addr));
    }
    Ok(addr)
}

/// The host of an address, without the brackets of IPv6.
pub fn host(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

pub fn is_loopback(addr: &str) -> bool {
    let host = host(addr);
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn is_unspecified(addr: &str) -> bool {
    host(addr)
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}
