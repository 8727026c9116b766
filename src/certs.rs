//! Makes the certificates of a cluster, and is the only home of rcgen.
//!
//! A node certificate names its node in a URI, which is what opens raft streams; a client certificate has
//! none and can only dial gRPC. Where the files go, and with which mode, is left to the caller.
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod error;
mod facts;

pub use error::CertsError;
pub use facts::{Facts, For};

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::parse_x509_certificate;

use crate::net::identity::{NODE_URI_PREFIX, is_valid_name};

const DAY: Duration = Duration::from_hours(24);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// How many days a certificate of a node or a client is valid for, unless told otherwise.
pub const LEAF_DAYS: u32 = 825;
/// Certificates begin in the past, because the clocks of two hosts differ.
const CLOCK_SKEW: Duration = DAY;
/// A node answers on these whatever else it is called.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

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
    leaf_life: Duration,
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
            leaf_life: DAY * LEAF_DAYS,
        })
    }

    /// The same authority, whose certificates are valid for so many days, and never longer than it is itself.
    pub fn for_days(self, days: u32) -> Self {
        Self {
            leaf_life: DAY * days,
            ..self
        }
    }

    /// Takes up an authority that was made earlier. What it signs is valid from a day before `now`, for 825 days,
    /// and never longer than the authority itself. `ca_pem` may hold several certificates: the one of the key signs.
    ///
    /// # Errors
    ///
    /// A [`CertsError`] if the two texts are no certificate with its key, or not those of an authority.
    pub fn load(ca_pem: &str, key_pem: &str, now: SystemTime) -> Result<Self, CertsError> {
        let key = read_key(key_pem)?;
        let der = of_key(ca_pem, &key)?;
        let (_, cert) =
            parse_x509_certificate(&der).map_err(|source| CertsError::Parse { source })?;
        if !cert.is_ca() {
            return Err(CertsError::NotAnAuthority);
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
            leaf_life: DAY * LEAF_DAYS,
        })
    }

    /// A certificate for the same node or client, names and uses as this one, signed by this authority, valid from
    /// now on. It is made with the key that is given, or with a new one.
    ///
    /// # Errors
    ///
    /// [`CertsError::NotOurs`] if the old one holds more than [`Self::node`] and [`Self::client`] make;
    /// [`CertsError::OtherKey`] if the key is not the old one's; [`CertsError::Make`] if the library fails.
    pub fn renew(&self, old: &Facts, key_pem: Option<&str>) -> Result<CertPem, CertsError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        if !old.is_plain || old.is_for == For::Authority {
            return Err(CertsError::NotOurs {
                subject: old.subject.clone(),
            });
        }
        let key = match key_pem {
            Some(pem) if old.fits(pem)? => read_key(pem)?,
            Some(_) => return Err(CertsError::OtherKey),
            None => generate_key()?,
        };
        let hosts = old.hosts.iter().map(|host| host_name(host));
        let uris = old.uris.iter().map(|uri| uri_name(uri));
        let names = hosts.chain(uris).collect::<Result<_, _>>()?;
        let purposes = match old.serves {
            true => vec![ServerAuth, ClientAuth],
            false => vec![ClientAuth],
        };
        self.issue_with(&old.common_name, names, purposes, &key)
    }

    /// When the authority's own certificate ends: nothing that it signs is valid for longer.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
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
        names.push(uri_name(&format!("{NODE_URI_PREFIX}{name}"))?);
        self.issue(name, names, purposes)
    }

    /// A certificate for the client `name`, which can dial gRPC and nothing else.
    ///
    /// # Errors
    ///
    /// As [`Self::client_with_uris`].
    pub fn client(&self, name: &str) -> Result<CertPem, CertsError> {
        self.client_with_uris(name, &[])
    }

    /// The same with URIs in it, by which a policy may call the client.
    ///
    /// # Errors
    ///
    /// As [`Self::node`]; [`CertsError::HostText`] for a URI that is not ASCII.
    pub fn client_with_uris(&self, name: &str, uris: &[&str]) -> Result<CertPem, CertsError> {
        check_name(name)?;
        let uris: Result<_, _> = uris.iter().map(|uri| uri_name(uri)).collect();
        self.issue(name, uris?, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        purposes: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<CertPem, CertsError> {
        self.issue_with(name, names, purposes, &generate_key()?)
    }

    fn issue_with(
        &self,
        name: &str,
        names: Vec<SanType>,
        purposes: Vec<ExtendedKeyUsagePurpose>,
        key: &KeyPair,
    ) -> Result<CertPem, CertsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes;
        params.use_authority_key_identifier_extension = true;
        params.not_before = (self.now - CLOCK_SKEW).into();
        // A leaf that outlives its authority would promise days that no peer accepts.
        params.not_after = (self.now + self.leaf_life).min(self.not_after).into();

        let cert = params
            .signed_by(key, &self.issuer)
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

/// Reads a private key.
fn read_key(pem: &str) -> Result<KeyPair, CertsError> {
    KeyPair::from_pem(pem).map_err(|source| CertsError::Make {
        action: "read the key",
        source,
    })
}

/// The certificate of this key among those of a file: a file that hands over from one authority to the next holds both.
fn of_key(pem: &str, key: &KeyPair) -> Result<CertificateDer<'static>, CertsError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|source| CertsError::Pem { source })?;
    if all.is_empty() {
        let source = pem::Error::NoItemsFound;
        return Err(CertsError::Pem { source });
    }
    let is_of_key = |der: &&CertificateDer<'_>| {
        let parsed = parse_x509_certificate(der);
        parsed.is_ok_and(|(_, cert)| {
            *cert.public_key().subject_public_key.data == *key.public_key_raw()
        })
    };
    // Otherwise every certificate signed here would fail, and only when it is first used.
    let found = all.iter().find(is_of_key);
    found.cloned().ok_or(CertsError::KeyMismatch)
}

