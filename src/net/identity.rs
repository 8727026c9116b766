//! Who a certificate says that its holder is, and what a node or a client may be called.

use std::net::IpAddr;

use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;

use crate::name;

/// What a URI among the alternative names of a node certificate begins with; the node's name follows.
pub const NODE_URI_PREFIX: &str = "ferrolog://node/";

const NAME_LEN_MAX: usize = 63;

/// What a verified certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    pub common_name: Option<String>,
    /// From the URI `ferrolog://node/<name>`; a certificate without it is a client's.
    pub node_name: Option<String>,
    /// Made for both sides of a stream (serverAuth and clientAuth), as a node's is.
    pub serves_and_calls: bool,
    /// The other URIs among its alternative names, such as `spiffe://prod/billing`.
    pub uris: Vec<String>,
}

/// What a URI has and no name of a subject in a policy.
const URI_MARK: &str = "://";
/// The most URIs of a certificate that are looked at.
const URIS_MAX: usize = 16;

/// Whether a subject is a URI, and no common name.
pub fn is_uri(subject: &str) -> bool {
    subject.contains(URI_MARK)
}

impl Identity {
    /// Whose the holder's sessions, fences and cursors are: the common name, or else the first URI.
    pub fn subject(&self) -> Option<&str> {
        self.names().next()
    }

    /// All that a policy may call the holder: the common name, then the URIs. A common name that reads as a URI is none of
    /// them: an authority that lets its clients choose one need not let them choose the other.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        let name = self.common_name.iter().map(String::as_str);
        let name = name.filter(|name| !name.is_empty() && !is_uri(name));
        name.chain(self.uris.iter().map(String::as_str))
    }

    /// What a certificate (DER) says, whoever signed it.
    pub fn of(cert: &[u8]) -> Result<Self, x509_parser::nom::Err<X509Error>> {
        let (_, cert) = x509_parser::parse_x509_certificate(cert)?;
        let common_name = cert
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok());
        let names = cert
            .subject_alternative_name()
            .map_err(x509_parser::nom::Err::Failure)?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let node_name = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri
                .strip_prefix(NODE_URI_PREFIX)
                .filter(|name| is_valid_name(name)),
            _ => None,
        });
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if !uri.starts_with(NODE_URI_PREFIX) => Some(*uri),
            _ => None,
        });
        let uris = uris.filter(|uri| is_uri(uri) && name::check(uri).is_ok());
        let uses = cert
            .extended_key_usage()
            .map_err(x509_parser::nom::Err::Failure)?;
        Ok(Self {
            common_name: common_name.map(str::to_owned),
            node_name: node_name.map(str::to_owned),
            uris: uris.take(URIS_MAX).map(str::to_owned).collect(),
            serves_and_calls: uses
                .is_some_and(|uses| uses.value.server_auth && uses.value.client_auth),
        })
    }
}

/// When a certificate (DER) ends, in seconds since 1970.
pub fn ends_s(cert: &[u8]) -> Option<u64> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    u64::try_from(cert.validity().not_after.timestamp()).ok()
}

/// The hosts that a certificate (DER) names: names and addresses.
pub fn hosts(cert: &[u8]) -> Vec<String> {
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(cert) else {
        return Vec::new();
    };
    let names = cert.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|addr| addr.to_string())
        }
        _ => None,
    };
    names.iter().filter_map(host).collect()
}

/// Whether `name` may name a node or a client. The name ends up in logs, policies and file names.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=NAME_LEN_MAX).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}
