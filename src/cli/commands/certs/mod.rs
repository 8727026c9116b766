//! `ferrolog certs`: an authority, and certificates of nodes and clients, as files.
//!
//! A second call with the same directory adds to the authority that is there. Nothing is overwritten but by `renew`.

mod renew;
mod show;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use crate::certs::{Authority, CertPem, LEAF_DAYS};
use crate::cli::{Format, UsageError, files, output};

const HELP: &str = "\
Keep ca-key.pem off the nodes: whoever has it can make any certificate.

Examples:
  ferrolog certs --out certs                                       (n1, n2, n3 and client)
  ferrolog certs --out certs --nodes n4 --hosts n4.example.com     (one more node, same authority)
  ferrolog certs --out certs --clients reader --days 30            (valid for thirty days)
  ferrolog certs show certs                                        (whose they are, and until when)
  ferrolog certs renew certs                                       (all of them, with the keys that they have)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in crate::cli) struct CertsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where the files go; the authority there is used, if there is one
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// The nodes, by the names they are started under [default with a new authority: n1,n2,n3]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    nodes: Option<Vec<String>>,
    /// The host names and addresses that the nodes are reached at, besides their names and localhost
    #[arg(long, value_name = "HOST,...", value_delimiter = ',')]
    hosts: Vec<String>,
    /// The clients, by the names that policies use [default with a new authority: client]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    clients: Option<Vec<String>>,
    /// How many days the certificates are valid for, and no longer than the authority (ten years)
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS, value_parser = days())]
    days: u32,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make certificates anew in the place of those that are there, with the same names
    Renew(renew::RenewArgs),
    /// Show the certificates of a directory: whose they are, until when they are valid, whether their keys fit
    Show(show::ShowArgs),
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=3650)
}

pub(in crate::cli) fn run(args: &CertsArgs, format: Format) -> anyhow::Result<()> {
    match (&args.verb, &args.out) {
        (Some(Verb::Renew(args)), _) => renew::run(args, format),
        (Some(Verb::Show(args)), _) => show::run(args, format),
        (None, Some(out)) => make(args, out, format),
        (None, None) => Err(UsageError("say where the files go: --out DIR".to_owned()).into()),
    }
}

fn make(args: &CertsArgs, out: &Path, format: Format) -> anyhow::Result<()> {
    let is_new = !files::exists(&out.join("ca.pem"));
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
            out.display()
        );
        return Err(UsageError(text).into());
    }
    let mint = Mint {
        dir: out,
        hosts: &args.hosts,
        days: args.days,
        existing: Existing::Refuse,
    };
    let written = mint.write(&nodes, &clients)?;
    let lines = written
        .iter()
        .map(|path| format!("wrote {}", path.display()));
    let text = lines.collect::<Vec<_>>().join("\n");
    output::print_as(format, (text, json!({ "files": written })))
}

/// The authority in a directory, to sign with; `None` if there is none at all.
fn authority_in(dir: &Path, days: u32) -> anyhow::Result<Option<Authority>> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
    match (
        files::read_if_present(&cert)?,
        files::read_if_present(&key)?,
    ) {
        (Some(cert_pem), Some(key_pem)) => {
            let authority = Authority::load(&cert_pem, &key_pem, crate::env::wall_clock());
            let authority =
                authority.with_context(|| format!("use the authority in {}", dir.display()))?;
            Ok(Some(authority.for_days(days)))
        }
        (None, None) => Ok(None),
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
    pub(in crate::cli) days: u32,
    pub(in crate::cli) existing: Existing,
}

