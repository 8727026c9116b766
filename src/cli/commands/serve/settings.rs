//! The settings of a node, each with where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::read;
use crate::cli::logging::{self, Asked, LOG_FORMAT, LOG_LEVEL, LogFormat, VERBOSE};
use crate::config::{Config, ConfigError, Options, Setting};

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
    /// Nobody set it.
    Default,
    /// A file of settings.
    File(PathBuf),
    /// A variable of the environment, of this name.
    Variable(String),
    /// An option on the command line, of this name.
    Flag(String),
}

impl Origin {
    /// The kind of place, in one word.
    pub(in crate::cli) fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File(_) => "file",
            Self::Variable(_) => "variable",
            Self::Flag(_) => "flag",
        }
    }

    /// The same in a sentence.
    fn described(&self) -> String {
        match self {
            Self::Default => "the defaults".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Variable(name) => format!("the variable {name}"),
            Self::Flag(name) => name.clone(),
        }
    }

    /// Which place of its kind.
    pub(in crate::cli) fn place(&self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::File(path) => Some(path.display().to_string()),
            Self::Variable(name) | Self::Flag(name) => Some(name.clone()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The settings of the command line and of the environment, and which of the two each comes from.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Given {
    options: Options,
    log: Asked,
    origins: BTreeMap<String, Origin>,
}

/// How the node logs is every command's to say, in these ways.
const OF_LOG: [(&str, &str, &str); 2] = [
    (LOG_LEVEL, "--log-level", "FERROLOG_LOG_LEVEL"),
    (LOG_FORMAT, "--log-format", "FERROLOG_LOG_FORMAT"),
];

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let command = Options::augment_args(Command::new("settings"));
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            let name = |name: Option<&str>| name.unwrap_or(id).to_owned();
            let origin = match matches.value_source(id) {
                Some(ValueSource::CommandLine) => {
                    Origin::Flag(format!("--{}", name(arg.get_long())))
                }
                Some(ValueSource::EnvVariable) => {
                    Origin::Variable(name(arg.get_env().and_then(|name| name.to_str())))
                }
                _ => continue,
            };
            self.origins.insert(id.to_owned(), origin);
        }
        for (id, flag, variable) in OF_LOG {
            // A command that has no such options would panic if it were asked for them.
            let is_there = matches.try_contains_id(id).unwrap_or(false);
            let source = is_there.then(|| matches.value_source(id)).flatten();
            let origin = match source {
                Some(ValueSource::CommandLine) => Origin::Flag(flag.to_owned()),
                Some(ValueSource::EnvVariable) => Origin::Variable(variable.to_owned()),
                _ => continue,
            };
            self.origins.insert(id.to_owned(), origin);
        }
        self.log = Asked::of(matches);
        self.options = Options::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

/// Where a node's settings are.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SettingsArgs {
    /// A TOML file of settings; its keys are these options' names with underscores
    #[arg(long, env = "FERROLOG_CONFIG", value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// The settings together, not checked yet.
pub(in crate::cli) struct Together {
    pub(in crate::cli) options: Options,
    log: Asked,
    origins: BTreeMap<String, Origin>,
    has_file: bool,
}

/// The settings about who may call, and whom.
const SECURITY: [&str; 5] = ["tls_ca", "tls_cert", "tls_key", "tls_crl", "insecure"];

impl Together {
    /// Where the setting of this key comes from.
    pub(in crate::cli) fn origin(&self, key: &str) -> Origin {
        let usual = match key == LOG_LEVEL && self.log.verbose > 0 {
            true => Origin::Flag(format!("--{VERBOSE}")),
            false => Origin::Default,
        };
        self.origins.get(key).cloned().unwrap_or(usual)
    }

    /// An error that may come of what the certificates' settings say together, with where they come from if that is not one
    /// place: a variable that was meant for clients stands above a file.
    pub(in crate::cli) fn with_origins(&self, error: anyhow::Error) -> anyhow::Error {
        match self.mixed_origins() {
            Some(origins) => error.context(origins),
            None => error,
        }
    }

    /// A fault of the settings, with where they come from if they contradict each other.
    pub(in crate::cli) fn explained(&self, fault: ConfigError) -> anyhow::Error {
        match fault {
            ConfigError::Contradicting(_) => self.with_origins(fault.into()),
            fault => fault.into(),
        }
    }

    /// Where the settings about certificates come from, unless all of them come from one kind of place.
    pub(in crate::cli) fn mixed_origins(&self) -> Option<String> {
        let set = SECURITY
            .iter()
            .filter_map(|key| Some((key, self.origins.get(*key)?)));
        let set: Vec<_> = set.collect();
        let is_mixed = set.windows(2).any(|two| two[0].1.kind() != two[1].1.kind());
        let is_over_file = self.has_file && set.iter().any(|(_, origin)| origin.kind() != "file");
        let told = set
            .iter()
            .map(|(key, origin)| format!("{key} comes from {}", origin.described()));
        (is_mixed || is_over_file).then(|| told.collect::<Vec<_>>().join(", "))
    }

    /// How the node logs: the command line and the environment stand above the file.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub(in crate::cli) fn of_log(&self) -> anyhow::Result<[Setting; 2]> {
        let (level, format) = (&self.options.log_level, &self.options.log_format);
        if let Some(fault) = logging::faults(level.as_deref(), format.as_deref()).pop() {
            return Err(fault.into());
        }
        let (asked, usual) = (&self.log, (self.log.usual_level(), LogFormat::Text.name()));
        let level = asked.level.as_deref().or(level.as_deref());
        let format = asked.format.or(format.as_deref());
        let held = [
            (LOG_LEVEL, level.unwrap_or(usual.0)),
            (LOG_FORMAT, format.unwrap_or(usual.1)),
        ];
        Ok(held.map(|(key, value)| Setting {
            key: key.to_owned(),
            value: Some(value.into()),
        }))
    }
}

impl SettingsArgs {
    /// Reads the file, if there is one, and lays the other settings over it.
    pub(in crate::cli) fn together(&self) -> anyhow::Result<Together> {
        let mut together = Together {
            options: self.given.options.clone(),
            log: self.given.log.clone(),
            origins: BTreeMap::new(),
            has_file: self.config.is_some(),
        };
        if let Some(path) = &self.config {
            let file = Options::parse(&read(path)?, path.clone())?;
            let keys = toml::Table::try_from(&file)?.into_iter();
            let origin = |(key, _): (String, toml::Value)| (key, Origin::File(path.clone()));
            together.origins = keys.map(origin).collect();
            together.options = together.options.over(file);
        }
        together.origins.extend(self.given.origins.clone());
        Ok(together)
    }

    /// All that is wrong with the settings, or the settings.
    pub(in crate::cli) fn resolve_all(&self) -> Result<Config, Vec<anyhow::Error>> {
        let together = match self.together() {
            Ok(together) => together,
            Err(error) => {
                // What stands beside the file may be wrong, too, but would be judged without it.
                return Err(vec![error]);
            }
        };
        let options = &together.options;
        let of_log = logging::faults(options.log_level.as_deref(), options.log_format.as_deref());
        let mut faults: Vec<_> = of_log.into_iter().map(anyhow::Error::new).collect();
        match together.options.clone().resolve_all() {
            Ok(config) if faults.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(more) => faults.extend(more.into_iter().map(|fault| together.explained(fault))),
        }
        Err(faults)
    }

    /// The file of settings.
    pub(in crate::cli) fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}
