//! The settings of a node, each with where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::read;
use crate::config::{Config, ConfigError, Options};

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
    origins: BTreeMap<String, Origin>,
}

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
    origins: BTreeMap<String, Origin>,
}

impl Together {
    /// Where the setting of this key comes from.
    pub(in crate::cli) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

impl SettingsArgs {
    /// Reads the file, if there is one, and lays the other settings over it.
    pub(in crate::cli) fn together(&self) -> anyhow::Result<Together> {
        let mut together = Together {
            options: self.given.options.clone(),
            origins: BTreeMap::new(),
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

    /// The settings, checked.
    pub(in crate::cli) fn resolve(&self) -> anyhow::Result<Config> {
        Ok(self.together()?.options.resolve()?)
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
        let faults =
            |faults: Vec<ConfigError>| faults.into_iter().map(anyhow::Error::new).collect();
        together.options.resolve_all().map_err(faults)
    }

    /// The file of settings.
    pub(in crate::cli) fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}
