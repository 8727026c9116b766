//! What a running node takes up from its files: on SIGHUP, and when they change. Of the file of settings
//! it is the log's level, and what else can change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::Signal;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::settings::SettingsArgs;
use crate::agent::{LIVE_SETTINGS, Policy, Reloads};
use crate::cli::files::{self, Stamp};
use crate::cli::logging::{self, Change};
use crate::cli::output::time;
use crate::config::{Config, Options, SecurityConfig, reserve_beside};
use crate::env::Clock;
use crate::net::tls::{Tls, TlsFiles};

/// Between two looks at the files. What changed is taken up once two looks find it the same, since a certificate and
/// its key are two files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries of what could not be taken up: not the files alone may be at fault.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two warnings that the certificate ends soon.
const WARN_EVERY: Duration = Duration::from_hours(24);
/// From when on it is soon.
const SOON_S: u64 = 30 * 24 * 3600;

/// The files of a node that may change while it runs.
pub struct Reloading {
    tls: Option<TlsFiles>,
    acl: Option<PathBuf>,
    settings: SettingsArgs,
    /// As the node began.
    began: Config,
    /// As they were read last.
    read: Config,
    /// Those that wait for a restart, as they were told last.
    waiting: Vec<String>,
    reloads: Reloads,
    /// As they were when they were taken up last.
    taken: Stamps,
    /// As they were at the last look.
    looked: Stamps,
    refused: Refused,
    /// When they were tried last.
    tried: Instant,
    warned: Option<Instant>,
}

/// What could not be taken up, and why, as it was told last.
#[derive(Debug, Default)]
struct Refused {
    tls: Option<String>,
    acl: Option<String>,
    settings: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stamps {
    tls: Vec<Option<Stamp>>,
    acl: Option<Stamp>,
    settings: Option<Stamp>,
}

/// Keeps why something could not be taken up; whether that is to be told.
fn is_news(told: &mut Option<String>, error: &str) -> bool {
    told.replace(error.to_owned()).as_deref() != Some(error)
}

impl Reloading {
    /// Of a node that has just read them. Its settings come from `settings`.
    pub fn new(settings: SettingsArgs, config: &Config, reloads: Reloads) -> Self {
        let tls = match &config.security {
            SecurityConfig::Mutual(files) => Some(files.clone()),
            SecurityConfig::Insecure => None,
        };
        let mut new = Self {
            tls,
            acl: config.acl.clone(),
            settings,
            began: config.clone(),
            read: config.clone(),
            waiting: Vec::new(),
            reloads,
            taken: Stamps::default(),
            looked: Stamps::default(),
            refused: Refused::default(),
            tried: Instant::now(),
            warned: None,
        };
        new.taken = new.stamps();
        new.looked = new.taken.clone();
        new
    }

