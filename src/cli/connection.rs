//! How a client command finds and trusts the cluster: the options that all of them share.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::UsageError;
use super::output::quantities::parse_wait;
use crate::client::{Client, ConfigError};

/// The log that is there from the start.
const DEFAULT_LOG: &str = "default";
/// Names the log where the command line does not.
const LOG_VARIABLE: &str = "FERROLOG_LOG_NAME";

/// Where the servers are and how to prove oneself. Global, so that they may stand after a verb's name.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// Some or all nodes of the cluster, tried in turn
    #[arg(
        long,
        global = true,
        env = "FERROLOG_SERVERS",
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub servers: Vec<String>,
    /// The authority that signed the nodes' certificates
    #[arg(long, global = true, env = "FERROLOG_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, global = true, env = "FERROLOG_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The client's private key
    #[arg(long, global = true, env = "FERROLOG_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Speak plaintext, to nodes that run with --insecure
    #[arg(long, global = true, env = "FERROLOG_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// Give up after this long without progress, such as 30s or 2m; a bare number is of seconds
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = parse_wait)]
    pub timeout: Duration,
}

/// Which of the cluster's logs a command is about. Global, so that it may stand after a verb's name.
#[derive(Debug, Clone, clap::Args)]
pub struct OfLog {
    /// The log, as `ferrolog log list` names it
    // A global option whose field had the name of another argument would take that one's value.
    #[arg(
        long,
        global = true,
        env = LOG_VARIABLE,
        value_name = "NAME",
        default_value = DEFAULT_LOG
    )]
    log: String,
}

/// The log of a command that can be about several: the environment's where the command line names none, so that the
/// variable is in nobody's way.
pub fn log_of_environment() -> String {
    let named = std::env::var(LOG_VARIABLE).unwrap_or_default();
    match named.trim() {
        "" => DEFAULT_LOG.to_owned(),
        _ => named,
    }
}

/// Which logs a command is about, by how their names begin.
#[derive(Debug, Clone, clap::Args)]
pub struct LogPrefix {
    /// Only logs whose names begin with this
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub prefix: String,
}

impl OfLog {
    /// The log's name.
    pub fn name(&self) -> &str {
        &self.log
    }

    /// A client of that log.
    pub fn of(&self, cluster: &Client) -> Client {
        cluster.log(&*self.log)
    }
}

impl ConnectionArgs {
    /// The servers that were named.
    pub fn addrs(&self) -> Vec<String> {
        let named = self.servers.iter().map(|addr| addr.trim());
        let named = named.filter(|addr| !addr.is_empty());
        named.map(str::to_owned).collect()
    }

    /// A client of the cluster, or of `server` alone where the command asks one node.
    pub fn client(&self, server: Option<&str>) -> anyhow::Result<Client> {
        let builder = match server {
            Some(server) => Client::builder().servers([server]),
            None => Client::builder().servers(&self.servers),
        };
        let files = (
            self.tls_ca.clone(),
            self.tls_cert.clone(),
            self.tls_key.clone(),
        );
        let client = builder
            .tls_files(files.0, files.1, files.2)
            .plaintext(self.insecure)
            .timeout(self.timeout);
        client.build().map_err(in_flags)
    }
}

/// What is missing, in the words of the command line.
fn in_flags(error: ConfigError) -> anyhow::Error {
    let usage = match &error {
        ConfigError::NoServers => {
            "no server was named; add --servers HOST:PORT,HOST:PORT or set FERROLOG_SERVERS".into()
        }
        ConfigError::Address { addr } => format!("{addr:?} has no port; write HOST:PORT"),
        ConfigError::TwoSecurities => {
            "--insecure and --tls-* exclude each other; drop one of them".into()
        }
        ConfigError::NoSecurity => {
            "how to speak to the nodes is not said; add --tls-ca, --tls-cert and --tls-key (made by \
             `ferrolog certs`), or --insecure"
                .into()
        }
        ConfigError::HalfTls => {
            "--tls-ca, --tls-cert and --tls-key belong together; give all three".into()
        }
        _ => return error.into(),
    };
    UsageError(usage).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_trimmed_and_what_is_empty_is_not_set() {
        let mut args = args(&[" a:1", "", "b:2 "], true);
        args.tls_ca = Some(PathBuf::new());
        assert!(args.client(None).is_ok());
        args.servers = vec![String::new(), " ".to_owned()];
        let error = args.client(None).err().expect("no server is left");
        assert!(error.to_string().contains("no server was named"), "{error}");
    }

    fn args(servers: &[&str], insecure: bool) -> ConnectionArgs {
        let servers = servers.iter().map(|&addr| addr.to_owned()).collect();
        ConnectionArgs {
            servers,
            insecure,
            timeout: Duration::from_secs(1),
            ..ConnectionArgs::default()
        }
    }

    fn usage_error(args: &ConnectionArgs) -> String {
        args.client(None)
            .err()
            .unwrap()
            .downcast::<UsageError>()
            .unwrap()
            .0
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        assert!(args(&["a:1"], true).client(None).is_ok());
        assert!(usage_error(&args(&[], true)).contains("--servers"));
        assert!(usage_error(&args(&["a"], true)).contains("no port"));
        assert!(usage_error(&args(&["a:1"], false)).contains("ferrolog certs"));
        let half = ConnectionArgs {
            tls_ca: Some("ca.pem".into()),
            ..args(&["a:1"], false)
        };
        assert!(usage_error(&half).contains("all three"));
        let both = ConnectionArgs {
            tls_ca: Some("ca.pem".into()),
            ..args(&["a:1"], true)
        };
        assert!(usage_error(&both).contains("exclude"));
    }
}
