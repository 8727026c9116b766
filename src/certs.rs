//! Makes the certificates of a cluster, and is the only home of rcgen.
//!
//! A node certificate names its node in a URI, which is what opens raft streams; a client certificate has
//! none and can only dial gRPC. Where the files go, and with which mode, is left to the caller.
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use x509_parser::error::X509Error;
use x509_parser::parse_x509_certificate;

use crate::net::identity::{NODE_URI_PREFIX, is_valid_name};

const DAY: Duration = Duration::from_hours(24);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
const LEAF_LIFE: Duration = DAY.saturating_mul(825);
/// Certificates begin in the past, because the clocks of two hosts differ.
const CLOCK_SKEW: Duration = DAY;
/// A node answers on these whatever else it is called.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A name that no node and no client may have.
    #[error(
        "name {name:?} is not 1 to 63 of the characters a-z, 0-9, '-' and '.', the first a letter or digit"
    )]
    Name {
        /// The name that was given.
        name: String,
    },
    /// A host that nobody can dial.
    #[error("host {host:?} is neither a DNS name nor an IP address")]
    Host {
        /// The host that was given.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// A host whose characters a certificate cannot hold.
    #[error("host {host:?} cannot be written into a certificate")]
    HostText {
        /// The host that was given.
        host: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// The authority's certificate is no PEM file.
    #[error("the CA certificate is not a PEM file with a CERTIFICATE section")]
    CaPem {
        /// What the library said.
        source: pem::Error,
    },
    /// The authority's certificate is PEM, and no certificate.
    #[error("the CA certificate cannot be parsed")]
    CaParse {
        /// What the library said.
        source: x509_parser::nom::Err<X509Error>,
    },
    /// The certificate is a node's or a client's.
    #[error("the certificate given as CA may not sign others; give the one made as authority")]
    NotAnAuthority,
    /// Certificate and key are of two authorities.
    #[error(
        "the CA key does not belong to the CA certificate; give the two files that were made together"
    )]
    KeyMismatch,
    /// The library failed.
    #[error("{action}")]
    Make {
        /// What was to be done.
        action: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
}

/// A certificate and its private key, as PEM text.
pub struct CertPem {
    /// The certificate.
    pub cert: String,
    /// Its private key: a secret.
    pub key: String,
}

/// The key that signs the certificates of a cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    now: SystemTime,
    not_after: SystemTime,
}

