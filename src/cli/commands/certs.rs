//! `ferrolog certs`: an authority, and certificates of nodes and clients, as files.
//!
//! A second call with the same directory adds to the authority that is there. No file is ever overwritten.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use crate::certs::{Authority, CertPem};
use crate::cli::{Format, UsageError, files, output};

const HELP: &str = "\
Keep ca-key.pem off the nodes: whoever has it can make any certificate.

Examples:
  ferrolog certs --out certs                                       (n1, n2, n3 and client)
  ferrolog certs --out certs --nodes n4 --hosts n4.example.com     (one more node, same authority)
  ferrolog certs --out certs --clients reader,writer               (two more clients)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct CertsArgs {
    /// Where the files go; the authority there is used, if there is one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The nodes, by the names they are started under [default with a new authority: n1,n2,n3]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    nodes: Option<Vec<String>>,
    /// The host names and addresses that the nodes are reached at, besides their names and localhost
    #[arg(long, value_name = "HOST,...", value_delimiter = ',')]
    hosts: Vec<String>,
    /// The clients, by the names that policies use [default with a new authority: client]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    clients: Option<Vec<String>>,
}

pub(in crate::cli) fn run(args: &CertsArgs, format: Format) -> anyhow::Result<()> {
    let is_new = !files::exists(&args.out.join("ca.pem"));
    // An authority that is there gets what was asked for and no more.
    let names = |given: &Option<Vec<String>>, new: &[&str]| match given {
        Some(names) => names.clone(),
        None if is_new => new.iter().map(|&name| name.to_owned()).collect(),
        None => Vec::new(),
    };
    let (nodes, clients) = (
        names(&args.nodes, &["n1", "n2", "n3"]),
        names(&args.clients, &["client"]),
    );
    if nodes.is_empty() && clients.is_empty() {
        let text = format!(
            "{} has an authority; say what to add with --nodes or --clients",
            args.out.display()
        );
        return Err(UsageError(text).into());
    }
    let mint = Mint {
        dir: &args.out,
        hosts: &args.hosts,
        existing: Existing::Refuse,
    };
    let written = mint.write(&nodes, &clients)?;
    let text = match format {
        Format::Json => json!({ "files": written }).to_string(),
        Format::Text => written
            .iter()
            .map(|path| format!("wrote {}", path.display()))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    output::print(&text).context("write to standard output")
}

/// What to do about a certificate that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Existing {
    Refuse,
    Keep,
}

/// A directory of certificates in the making.
pub(in crate::cli) struct Mint<'a> {
    pub(in crate::cli) dir: &'a Path,
    pub(in crate::cli) hosts: &'a [String],
    pub(in crate::cli) existing: Existing,
}

impl Mint<'_> {
    /// Makes what is missing; answers with the files written.
    pub(in crate::cli) fn write(
        &self,
        nodes: &[String],
        clients: &[String],
    ) -> anyhow::Result<Vec<PathBuf>> {
        files::create_private_dir(self.dir)?;
        let mut written = Vec::new();
        let authority = self.authority(&mut written)?;
        for name in nodes {
            // A node is usually reached by its name, so its certificate carries that too.
            let hosts: Vec<_> = self.hosts.iter().chain([name]).cloned().collect();
            self.pair(name, || Ok(authority.node(name, &hosts)?), &mut written)?;
        }
        for name in clients {
            self.pair(name, || Ok(authority.client(name)?), &mut written)?;
        }
        Ok(written)
    }

    fn authority(&self, written: &mut Vec<PathBuf>) -> anyhow::Result<Authority> {
        let (cert, key) = (self.dir.join("ca.pem"), self.dir.join("ca-key.pem"));
        let now = crate::env::wall_clock();
        match (
            files::read_if_present(&cert)?,
            files::read_if_present(&key)?,
        ) {
            (Some(cert_pem), Some(key_pem)) => Authority::load(&cert_pem, &key_pem, now)
                .with_context(|| format!("use the authority in {}", self.dir.display())),
            (None, None) => {
                let authority = Authority::new(now).context("make an authority")?;
                // The key first: a certificate without its key would block the next call.
                files::write_new(&key, 0o600, &authority.ca_key_pem())?;
                files::write_new(&cert, 0o644, authority.ca_pem())?;
                written.extend([cert, key]);
                Ok(authority)
            }
            (Some(_), None) => bail!(
                "{} is there without {}, so nothing can be signed; bring the key, or use an empty directory",
                cert.display(),
                key.display()
            ),
            (None, Some(_)) => bail!(
                "{} is there without {}; bring the certificate, or use an empty directory",
                key.display(),
                cert.display()
            ),
        }
    }

    fn pair(
        &self,
        name: &str,
        make: impl FnOnce() -> anyhow::Result<CertPem>,
        written: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let pair = make().with_context(|| format!("make a certificate for {name:?}"))?;
        let (cert, key) = (
            self.dir.join(format!("{name}.pem")),
            self.dir.join(format!("{name}-key.pem")),
        );
        if files::exists(&cert) && files::exists(&key) && self.existing == Existing::Keep {
            return Ok(());
        }
        files::write_new(&key, 0o600, &pair.key)?;
        files::write_new(&cert, 0o644, &pair.cert)?;
        written.extend([cert, key]);
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test looks at the files it wrote"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::net::tls::{Tls, TlsFiles};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn write(
        dir: &Path,
        existing: Existing,
        nodes: &[&str],
        clients: &[&str],
    ) -> anyhow::Result<Vec<PathBuf>> {
        Mint {
            dir,
            hosts: &[],
            existing,
        }
        .write(&names(nodes), &names(clients))
    }

    #[test]
    fn keys_are_the_owners_alone_and_pairs_fit() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), Existing::Refuse, &["n1"], &["client"]).unwrap();
        assert_eq!(written.len(), 6);
        for path in &written {
            let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            let is_key = path.to_string_lossy().ends_with("-key.pem");
            assert_eq!(mode & !0o644, 0, "{path:?}");
            assert!(!is_key || mode == 0o600, "{path:?} has mode {mode:o}");
        }
        for name in ["n1", "client"] {
            let at = |file: String| dir.path().join(file);
            let files = TlsFiles {
                ca: at("ca.pem".into()),
                cert: at(format!("{name}.pem")),
                key: at(format!("{name}-key.pem")),
                crl: None,
            };
            Tls::load(&files).unwrap();
        }
    }

    #[test]
    fn an_authority_is_reused_and_nothing_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Existing::Refuse, &["n1"], &[]).unwrap();
        let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
        assert_eq!(
            write(dir.path(), Existing::Refuse, &["n2"], &[])
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            write(dir.path(), Existing::Keep, &["n1", "n2"], &[]).unwrap(),
            Vec::<PathBuf>::new()
        );
        let refused = write(dir.path(), Existing::Refuse, &["n1"], &[]).unwrap_err();
        assert!(refused.to_string().contains("not overwritten"));
        assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), ca);

        std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
        let refused = write(dir.path(), Existing::Keep, &["n3"], &[]).unwrap_err();
        assert!(refused.to_string().contains("without"), "{refused}");
    }
}