fn uri_name(uri: &str) -> Result<SanType, CertsError> {
    let text = uri.try_into().map_err(|source| host_text(uri, source))?;
    Ok(SanType::URI(text))
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
            next_update: (authority.now + authority.leaf_life).into(),
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
    fn a_renewed_certificate_differs_in_its_days_alone() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let authority = Authority::new(now).unwrap();
        let hosts = ["db.example.com".to_owned(), "10.0.0.7".to_owned()];
        let old = authority.node("n1", &hosts).unwrap();
        let (later, facts) = (now + 100 * DAY, Facts::of(&old.cert).unwrap());
        assert_eq!(facts.days_left(later), 725);
        let again = Authority::load(authority.ca_pem(), &authority.ca_key_pem(), later).unwrap();
        let again = again.for_days(30);
        let new = again.renew(&facts, Some(&old.key)).unwrap();
        let renewed = Facts::of(&new.cert).unwrap();
        assert_eq!(renewed.is_for, For::Node("n1".to_owned()));
        assert_eq!((&renewed.hosts, &renewed.uris), (&facts.hosts, &facts.uris));
        assert!(renewed.serves && renewed.fits(&old.key).unwrap());
        assert_eq!(renewed.days_left(later), 30);
        assert!(!renewed.is_valid(later + 31 * DAY) && renewed.is_valid(later));
        assert_eq!(renewed.days_left(later + 31 * DAY), -1);
        // With a new key, which is not the old one's.
        let new = again.renew(&facts, None).unwrap();
        assert!(
            !facts.fits(&new.key).unwrap() && Facts::of(&new.cert).unwrap().fits(&new.key).unwrap()
        );
        let other = again.renew(&facts, Some(&new.key));
        assert!(matches!(other, Err(CertsError::OtherKey)));
        // What it would lose is not renewed; nor is an authority.
        let own = Facts::of(authority.ca_pem()).unwrap();
        assert!(matches!(
            again.renew(&own, None),
            Err(CertsError::NotOurs { .. })
        ));
    }

    #[test]
    fn an_authority_signs_out_of_a_file_of_two() {
        let (old, new) = (authority(), authority());
        let both = format!("{}{}", old.ca_pem(), new.ca_pem());
        for one in [&old, &new] {
            let loaded =
                Authority::load(&both, &one.ca_key_pem(), crate::env::wall_clock()).unwrap();
            let client = loaded.client("c").unwrap();
            let tls = |ca: &Authority| {
                let ca = ca.ca_pem().as_bytes();
                crate::net::tls::Tls::from_pem(ca, client.cert.as_bytes(), client.key.as_bytes())
            };
            assert!(tls(one).is_ok());
        }
        let third = authority().ca_key_pem();
        let refused = Authority::load(&both, &third, crate::env::wall_clock());
        assert!(matches!(refused, Err(CertsError::KeyMismatch)));
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
            Err(CertsError::Pem { .. })
        ));
        assert!(matches!(
            Authority::load(one.ca_pem(), "junk", now),
            Err(CertsError::Make { .. })
        ));
    }
}