    /// Takes them up on each signal, and when they change. Never returns.
    pub async fn run(&mut self, hangup: &mut Signal) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = hangup.recv() => {
                    if told.is_none() {
                        return std::future::pending().await;
                    }
                    tracing::info!("SIGHUP: settings, certificates, policy and the log's level are read again");
                    self.looked = self.stamps();
                    self.refused = Refused::default();
                    if self.take_up_settings() {
                        self.take_up_level();
                    }
                    self.take_up_certificates();
                    self.take_up_policy();
                    self.taken = self.looked.clone();
                }
                _ = looks.tick() => self.look(),
            }
        }
    }

    fn look(&mut self) {
        self.warn_of_end();
        let now = self.stamps();
        let is_settled = now == self.looked;
        self.looked = now;
        let again = self.tried.elapsed() >= AGAIN;
        if !is_settled || (self.looked == self.taken && !again) {
            return;
        }
        let is_due = |refused: &Option<String>| again && refused.is_some();
        let settings = self.looked.settings != self.taken.settings;
        if (settings || is_due(&self.refused.settings)) && self.take_up_settings() {
            self.take_up_level();
        }
        if self.looked.tls != self.taken.tls || is_due(&self.refused.tls) {
            self.take_up_certificates();
        }
        if self.looked.acl != self.taken.acl || is_due(&self.refused.acl) {
            self.take_up_policy();
        }
        self.taken = self.looked.clone();
        self.tried = Instant::now();
    }

    fn stamps(&self) -> Stamps {
        let tls = self.tls.iter().flat_map(|files| {
            let TlsFiles { ca, cert, key, crl } = files;
            [Some(ca), Some(cert), Some(key), crl.as_ref()]
        });
        Stamps {
            tls: tls.flatten().map(|path| files::stamp(path)).collect(),
            acl: self.acl.as_deref().and_then(files::stamp),
            settings: self.settings.file().and_then(files::stamp),
        }
    }

    /// Those that can change at once, all of them or none; the others are named. Whether the file could be read.
    fn take_up_settings(&mut self) -> bool {
        let Some(file) = self.settings.file() else {
            return true;
        };
        let new = match self.resolved() {
            Ok(new) => new,
            Err(error) => {
                let error = format!("{error:#}");
                if is_news(&mut self.refused.settings, &error) {
                    tracing::error!(
                        error,
                        "the settings stay as they were: the file cannot be taken up; `ferrolog config check` tells \
                         what is wrong with it"
                    );
                }
                return false;
            }
        };
        self.refused.settings = None;
        let is_live = |key: &String| LIVE_SETTINGS.contains(&&**key);
        let mut changed = self.read.changed(&new);
        changed.retain(is_live);
        if !changed.is_empty() {
            self.reloads.take_up_settings(&new);
            let held = new.settings().into_iter();
            let held = held.filter(|setting| changed.contains(&setting.key));
            let told: Vec<_> = held.map(|setting| setting.to_string()).collect();
            tracing::info!(file = %file.display(), settings = told.join(", "), "took up the settings");
        }
        let mut waiting = self.began.changed(&new);
        waiting.retain(|key| !is_live(key));
        if !waiting.is_empty() && waiting != self.waiting {
            let settings = waiting.join(", ");
            tracing::warn!(file = %file.display(), settings, "these settings changed, and each needs a restart");
        }
        (self.read, self.waiting) = (new, waiting);
        true
    }

    /// The settings, as they are now.
    fn resolved(&self) -> anyhow::Result<Config> {
        let options = self.settings.together()?.options;
        let is_reserve_said = options.disk_reserve_bytes.is_some();
        let mut new = options.resolve()?;
        if !is_reserve_said {
            // It follows from the size of segments, and another one waits for a restart.
            new.disk_reserve_bytes = reserve_beside(&self.began.log);
        }
        Ok(new)
    }

    /// The whole of them, or nothing.
    fn take_up_certificates(&mut self) {
        let Some(files) = &self.tls else { return };
        let taken = Tls::load(files).map_err(anyhow::Error::new);
        let taken = taken.and_then(|tls| Ok(self.reloads.take_up_certificates(&tls)?));
        match taken {
            Ok(()) => {
                let ends = self.reloads.certificate_ends_s().unwrap_or(0);
                tracing::info!(
                    cert = %files.cert.display(),
                    ends = %time(ends.saturating_mul(1000)),
                    "took up the certificates"
                );
                self.warned = None;
                self.refused.tls = None;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if is_news(&mut self.refused.tls, &error) {
                    self.reloads.refused_certificates(&error);
                    tracing::error!(
                        error,
                        "the certificates stay as they were: the files cannot be taken up; put them right"
                    );
                }
            }
        }
    }

    fn take_up_policy(&mut self) {
        let Some(path) = &self.acl else { return };
        match policy(path) {
            Ok(policy) => {
                self.reloads.take_up_policy(&policy);
                tracing::info!(acl = %path.display(), "took up the policy");
                self.refused.acl = None;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if is_news(&mut self.refused.acl, &error) {
                    self.reloads.refused_policy(&error);
                    tracing::error!(
                        error,
                        "the policy stays as it was: the file cannot be taken up; put it right"
                    );
                }
            }
        }
    }

    fn take_up_level(&self) {
        let Some(path) = self.settings.file() else {
            return;
        };
        let level = super::read(path).and_then(|text| {
            let file = Options::parse(&text, path.to_owned())?;
            Ok(logging::take_up(file.log_level.as_deref())?)
        });
        match level {
            Ok(Change::Same | Change::Now) => {}
            Ok(Change::Overruled(by)) => tracing::warn!(
                level = by,
                "the log's level stays as it was: --log-level or FERROLOG_LOG_LEVEL says it, and stands above the file"
            ),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the log's level stays as it was: the file of settings cannot be read; put it right, and send SIGHUP"
            ),
        }
    }

    fn warn_of_end(&mut self) {
        let Some(ends) = self.reloads.certificate_ends_s() else {
            return;
        };
        let left = ends.saturating_sub(Clock::system().now_ms() / 1000);
        let is_told = self.warned.is_some_and(|told| told.elapsed() < WARN_EVERY);
        if left > SOON_S || is_told {
            return;
        }
        self.warned = Some(Instant::now());
        tracing::warn!(
            ends = %time(ends.saturating_mul(1000)),
            days = left / (24 * 3600),
            "this node's certificate ends soon: put a new one in its place, which is taken up by itself"
        );
    }
}

/// Reads a policy.
pub fn policy(path: &Path) -> anyhow::Result<Policy> {
    Policy::parse(&super::read(path)?).with_context(|| format!("{}", path.display()))
}