impl Authority {
    /// Makes a new authority, valid for ten years from `now`, and from a day before it, since clocks differ.
    ///
    /// # Errors
    ///
    /// [`CertsError::Make`] if the library fails.
    pub fn new(now: SystemTime) -> Result<Self, CertsError> {
        let not_after = now + CA_LIFE;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("ferrolog CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = not_after.into();

        let key = generate_key()?;
        let cert = params
            .self_signed(&key)
            .map_err(|source| CertsError::Make {
                action: "sign the CA",
                source,
            })?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            ca_pem: cert.pem(),
            now,
            not_after,
        })
    }

    /// Takes up an authority that was made earlier. What it signs is valid from a day before `now`, for 825 days,
    /// and never longer than the authority itself.
    ///
    /// # Errors
    ///
    /// A [`CertsError`] if the two texts are no certificate with its key, or not those of an authority.
    pub fn load(ca_pem: &str, key_pem: &str, now: SystemTime) -> Result<Self, CertsError> {
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|source| CertsError::CaPem { source })?;
        let key = KeyPair::from_pem(key_pem).map_err(|source| CertsError::Make {
            action: "read the CA key",
            source,
        })?;
        let (_, cert) =
            parse_x509_certificate(&der).map_err(|source| CertsError::CaParse { source })?;
        if !cert.is_ca() {
            return Err(CertsError::NotAnAuthority);
        }
        // Otherwise every certificate signed here would fail, and only when it is first used.
        if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertsError::KeyMismatch);
        }
        let expiry = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|source| CertsError::Make {
            action: "read the CA certificate",
            source,
        })?;
        let not_after = UNIX_EPOCH + Duration::from_secs(expiry);
        Ok(Self {
            issuer,
            ca_pem: ca_pem.to_owned(),
            now,
            not_after,
        })
    }

    /// The authority's certificate, as PEM text: what all nodes and clients trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's private key, as PEM text. Whoever holds it can make any node and any client.
    pub fn ca_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for the node `name`, which serves as any of `hosts` (and as localhost) and opens raft
    /// streams.
    ///
    /// # Errors
    ///
    /// [`CertsError::Name`] unless the name has 1 to 63 of a-z, 0-9, `-` and `.`; [`CertsError::Host`] or
    /// [`CertsError::HostText`] for a host that is none; [`CertsError::Make`] if the library fails.
    pub fn node(&self, name: &str, hosts: &[String]) -> Result<CertPem, CertsError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        self.node_for(name, hosts, vec![ServerAuth, ClientAuth])
    }

    fn node_for(
        &self,
        name: &str,
        hosts: &[String],
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<CertPem, CertsError> {
        check_name(name)?;
        let mut names = host_names(hosts)?;
        let uri = format!("{NODE_URI_PREFIX}{name}");
        names.push(SanType::URI(
            uri.as_str()
                .try_into()
                .map_err(|source| host_text(&uri, source))?,
        ));
        self.issue(name, names, purposes)
    }

    /// A certificate for the client `name`, which can dial gRPC and nothing else.
    ///
    /// # Errors
    ///
    /// [`CertsError::Name`] unless the name has 1 to 63 of a-z, 0-9, `-` and `.`; [`CertsError::Make`] if the
    /// library fails.
    pub fn client(&self, name: &str) -> Result<CertPem, CertsError> {
        check_name(name)?;
        self.issue(name, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<CertPem, CertsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes;
        params.use_authority_key_identifier_extension = true;
        params.not_before = (self.now - CLOCK_SKEW).into();
        // A leaf that outlives its authority would promise days that no peer accepts.
        params.not_after = (self.now + LEAF_LIFE).min(self.not_after).into();

        let key = generate_key()?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| CertsError::Make {
                action: "sign the certificate",
                source,
            })?;
        Ok(CertPem {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn check_name(name: &str) -> Result<(), CertsError> {
    if is_valid_name(name) {
        Ok(())
    } else {
        Err(CertsError::Name {
            name: name.to_owned(),
        })
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn generate_key() -> Result<KeyPair, CertsError> {
    KeyPair::generate().map_err(|source| CertsError::Make {
        action: "generate a key",
        source,
    })
}

fn host_names(hosts: &[String]) -> Result<Vec<SanType>, CertsError> {
    let mut names = Vec::new();
    for host in hosts.iter().map(String::as_str).chain(LOCAL_HOSTS) {
        let name = host_name(host)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn host_name(host: &str) -> Result<SanType, CertsError> {
    ServerName::try_from(host).map_err(|source| CertsError::Host {
        host: host.to_owned(),
        source,
    })?;
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => host
            .try_into()
            .map(SanType::DnsName)
            .map_err(|source| host_text(host, source)),
    }
}

fn host_text(host: &str, source: rcgen::Error) -> CertsError {
    CertsError::HostText {
        host: host.to_owned(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Certificates for tests.

    use super::*;

    pub fn authority() -> Authority {
        Authority::new(crate::env::wall_clock()).unwrap()
    }

    /// Names a node, and may call but not serve.
    pub fn node_that_only_calls(authority: &Authority, name: &str) -> CertPem {
        let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        authority.node_for(name, &[], purposes).unwrap()
    }

    /// May serve and dial, yet names no node: what another program of the same authority would hold.
    pub fn server_without_node_name(authority: &Authority, name: &str) -> CertPem {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        authority
            .issue(name, host_names(&[]).unwrap(), vec![ServerAuth, ClientAuth])
            .unwrap()
    }

    /// A list that revokes this certificate, in PEM.
    pub fn revoked(authority: &Authority, pem: &CertPem) -> String {
        let der = CertificateDer::from_pem_slice(pem.cert.as_bytes()).unwrap();
        let (_, cert) = parse_x509_certificate(&der).unwrap();
        let one = rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(cert.raw_serial()),
            revocation_time: authority.now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: authority.now.into(),
            next_update: (authority.now + LEAF_LIFE).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![one],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&authority.issuer).unwrap().pem().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::GeneralName;

    use super::testing::authority;
    use super::*;

    fn with_parsed<T>(
        pem: &str,
        look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
    ) -> T {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        look(&parse_x509_certificate(&der).unwrap().1)
    }

    fn days_left(pem: &str, now: SystemTime) -> i64 {
        let now = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        with_parsed(pem, |cert| {
            (cert.validity().not_after.timestamp() - now) / 86_400
        })
    }

    #[test]
    fn validity_is_counted_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let authority = Authority::new(now).unwrap();
        let node = authority.node("node-1", &[]).unwrap();
        let client = authority.client("root").unwrap();

        assert_eq!(days_left(authority.ca_pem(), now), 3650);
        assert_eq!(days_left(&node.cert, now), 825);
        assert_eq!(days_left(&client.cert, now), 825);
        with_parsed(&node.cert, |cert| {
            assert_eq!(
                cert.validity().not_before.timestamp(),
                2_000_000_000 - 86_400
            )
        });
    }

    #[test]
    fn a_leaf_does_not_outlive_its_authority() {
        let made = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let old = Authority::new(made).unwrap();
        let later = made + CA_LIFE - 100 * DAY;
        let reloaded = Authority::load(old.ca_pem(), &old.ca_key_pem(), later).unwrap();
        assert_eq!(
            days_left(&reloaded.client("root").unwrap().cert, later),
            100
        );
    }

    #[test]
    fn a_node_certificate_names_its_hosts_and_its_node() {
        let hosts = [
            "db.example.com".to_owned(),
            "10.0.0.7".to_owned(),
            "localhost".to_owned(),
        ];
        let node = authority().node("node-1", &hosts).unwrap();
        let names = with_parsed(&node.cert, |cert| {
            let extension = cert.subject_alternative_name().unwrap().unwrap();
            let text = |name: &GeneralName<'_>| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::URI(uri) => (*uri).to_owned(),
                GeneralName::IPAddress(bytes) => format!("ip of {}", bytes.len()),
                other => format!("{other:?}"),
            };
            extension
                .value
                .general_names
                .iter()
                .map(text)
                .collect::<Vec<_>>()
        });
        let expected = [
            "db.example.com",
            "ip of 4",
            "localhost",
            "ip of 4",
            "ip of 16",
            "ferrolog://node/node-1",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_client_certificate_names_no_node_and_may_not_serve() {
        let client = authority().client("root").unwrap();
        with_parsed(&client.cert, |cert| {
            assert!(cert.subject_alternative_name().unwrap().is_none());
            let usage = cert.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth);
        });
    }

    #[test]
    fn names_and_hosts_are_checked() {
        let authority = authority();
        let long = "a".repeat(64);
        for name in ["", "-a", ".a", "A", "a b", "a/b", "é", long.as_str()] {
            assert!(
                matches!(authority.client(name), Err(CertsError::Name { .. })),
                "{name:?}"
            );
            assert!(
                matches!(authority.node(name, &[]), Err(CertsError::Name { .. })),
                "{name:?}"
            );
        }
        authority.client(&long[1..]).unwrap();
        for host in ["", "a b", "host:8400"] {
            let outcome = authority.node("n", &[host.to_owned()]);
            assert!(matches!(outcome, Err(CertsError::Host { .. })), "{host:?}");
        }
    }

    #[test]
    fn an_authority_is_loaded_only_with_its_own_key() {
        let now = crate::env::wall_clock();
        let (one, two) = (authority(), authority());
        Authority::load(one.ca_pem(), &one.ca_key_pem(), now).unwrap();

        let swapped = Authority::load(one.ca_pem(), &two.ca_key_pem(), now);
        assert!(matches!(swapped, Err(CertsError::KeyMismatch)));
        let leaf = one.client("root").unwrap();
        assert!(matches!(
            Authority::load(&leaf.cert, &leaf.key, now),
            Err(CertsError::NotAnAuthority)
        ));
        assert!(matches!(
            Authority::load("junk", &leaf.key, now),
            Err(CertsError::CaPem { .. })
        ));
        assert!(matches!(
            Authority::load(one.ca_pem(), "junk", now),
            Err(CertsError::Make { .. })
        ));
    }
}
