//! `ferrolog certs renew`: certificates anew, in the place of those that are there.
//!
//! A certificate and its key are two files, which nobody can replace at once. So the key stays, and the certificate
//! alone takes another's place, by one rename. With `--new-keys` both are written aside and synced first; then the key
//! takes its place, then the certificate. Whoever reads the pair between the two finds a certificate that is not its
//! key's, and keeps what it has. If this program is killed there, its next call brings that to its end.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use super::{authority_in, days};
use crate::certs::{Authority, Facts, For, LEAF_DAYS};
use crate::cli::output::{print_as, say, time};
use crate::cli::{Format, UsageError, files};

const HELP: &str = "\
Needs ca.pem and ca-key.pem in the directory. Names, hosts and uses stay as they are; so do the keys, unless --new-keys.
A node takes its new certificate up by itself, once it is in its place. To go over to another authority, put its two
files into the directory first, with both authorities in ca.pem.

Examples:
  ferrolog certs renew certs
  ferrolog certs renew certs n1 n2 --days 90 --new-keys";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct RenewArgs {
    /// The directory, as `certs --out` made it
    dir: PathBuf,
    /// The names to renew [default: all that are there]
    names: Vec<String>,
    /// Make new keys, too
    #[arg(long)]
    new_keys: bool,
    /// How many days the certificates are valid for, and no longer than the authority
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS, value_parser = days())]
    days: u32,
}

/// The two files of a name.
pub(super) struct Pair {
    pub name: String,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn new(dir: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        }
    }

    /// Those of a directory, the authority's left out.
    pub fn all(dir: &Path) -> anyhow::Result<Vec<Self>> {
        let files = files::list(dir)?;
        let names = files.iter().filter_map(|file| file.strip_suffix(".pem"));
        let names = names.filter(|name| !name.ends_with("-key") && *name != "ca");
        Ok(names.map(|name| Self::new(dir, name)).collect())
    }

    /// Brings to its end what a killed call left.
    fn finish(&self) -> anyhow::Result<()> {
        let new = files::read_if_present(&files::aside(&self.cert))?;
        let key = files::read_if_present(&self.key)?;
        let fits =
            |new: &str, key: &str| Facts::of(new).is_ok_and(|new| new.fits(key).unwrap_or(false));
        let is_half_done = matches!((&new, &key), (Some(new), Some(key)) if fits(new, key));
        // With its key in place the new certificate is the only one that fits.
        if is_half_done {
            return files::put_in_place(&self.cert);
        }
        files::remove(&files::aside(&self.cert))?;
        files::remove(&files::aside(&self.key))
    }

    fn renew(&self, authority: &Authority, new_keys: bool) -> anyhow::Result<Facts> {
        let read = |path: &Path| match files::read_if_present(path)? {
            Some(text) => Ok(text),
            None => bail!("{} is not there; see `ferrolog certs show`", path.display()),
        };
        let old = Facts::of(&read(&self.cert)?).with_context(|| self.cert.display().to_string())?;
        let kept = match new_keys {
            true => None,
            false => Some(read(&self.key)?),
        };
        let new = authority.renew(&old, kept.as_deref());
        let new = new.with_context(|| format!("renew {}", self.cert.display()))?;
        if new_keys {
            files::write_aside(&self.key, 0o600, &new.key)?;
        }
        files::write_aside(&self.cert, 0o644, &new.cert)?;
        if new_keys {
            files::put_in_place(&self.key)?;
        }
        files::put_in_place(&self.cert)?;
        Facts::of(&new.cert).context("read what was made")
    }
}

pub(super) fn run(args: &RenewArgs, format: Format) -> anyhow::Result<()> {
    let Some(authority) = authority_in(&args.dir, args.days)? else {
        let text = format!(
            "{} has no authority (ca.pem, ca-key.pem), so nothing can be signed; bring its two files",
            args.dir.display()
        );
        return Err(UsageError(text).into());
    };
    let all = Pair::all(&args.dir)?;
    let known: Vec<_> = all.iter().map(|pair| &*pair.name).collect();
    if let Some(stranger) = args
        .names
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        let text = format!(
            "{} has no certificate of {stranger:?}; it has those of {}",
            args.dir.display(),
            known.join(", ")
        );
        return Err(UsageError(text).into());
    }
    let is_meant = |pair: &&Pair| args.names.is_empty() || args.names.contains(&pair.name);
    let (mut lines, mut told) = (Vec::new(), Vec::new());
    for pair in all.iter().filter(is_meant) {
        pair.finish()?;
        let facts = pair.renew(&authority, args.new_keys)?;
        let ends = at(facts.not_after);
        lines.push(format!("renewed {}, until {ends}", pair.cert.display()));
        told.push(json!({ "name": pair.name, "file": pair.cert, "not_after": ends }));
    }
    if lines.is_empty() {
        let text = format!("{} has no certificate to renew", args.dir.display());
        return Err(UsageError(text).into());
    }
    warn_of_authority(&authority, args, format);
    print_as(format, (lines.join("\n"), json!({ "renewed": told })))
}

/// What is signed ends with its authority, however many days were asked for.
fn warn_of_authority(authority: &Authority, args: &RenewArgs, format: Format) {
    let wanted = crate::env::wall_clock() + std::time::Duration::from_hours(24) * args.days;
    if authority.not_after() < wanted && format == Format::Text {
        say(&format!(
            "the authority itself ends at {}, and so does what it signs: make another one in time",
            at(authority.not_after())
        ));
    }
}

/// A time, as people write it, in UTC.
pub(super) fn at(time_of: std::time::SystemTime) -> String {
    let since = time_of
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a file is that of an authority, which is made anew by other means.
pub(super) fn is_authority(facts: &Facts) -> bool {
    facts.is_for == For::Authority
}
