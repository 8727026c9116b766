//! What `ferrolog config check` looks at, in the order in which a start would meet it.

use std::path::Path;

use crate::access::Us;
use crate::agent::{check_addresses, check_certificate, host};
use crate::certs::Facts;
use crate::cli::commands::serve::{SettingsArgs, policy};
use crate::cli::files;
use crate::config::SecurityConfig;
use crate::net::Network;
use crate::net::tcp::TcpNetwork;
use crate::net::tls::{Tls, TlsFiles};

/// All that is wrong.
pub(super) async fn faults(settings: &SettingsArgs) -> Vec<String> {
    let config = match settings.resolve_all() {
        Ok(config) => config,
        Err(faults) => return faults.iter().map(|fault| format!("{fault:#}")).collect(),
    };
    let mut faults = Vec::new();
    let insecure = matches!(config.security, SecurityConfig::Insecure);
    let reached_at = check_addresses(insecure, &config.listen, config.advertise.as_deref());
    if let SecurityConfig::Mutual(files) = &config.security {
        let reached_at = reached_at.as_deref().ok();
        let found = of_certificates(&config.name, reached_at, files);
        let origins = settings.together().ok();
        let origins = origins.and_then(|together| together.mixed_origins());
        faults.extend(found.into_iter().map(|fault| match &origins {
            Some(origins) => format!("{origins}: {fault}"),
            None => fault,
        }));
    }
    if let Some(path) = &config.acl {
        faults.extend(policy(path).err().map(|error| format!("{error:#}")));
    }
    faults.extend(of_directory(&config.data_dir));
    faults.extend(of_address("--listen", &config.listen).await);
    if let Some(addr) = &config.metrics_listen {
        faults.extend(of_address("--metrics-listen", addr).await);
    }
    faults.extend(reached_at.err().map(|error| error.to_string()));
    faults
}

/// Each file that cannot be read; if all can, what is wrong between them.
fn of_certificates(name: &str, reached_at: Option<&str>, tls: &TlsFiles) -> Vec<String> {
    let paths = [
        Some(&tls.ca),
        Some(&tls.cert),
        Some(&tls.key),
        tls.crl.as_ref(),
    ];
    let unread =
        paths
            .into_iter()
            .flatten()
            .filter_map(|path| match files::read_if_present(path) {
                Ok(Some(_)) => None,
                Ok(None) => Some(format!("{} does not exist; check the path", path.display())),
                Err(error) => Some(format!("{error:#}")),
            });
    let mut faults: Vec<_> = unread.collect();
    if !faults.is_empty() {
        return faults;
    }
    match Tls::load(tls) {
        Ok(loaded) => {
            let fits = check_certificate(name, &loaded.identity());
            faults.extend(fits.err().map(|error| error.to_string()));
        }
        Err(error) => faults.push(format!("{:#}", anyhow::Error::new(error))),
    }
    let facts = files::read_if_present(&tls.cert).ok().flatten();
    let facts = facts.and_then(|text| Facts::of(&text).ok());
    let host = reached_at.map_or("", host);
    if let Some(facts) = facts.filter(|facts| !host.is_empty() && !facts.serves_as(host)) {
        faults.push(format!(
            "the certificate does not name {host}, where others reach this node; it names {}: make one with `ferrolog \
             certs --hosts {host}`, or name another address with --advertise",
            match &facts.hosts[..] {
                [] => "no host".to_owned(),
                hosts => hosts.join(", "),
            }
        ));
    }
    faults
}

