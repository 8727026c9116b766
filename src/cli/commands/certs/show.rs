//! `ferrolog certs show`: what stands in the certificates of a directory, and whether their keys fit.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::renew::{Pair, at, is_authority};
use crate::access::Us;
use crate::certs::{Facts, For};
use crate::cli::output::{counted, print_as};
use crate::cli::{Format, files};
use crate::env::wall_clock;
use crate::net::tls::{Tls, TlsFiles};

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The directory, as `certs --out` made it
    dir: PathBuf,
}

/// What is known of one certificate and of its key.
struct Shown {
    file: PathBuf,
    facts: Result<Facts, String>,
    key: PathBuf,
    /// Its mode; `None` if it is not there.
    key_mode: Option<u32>,
    /// What is wrong with any of it.
    faults: Vec<String>,
}

pub(super) fn run(args: &ShowArgs, format: Format) -> anyhow::Result<()> {
    let now = wall_clock();
    let ca = Pair::new(&args.dir, "ca");
    let mut pairs = Pair::all(&args.dir)?;
    if files::exists(&ca.cert) {
        pairs.insert(0, ca);
    }
    let shown: Vec<_> = pairs
        .iter()
        .map(|pair| Shown::look(&args.dir, pair, now))
        .collect();
    let mut text: Vec<_> = shown.iter().map(|shown| shown.text(now)).collect();
    if text.is_empty() {
        text.push(format!("{} has no certificates", args.dir.display()));
    }
    let told: Vec<_> = shown.iter().map(|shown| shown.json(now)).collect();
    print_as(format, (text.join("\n\n"), json!({ "certificates": told })))
}

impl Shown {
    fn look(dir: &Path, pair: &Pair, now: SystemTime) -> Self {
        let read = files::read_if_present(&pair.cert);
        let text = read
            .map(Option::unwrap_or_default)
            .map_err(|error| format!("{error:#}"));
        let facts = text.and_then(|text| Facts::of(&text).map_err(|error| error.to_string()));
        let mut shown = Self {
            file: pair.cert.clone(),
            facts,
            key: pair.key.clone(),
            key_mode: files::rights(&pair.key).ok().map(|rights| rights.mode),
            faults: Vec::new(),
        };
        shown.judge(dir, now);
        if files::exists(&files::aside(&pair.cert)) || files::exists(&files::aside(&pair.key)) {
            let left = format!(
                "a renewal was cut short: `ferrolog certs renew {} {}` finishes it",
                dir.display(),
                pair.name
            );
            shown.faults.push(left);
        }
        shown
    }

    fn judge(&mut self, dir: &Path, now: SystemTime) {
        let facts = match &self.facts {
            Ok(facts) => facts,
            Err(error) => return self.faults.push(error.clone()),
        };
        let faults = &mut self.faults;
        if !facts.is_valid(now) {
            faults.push(match facts.not_before > now {
                true => "it is not valid yet, by the clock of this machine".to_owned(),
                false => "it has expired".to_owned(),
            });
        }
        let key = files::read_if_present(&self.key);
        match key {
            Ok(Some(key)) => match facts.fits(&key) {
                Ok(true) => {}
                Ok(false) => faults.push("the key is not the certificate's".to_owned()),
                Err(error) => faults.push(error.to_string()),
            },
            // Where certificates are used, the authority's key has no business to be.
            Ok(None) if is_authority(facts) => {}
            Ok(None) => faults.push(format!("{} is not there", self.key.display())),
            Err(error) => faults.push(format!("{error:#}")),
        }
        let open = files::rights(&self.key).is_ok_and(|rights| Us::now().shares_secret(rights));
        if open {
            faults.push(format!(
                "others may read the key: chmod 600 {}",
                self.key.display()
            ));
        }
        let ca = dir.join("ca.pem");
        if faults.is_empty() && !is_authority(facts) && files::exists(&ca) {
            let (cert, key) = (self.file.clone(), self.key.clone());
            let loaded = Tls::load(&TlsFiles {
                ca,
                cert,
                key,
                crl: None,
            });
            faults.extend(loaded.err().map(|error| error.to_string()));
        }
    }

    fn text(&self, now: SystemTime) -> String {
        let mut lines = vec![self.file.display().to_string()];
        let mut line = |head: &str, text: String| lines.push(format!("  {head:<8} {text}"));
        if let Ok(facts) = &self.facts {
            let is_for = match &facts.is_for {
                For::Authority => "an authority".to_owned(),
                For::Node(name) => format!("node {name}"),
                For::Client if facts.serves => "a server that names no node".to_owned(),
                For::Client => "a client".to_owned(),
            };
            line("for", is_for);
            line("subject", facts.subject.clone());
            let names: Vec<_> = facts.hosts.iter().chain(&facts.uris).cloned().collect();
            if !names.is_empty() {
                line("names", names.join(", "));
            }
            line("issuer", facts.issuer.clone());
            let (from, until) = (at(facts.not_before), at(facts.not_after));
            let left = match u64::try_from(facts.days_left(now)) {
                Ok(days) => format!("{} left", counted(days, "day", "days")),
                Err(_) => "over".to_owned(),
            };
            line("valid", format!("{from} to {until}, {left}"));
        }
        if let Some(mode) = self.key_mode {
            line("key", format!("{}, mode {mode:o}", self.key.display()));
        }
        for fault in &self.faults {
            line("WRONG", fault.clone());
        }
        lines.join("\n")
    }

    fn json(&self, now: SystemTime) -> Value {
        let facts = self.facts.as_ref().ok();
        let is_for = facts.map(|facts| match &facts.is_for {
            For::Authority => "authority",
            For::Node(_) => "node",
            For::Client => "client",
        });
        let node = facts.and_then(|facts| match &facts.is_for {
            For::Node(name) => Some(name),
            _ => None,
        });
        json!({
            "file": self.file,
            "for": is_for,
            "node": node,
            "subject": facts.map(|facts| &facts.subject),
            "common_name": facts.map(|facts| &facts.common_name),
            "hosts": facts.map(|facts| &facts.hosts),
            "uris": facts.map(|facts| &facts.uris),
            "issuer": facts.map(|facts| &facts.issuer),
            "not_before": facts.map(|facts| at(facts.not_before)),
            "not_after": facts.map(|facts| at(facts.not_after)),
            "days_left": facts.map(|facts| facts.days_left(now)),
            "key": self.key,
            "key_mode": self.key_mode.map(|mode| format!("{mode:o}")),
            "faults": self.faults,
        })
    }
}