impl Mint<'_> {
    /// Makes what is missing; answers with the files written. Nothing is written before all can be.
    pub(in crate::cli) fn write(
        &self,
        nodes: &[String],
        clients: &[String],
    ) -> anyhow::Result<Vec<PathBuf>> {
        self.check(nodes, clients)?;
        let (authority, mut made) = match authority_in(self.dir, self.days)? {
            Some(authority) => (authority, Vec::new()),
            None => self.authority()?,
        };
        for name in nodes {
            // A node is usually reached by its name, so its certificate carries that too.
            let hosts: Vec<_> = self.hosts.iter().chain([name]).cloned().collect();
            made.extend(self.pair(name, || Ok(authority.node(name, &hosts)?))?);
        }
        for name in clients {
            made.extend(self.pair(name, || Ok(authority.client(name)?))?);
        }
        let mut paths = BTreeSet::new();
        for Made { path, .. } in &made {
            // Such as the key of `n1` and the certificate of `n1-key`.
            if !paths.insert(path) || files::exists(path) {
                bail!(
                    "{} would be written twice, or is there already without the file that belongs to it; nothing was \
                     written: choose another name, or move it away",
                    path.display()
                );
            }
        }
        files::create_private_dir(self.dir)?;
        let mut written = Vec::new();
        for Made { path, text, mode } in made {
            files::write_new(&path, mode, &text)?;
            written.push(path);
        }
        Ok(written)
    }

    /// Refuses a name that is given twice, and one that has files which are to stay.
    fn check(&self, nodes: &[String], clients: &[String]) -> anyhow::Result<()> {
        let names: Vec<_> = nodes.iter().chain(clients).collect();
        for (number, name) in names.iter().enumerate() {
            if names[..number].contains(name) {
                let text = format!(
                    "{name} is asked for twice, and has one certificate in a directory; say with --nodes and --clients \
                     who is which (without --nodes a new directory gets n1, n2 and n3)"
                );
                return Err(UsageError(text).into());
            }
            let there = self
                .paths(name)
                .into_iter()
                .find(|path| files::exists(path));
            if let Some(there) = there.filter(|_| self.existing == Existing::Refuse) {
                bail!(
                    "{} is there already and is not overwritten, and nothing was written: see `ferrolog certs renew`, or choose another name",
                    there.display()
                );
            }
        }
        Ok(())
    }

    /// The files of a certificate, the key's first: a certificate without its key would block the next call.
    fn paths(&self, name: &str) -> [PathBuf; 2] {
        ["-key.pem", ".pem"].map(|end| self.dir.join(format!("{name}{end}")))
    }

    fn authority(&self) -> anyhow::Result<(Authority, Vec<Made>)> {
        let authority = Authority::new(crate::env::wall_clock()).context("make an authority")?;
        let authority = authority.for_days(self.days);
        let texts = [authority.ca_key_pem(), authority.ca_pem().to_owned()];
        Ok((authority, self.files("ca", texts)))
    }

    fn pair(
        &self,
        name: &str,
        make: impl FnOnce() -> anyhow::Result<CertPem>,
    ) -> anyhow::Result<Vec<Made>> {
        let pair = make().with_context(|| format!("make a certificate for {name:?}"))?;
        let is_there = self.paths(name).iter().all(|path| files::exists(path));
        Ok(match is_there && self.existing == Existing::Keep {
            true => Vec::new(),
            false => self.files(name, [pair.key.clone(), pair.cert.clone()]),
        })
    }

    fn files(&self, name: &str, texts: [String; 2]) -> Vec<Made> {
        let files = self.paths(name).into_iter().zip(texts).zip([0o600, 0o644]);
        let made = files.map(|((path, text), mode)| Made { path, text, mode });
        made.collect()
    }
}

