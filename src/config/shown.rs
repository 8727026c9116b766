//! The settings that hold, one by one, each in the one way in which all are written.

use std::fmt;

use super::{Config, Options, SecurityConfig};

/// A setting, as a file of settings would have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its key in a file: the option's name with underscores.
    pub key: String,
    /// What holds; `None` if nothing is set and nothing holds instead.
    pub value: Option<toml::Value>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            // Whoever makes a file of this puts the secret in again.
            Some(value) if value.as_str() == Some(HIDDEN) => {
                write!(f, "# {} is set, and not shown", self.key)
            }
            Some(value) => write!(f, "{} = {value}", self.key),
            None => write!(f, "# {} is not set", self.key),
        }
    }
}

/// What must not be shown.
const SECRETS: [&str; 1] = ["join_token"];
/// Stands for it.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// The settings as options again, all of them given. A new setting does not compile until it is added here.
    fn as_options(&self) -> Options {
        let Self {
            name,
            data_dir,
            listen,
            advertise,
            bootstrap,
            join,
            allow,
            join_token,
            acl,
            security,
            metrics_listen,
            metrics_logs_max,
            connections_max,
            connection_age_max,
            descriptors_max: _,
            limits,
            log,
            timing,
            disk_reserve_bytes,
            scrub_bytes_per_second,
            otlp_endpoint,
            rewrite_dead_percent,
        } = self;
        let files = match security {
            SecurityConfig::Mutual(files) => Some(files),
            SecurityConfig::Insecure => None,
        };
        let slow_ms = timing.slow_call.get().as_millis();
        Options {
            name: Some(name.clone()),
            data_dir: Some(data_dir.clone()),
            listen: Some(listen.clone()),
            advertise: advertise.clone(),
            bootstrap: Some(*bootstrap),
            join: Some(join.clone()),
            allow: Some(allow.clone()),
            join_token: Some(join_token.clone()).filter(|token| !token.is_empty()),
            tls_ca: files.map(|files| files.ca.clone()),
            tls_cert: files.map(|files| files.cert.clone()),
            tls_key: files.map(|files| files.key.clone()),
            tls_crl: files.and_then(|files| files.crl.clone()),
            insecure: Some(files.is_none()),
            acl: acl.clone(),
            metrics_listen: metrics_listen.clone(),
            metrics_logs_max: Some(*metrics_logs_max),
            connections_max: Some(*connections_max),
            connection_age_max_seconds: Some(connection_age_max.as_secs()),
            record_bytes_max: Some(limits.record_bytes_max),
            logs_max: Some(limits.logs_max.get()),
            create_logs_on_produce: Some(limits.create_logs_on_produce.get()),
            segment_bytes_max: Some(log.segment_bytes_max),
            disk_reserve_bytes: Some(*disk_reserve_bytes),
            scrub_bytes_per_second: Some(*scrub_bytes_per_second),
            rewrite_dead_percent: Some(*rewrite_dead_percent),
            heartbeat_ms: Some(timing.heartbeat_ms),
            clock_bound_ms: Some(timing.clock_bound_ms),
            slow_call_ms: Some(slow_ms.try_into().unwrap_or(u64::MAX)),
            otlp_endpoint: otlp_endpoint.clone(),
            // How it logs is every command's to say, and no setting of the node alone.
            log_level: None,
            log_format: None,
        }
    }

    /// All settings that there are, in the order of the help; secrets are hidden.
    pub fn settings(&self) -> Vec<Setting> {
        self.as_options().given()
    }

    /// The keys of the settings that differ from another's.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let table = |config: &Self| toml::Table::try_from(config.as_options()).unwrap_or_default();
        let (ours, theirs) = (table(self), table(other));
        let keys = Options::keys().into_iter();
        keys.filter(|key| ours.get(key) != theirs.get(key))
            .collect()
    }
}

impl Options {
    /// All settings that there are, in the order of the help, each as it was given; secrets are hidden.
    pub fn given(&self) -> Vec<Setting> {
        let given = toml::Table::try_from(self).unwrap_or_default();
        let keys = Options::keys().into_iter();
        let setting = keys.map(|key| {
            let value = given.get(&key).cloned();
            let value = match SECRETS.contains(&&*key) {
                true => value.map(|_| HIDDEN.into()),
                false => value,
            };
            Setting { key, value }
        });
        setting.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown is a file of settings by which the same node would start.
    #[test]
    fn what_is_shown_is_read_again() {
        let text = "name = 'n'\ndata_dir = '/d'\nlisten = '127.0.0.1:0'\nbootstrap = true\ninsecure = true\n\
                    allow = ['n2', 'n']\njoin = ['n2:7400']\njoin_token = 'secret'\nheartbeat_ms = '1s'\n\
                    segment_bytes_max = 1048576\nmetrics_listen = ':9090'";
        let config = Options::parse(text, "f".into()).unwrap().resolve().unwrap();
        let shown = config.settings();
        let text: Vec<_> = shown.iter().map(Setting::to_string).collect();
        let text = text.join("\n");
        for part in [
            "heartbeat_ms = \"1s\"",
            "segment_bytes_max = \"1MiB\"",
            "record_bytes_max = \"4088KiB\"",
            "allow = [\"n2\"]",
            "metrics_listen = \"127.0.0.1:9090\"",
            "connections_max = 2048",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("secret"));
        let again = Options::parse(&text, "g".into())
            .unwrap()
            .resolve()
            .unwrap();
        assert_eq!(again.changed(&config), ["join_token"]);
        assert_eq!(shown.len(), Options::keys().len());
    }
}
