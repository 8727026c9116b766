//! What a certificate says: whose it is, from whom, for which names, and until when.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::CertsError;
use crate::net::identity::NODE_URI_PREFIX;

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum For {
    /// It signs others.
    Authority,
    /// A node, of this name.
    Node(String),
    /// Whoever calls.
    Client,
}

/// What stands in a certificate.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What it is for.
    pub is_for: For,
    /// Whose it is, as X.509 writes it: `CN=n1`.
    pub subject: String,
    /// Its common name, which policies know its holder by; empty without one.
    pub common_name: String,
    /// Who signed it.
    pub issuer: String,
    /// The host names and addresses that it serves as.
    pub hosts: Vec<String>,
    /// The URIs in it: a node's name, a client's.
    pub uris: Vec<String>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Whether it holds nothing that a renewal would lose.
    pub is_plain: bool,
    /// Whether it may serve, besides calling.
    pub serves: bool,
    pub(super) public_key: Vec<u8>,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    ///
    /// [`CertsError::Pem`] without a certificate; [`CertsError::Parse`] if that is none.
    pub fn of(pem: &str) -> Result<Self, CertsError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|source| CertsError::Pem { source })?;
        let (_, cert) =
            parse_x509_certificate(&der).map_err(|source| CertsError::Parse { source })?;
        Ok(Self::read(&cert))
    }

    fn read(cert: &X509Certificate<'_>) -> Self {
        let mut facts = Self {
            is_for: For::Client,
            subject: cert.subject().to_string(),
            common_name: String::new(),
            issuer: cert.issuer().to_string(),
            hosts: Vec::new(),
            uris: Vec::new(),
            not_before: seconds(cert.validity().not_before.timestamp()),
            not_after: seconds(cert.validity().not_after.timestamp()),
            is_plain: cert.subject().iter_attributes().count() == 1,
            serves: false,
            public_key: cert.public_key().subject_public_key.data.to_vec(),
        };
        let named = cert.subject().iter_common_name().next();
        match named.and_then(|name| name.as_str().ok()) {
            Some(name) => facts.common_name = name.to_owned(),
            None => facts.is_plain = false,
        }
        let alternative = cert.subject_alternative_name().ok().flatten();
        for name in alternative
            .iter()
            .flat_map(|names| &names.value.general_names)
        {
            facts.take_name(name);
        }
        let usage = cert.extended_key_usage().ok().flatten();
        facts.serves = usage.is_some_and(|usage| usage.value.server_auth);
        let node = facts
            .uris
            .iter()
            .find_map(|uri| uri.strip_prefix(NODE_URI_PREFIX));
        facts.is_for = match node {
            _ if cert.is_ca() => For::Authority,
            Some(node) => For::Node(node.to_owned()),
            None => For::Client,
        };
        facts
    }

    fn take_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(host) => self.hosts.push((*host).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(ip) => self.hosts.push(ip.to_string()),
                None => self.is_plain = false,
            },
            _ => self.is_plain = false,
        }
    }

    /// How many whole days it is valid for yet; negative once it has ended.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        const DAY_S: i64 = 24 * 3600;
        let left = match self.not_after.duration_since(now) {
            Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            Err(over) => {
                let over = over.duration();
                // The last second counts whole, so that what has ended has no days left.
                let seconds = over.as_secs() + u64::from(over.subsec_nanos() > 0);
                i64::try_from(seconds).map_or(i64::MIN, |seconds| -seconds)
            }
        };
        left.div_euclid(DAY_S)
    }

    /// Whether it names the host, or the address.
    pub fn serves_as(&self, host: &str) -> bool {
        let tail = host.split_once('.').map(|(_, tail)| tail);
        self.hosts
            .iter()
            .any(|known| match known.strip_prefix("*.") {
                Some(known) => tail.is_some_and(|tail| tail.eq_ignore_ascii_case(known)),
                None => known.eq_ignore_ascii_case(host),
            })
    }

    /// Whether it is valid at this moment.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Whether a private key is that of the certificate.
    ///
    /// # Errors
    ///
    /// [`CertsError::Make`] if the text is no key that this program reads.
    pub fn fits(&self, key_pem: &str) -> Result<bool, CertsError> {
        let key = super::read_key(key_pem)?;
        Ok(key.public_key_raw() == self.public_key)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.ok()
        .or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

fn seconds(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}