/// Whether the directory could be opened, or made.
fn of_directory(dir: &Path) -> Option<String> {
    let mut there = dir;
    while !files::exists(there) {
        there = match there.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    if !files::is_dir(there) {
        return Some(format!(
            "{} is no directory, so nothing can be kept in {}: name another one with --data-dir",
            there.display(),
            dir.display()
        ));
    }
    if let Err(error) = files::check_writable(there) {
        return Some(format!(
            "{error:#}: the node could not keep its data in {}",
            dir.display()
        ));
    }
    let rights = files::rights(dir).ok()?;
    Us::now().shares_writing(rights).then(|| {
        format!(
            "others may change what is in {} (mode {:o}): chmod go-w {}",
            dir.display(),
            rights.mode,
            dir.display()
        )
    })
}

/// Whether this machine has the address. A free port is taken for it, since the node itself may hold its own.
async fn of_address(setting: &str, addr: &str) -> Option<String> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let found = TcpNetwork.listen(&format!("{host}:0")).await;
    let error = found.err()?;
    Some(format!(
        "{setting} {addr}: this machine cannot listen there ({error}); name an address of its own"
    ))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test makes what is checked")]
mod tests {
    use super::*;
    use crate::certs::testing::authority;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    async fn told(words: &[&str]) -> Vec<String> {
        let words = std::iter::once(&"check").chain(words);
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
        faults(&line.settings).await
    }

    #[tokio::test]
    async fn all_that_is_wrong_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let file = at("node.toml");
        std::fs::write(
            &file,
            "name = 'N 1'\nlisten = 'n1'\nheartbeat_ms = 1\nlogs_max = 0\nlog_level = 'loud'\nlog_format = 'xml'\n",
        )
        .unwrap();
        let settings = told(&["--config", &file, "--insecure"]).await;
        for part in [
            "--name",
            "--data-dir",
            "no port",
            "--bootstrap",
            "--heartbeat-ms",
            "--logs-max",
            "\"loud\" is no level",
            "log_format is text or json",
        ] {
            assert!(
                settings.iter().any(|fault| fault.contains(part)),
                "{part}: {settings:?}"
            );
        }
        assert_eq!(settings.len(), 8, "{settings:?}");
        // A variable or an option that was not meant for this node stands above its file.
        std::fs::write(
            &file,
            "name = 'n1'\ndata_dir = '/d'\nlisten = '127.0.0.1:0'\ninsecure = true\n",
        )
        .unwrap();
        let mixed = told(&["--config", &file, "--bootstrap", "--tls-cert", "c.pem"]).await;
        let told_why = format!(
            "tls_cert comes from --tls-cert, insecure comes from {file}: --insecure and certificates contradict"
        );
        assert!(mixed[0].starts_with(&told_why), "{mixed:?}");
        std::fs::write(&file, "nam = 'n1'\nzzz = 1\n").unwrap();
        let strangers = told(&["--config", &file]).await;
        assert!(
            strangers[0].contains("line 1: there is no setting \"nam\"; is \"name\" meant?"),
            "{strangers:?}"
        );
        assert!(
            strangers[0].contains("line 2: there is no setting \"zzz\"; `ferrolog"),
            "{strangers:?}"
        );
    }

    #[tokio::test]
    async fn files_certificates_and_addresses_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let authority = authority();
        let own = authority.node("n1", &[]).unwrap();
        for (name, text) in [
            ("ca", authority.ca_pem()),
            ("cert", &own.cert),
            ("key", &own.key),
        ] {
            files::write_new(at(name).as_ref(), 0o600, text).unwrap();
        }
        let (ca, cert, key, data) = (at("ca"), at("cert"), at("key"), at("data/deep"));
        let acl = at("acl.csv");
        std::fs::write(&acl, "p, ops, *, admin\n").unwrap();
        let good = [
            "--name",
            "n1",
            "--data-dir",
            &data,
            "--listen",
            "127.0.0.1:0",
            "--bootstrap",
            "--tls-ca",
            &ca,
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--acl",
            &acl,
        ];
        assert_eq!(told(&good).await, Vec::<String>::new());
        assert!(!files::exists(data.as_ref()), "it only looked");
        let with = |place: usize, other: &'static str| {
            let mut words = good;
            words[place] = other;
            words
        };
        for (words, part) in [
            (with(1, "n2"), "for node n1"),
            (with(3, "/proc/version/data"), "no directory"),
            (with(5, "203.0.113.7:7400"), "cannot listen"),
            (with(8, "/nowhere/ca.pem"), "/nowhere/ca.pem does not exist"),
            (
                with(14, "/nowhere/acl.csv"),
                "/nowhere/acl.csv does not exist",
            ),
        ] {
            let faults = told(&words).await;
            assert!(
                faults.iter().any(|fault| fault.contains(part)),
                "{part}: {faults:?}"
            );
        }
        // Several at once: the policy, the address that others dial, the directory.
        std::fs::write(&acl, "p, ops\n").unwrap();
        std::fs::create_dir(at("open")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(at("open"), mode).unwrap();
        let open = at("open");
        let mut words = good;
        words[3] = &open;
        let faults = told(&[&words[..], &["--advertise", "db.example.com:7400"]].concat()).await;
        for part in ["line 1", "does not name db.example.com", "chmod go-w"] {
            assert!(
                faults.iter().any(|fault| fault.contains(part)),
                "{part}: {faults:?}"
            );
        }
    }
}