/// A file that is to be written.
struct Made {
    path: PathBuf,
    text: String,
    mode: u32,
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test looks at the files it wrote"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::certs::Facts;
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
            days: LEAF_DAYS,
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
    fn nothing_is_written_before_all_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        let why = |nodes: &[&str], clients: &[&str]| {
            let refused = write(&new, Existing::Refuse, nodes, clients);
            format!("{:#}", refused.unwrap_err())
        };
        assert!(why(&["n1", "n2"], &["n1"]).contains("n1 is asked for twice"));
        assert!(why(&["n1"], &["a/b"]).contains("a/b"));
        assert!(why(&["n1", "n1-key"], &[]).contains("n1-key.pem would be"));
        assert!(why(&["ca"], &[]).contains("would be"));
        assert!(!new.exists());
        write(&new, Existing::Refuse, &["n1"], &[]).unwrap();
        assert!(why(&["n2", "n1"], &[]).contains("n1-key.pem is there already"));
        assert!(!new.join("n2.pem").exists());
    }

    fn tls(dir: &Path, name: &str) -> Result<Tls, crate::net::tls::TlsError> {
        let at = |file: String| dir.join(file);
        Tls::load(&TlsFiles {
            ca: at("ca.pem".into()),
            cert: at(format!("{name}.pem")),
            key: at(format!("{name}-key.pem")),
            crl: None,
        })
    }

    fn call(words: &[&str], dir: &Path) -> anyhow::Result<()> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: CertsArgs,
        }
        let dir = dir.to_str().unwrap();
        let words = words.iter().map(|word| word.replace("DIR", dir));
        let line = <Line as clap::Parser>::try_parse_from(
            std::iter::once("certs".to_owned()).chain(words),
        )?;
        run(&line.args, Format::Json)
    }

    fn read(dir: &Path, file: &str) -> String {
        std::fs::read_to_string(dir.join(file)).unwrap()
    }

    fn facts(dir: &Path, name: &str) -> Facts {
        Facts::of(&read(dir, &format!("{name}.pem"))).unwrap()
    }

    #[test]
    fn certificates_are_renewed_in_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        call(
            &[
                "--out",
                "DIR",
                "--nodes",
                "n1",
                "--hosts",
                "db",
                "--clients",
                "c",
                "--days",
                "30",
            ],
            dir,
        )
        .unwrap();
        let (now, old) = (crate::env::wall_clock(), facts(dir, "n1"));
        assert_eq!(old.days_left(now), 29);
        let (key, other) = (read(dir, "n1-key.pem"), read(dir, "c.pem"));
        call(&["renew", "DIR", "n1", "--days", "90"], dir).unwrap();
        let new = facts(dir, "n1");
        // A second may have begun since, and the last day is not a whole one.
        assert!((89..=90).contains(&new.days_left(now)));
        assert_eq!(new.hosts, old.hosts);
        assert_eq!(read(dir, "n1-key.pem"), key);
        assert_eq!(read(dir, "c.pem"), other, "it was not asked for");
        tls(dir, "n1").unwrap();
        call(&["renew", "DIR", "--new-keys"], dir).unwrap();
        assert_ne!(read(dir, "n1-key.pem"), key);
        assert_eq!(files::rights(&dir.join("n1-key.pem")).unwrap().mode, 0o600);
        tls(dir, "n1").unwrap();
        tls(dir, "c").unwrap();
        let refused = call(&["renew", "DIR", "n7"], dir).unwrap_err().to_string();
        assert!(
            refused.contains("n7") && refused.contains("c, n1"),
            "{refused}"
        );
        assert!(call(&["renew", "DIR", "--days", "0"], dir).is_err());
        // Another authority takes over: its files are put in the place of the old one's.
        let next = tempfile::tempdir().unwrap();
        call(&["--out", "DIR", "--clients", "x"], next.path()).unwrap();
        for file in ["ca.pem", "ca-key.pem"] {
            std::fs::copy(next.path().join(file), dir.join(file)).unwrap();
        }
        assert!(tls(dir, "n1").is_err());
        call(&["renew", "DIR"], dir).unwrap();
        tls(dir, "n1").unwrap();
    }

    /// A pair of which one file alone is new is none; what a killed call left, the next one finishes.
    #[test]
    fn a_renewal_that_is_cut_short_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        call(&["--out", "DIR", "--nodes", "n1"], dir).unwrap();
        let old = (read(dir, "n1.pem"), read(dir, "n1-key.pem"));
        let authority = authority_in(dir, 30).unwrap().unwrap();
        let new = authority.renew(&facts(dir, "n1"), None).unwrap();
        let (cert, key) = (dir.join("n1.pem"), dir.join("n1-key.pem"));
        files::write_aside(&key, 0o600, &new.key).unwrap();
        files::write_aside(&cert, 0o644, &new.cert).unwrap();
        // Killed before the first rename: the old pair is whole.
        tls(dir, "n1").unwrap();
        assert_eq!((read(dir, "n1.pem"), read(dir, "n1-key.pem")), old);
        // Killed between the two.
        files::put_in_place(&key).unwrap();
        assert!(tls(dir, "n1").is_err());
        call(&["show", "DIR"], dir).unwrap();
        call(&["renew", "DIR"], dir).unwrap();
        tls(dir, "n1").unwrap();
        assert_eq!(read(dir, "n1-key.pem"), new.key);
        // Killed before the certificate was written whole: both are dropped.
        files::write_aside(&key, 0o600, &old.1).unwrap();
        std::fs::write(files::aside(&cert), "-----BEGIN").unwrap();
        call(&["renew", "DIR"], dir).unwrap();
        tls(dir, "n1").unwrap();
        assert_eq!(read(dir, "n1-key.pem"), new.key);
        assert!(!files::exists(&files::aside(&cert)) && !files::exists(&files::aside(&key)));
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
