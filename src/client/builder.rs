//! How a client is made: where the cluster is, and how both sides prove who they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Client, TIMEOUT_DEFAULT};
use crate::net::Security;
use crate::net::stream_layer::StreamLayer;
use crate::net::tcp::TcpNetwork;
use crate::net::tls::{Tls, TlsError, TlsFiles};
use crate::net::traceparent::NoTraceParent;

/// `host:port` of some or all nodes, with commas between them.
const SERVERS: &str = "FERROLOG_SERVERS";
const TLS_CA: &str = "FERROLOG_TLS_CA";
const TLS_CERT: &str = "FERROLOG_TLS_CERT";
const TLS_KEY: &str = "FERROLOG_TLS_KEY";
const INSECURE: &str = "FERROLOG_INSECURE";

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No server was given.
    #[error("no server was named; give the address (host:port) of one node or more")]
    NoServers,
    /// An address has no port.
    #[error("{addr:?} has no port; write host:port")]
    Address {
        /// What was given.
        addr: String,
    },
    /// Neither certificates nor plaintext were chosen.
    #[error(
        "how to speak to the nodes is not said; give an authority, a certificate and its key, or say plaintext"
    )]
    NoSecurity,
    /// Both certificates and plaintext were chosen.
    #[error("plaintext and certificates exclude each other; give one of them")]
    TwoSecurities,
    /// Only some of the three certificate files were given.
    #[error("the authority, the certificate and its key belong together; give all three")]
    HalfTls,
    /// The certificate files cannot be used.
    #[error("the client's certificate cannot be used")]
    Tls(#[from] TlsError),
    /// What was to name a span of a trace does not.
    #[error(transparent)]
    TraceParent(#[from] NoTraceParent),
    /// A variable of the environment is neither true nor false.
    #[error("the variable {name} is {value:?}; set it to true or to false, or unset it")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it is set to.
        value: String,
    },
}

/// Makes a [`Client`]: servers and a way to trust them are needed, the rest has defaults.
///
/// ```no_run
/// # fn main() -> Result<(), ferrolog::client::ConfigError> {
/// use ferrolog::client::Client;
///
/// let client = Client::builder()
///     .servers(["n1:7400", "n2:7400", "n3:7400"])
///     .tls("certs/ca.pem", "certs/client.pem", "certs/client-key.pem")
///     .build()?;
/// # let _ = client; Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder makes a client only when it is told to"]
pub struct ClientBuilder {
    servers: Vec<String>,
    files: [Option<PathBuf>; 3],
    plaintext: bool,
    layer: Option<StreamLayer>,
    timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            files: [const { None }; 3],
            plaintext: false,
            layer: None,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

impl ClientBuilder {
    /// `host:port` of some or all nodes: they are asked in turn, and the others are found through them.
    /// Spaces around an address are left out, and so are empty addresses.
    pub fn servers<A: AsRef<str>>(mut self, addrs: impl IntoIterator<Item = A>) -> Self {
        let addrs = addrs
            .into_iter()
            .map(|addr| addr.as_ref().trim().to_owned());
        self.servers = addrs.filter(|addr| !addr.is_empty()).collect();
        self
    }

    /// PEM files of the authority that signed the nodes' certificates, of the client's certificate, and of
    /// its private key. They are read by [`Self::build`].
    pub fn tls(
        self,
        ca: impl Into<PathBuf>,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.tls_files(Some(ca.into()), Some(cert.into()), Some(key.into()))
    }

    /// Sets those of the three files that are given. [`Self::build`] refuses a set with one or two files. An
    /// empty path counts as not given.
    pub fn tls_files(
        mut self,
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Self {
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        self.files = [ca, cert, key].map(|path| path.filter(is_set));
        self
    }

    /// Uses plaintext, for nodes that run without certificates. Anybody on the network can read and change what
    /// is sent.
    pub fn plaintext(mut self, is_plaintext: bool) -> Self {
        self.plaintext = is_plaintext;
        self
    }

    /// Reaches the nodes through `layer`, which also proves who the client is. Files and plaintext then do not count.
    pub fn stream_layer(mut self, layer: StreamLayer) -> Self {
        self.layer = Some(layer);
        self
    }

    /// How long a call may make no progress before it gives up; 60 s unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client. It connects to nothing yet; its calls need a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: no servers, an address without a port, no way to trust, or files that cannot be used.
    pub fn build(self) -> Result<Client, ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::NoServers);
        }
        if let Some(addr) = self.servers.iter().find(|addr| !addr.contains(':')) {
            let addr = addr.clone();
            return Err(ConfigError::Address { addr });
        }
        let layer = match self.layer {
            Some(layer) => layer,
            None => StreamLayer::new(Arc::new(TcpNetwork), security(self.files, self.plaintext)?),
        };
        Ok(Client::new(self.servers, layer, self.timeout))
    }

    /// Takes settings from the environment, and defaults for variables that are not set.
    pub(super) fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var_os(name)?.into_string().ok())
    }

    fn from_variables(
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let servers = variable(SERVERS).unwrap_or_default();
        let file = |name| variable(name).map(PathBuf::from);
        let plaintext = match variable(INSECURE).as_deref().map(str::trim) {
            None | Some("" | "0" | "false" | "no" | "off") => false,
            Some("1" | "true" | "yes" | "on") => true,
            Some(value) => {
                let (name, value) = (INSECURE, value.to_owned());
                return Err(ConfigError::Variable { name, value });
            }
        };
        Ok(Self::default()
            .servers(servers.split(','))
            .tls_files(file(TLS_CA), file(TLS_CERT), file(TLS_KEY))
            .plaintext(plaintext))
    }
}

fn security(files: [Option<PathBuf>; 3], plaintext: bool) -> Result<Security, ConfigError> {
    match (plaintext, files) {
        (true, [None, None, None]) => Ok(Security::Insecure),
        (true, _) => Err(ConfigError::TwoSecurities),
        (false, [Some(ca), Some(cert), Some(key)]) => {
            let files = TlsFiles {
                ca,
                cert,
                key,
                crl: None,
            };
            Ok(Security::Mutual(Tls::load(&files)?))
        }
        (false, [None, None, None]) => Err(ConfigError::NoSecurity),
        (false, _) => Err(ConfigError::HalfTls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Client, ConfigError> {
        let variable = |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ClientBuilder::from_variables(variable)?.build()
    }

    #[tokio::test]
    async fn the_environment_says_where_the_cluster_is_and_what_is_missing_is_said() {
        let client = of(&[(SERVERS, " a:1,,b:2 "), (INSECURE, "true"), (TLS_CA, "")]).unwrap();
        assert_eq!(client.servers.addrs(), ["a:1", "b:2"]);
        let error = |variables: &[_]| of(variables).err().expect("an error");
        assert!(matches!(error(&[]), ConfigError::NoServers));
        assert!(matches!(
            error(&[(SERVERS, "a")]),
            ConfigError::Address { .. }
        ));
        let plain = [(SERVERS, "a:1"), (INSECURE, "no")];
        assert!(matches!(error(&plain), ConfigError::NoSecurity));
        let half = [(SERVERS, "a:1"), (TLS_CA, "ca.pem")];
        assert!(matches!(error(&half), ConfigError::HalfTls));
        let both = [(SERVERS, "a:1"), (TLS_CA, "ca.pem"), (INSECURE, "1")];
        assert!(matches!(error(&both), ConfigError::TwoSecurities));
        let unclear = [(SERVERS, "a:1"), (INSECURE, "maybe")];
        assert!(matches!(error(&unclear), ConfigError::Variable { .. }));
        let files = [(TLS_CERT, "/none/cert"), (TLS_KEY, "/none/key")];
        let absent = [&[(SERVERS, "a:1"), (TLS_CA, "/none/ca")], &files[..]].concat();
        assert!(matches!(error(&absent), ConfigError::Tls(_)));
    }
}
