//! `ferrolog config`: whether a node would start with its settings, and where each of them comes from.

mod check;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::serve::{SettingsArgs, Together};
use crate::cli::Format;
use crate::cli::exit::EXIT_FAILURE;
use crate::cli::output::{Told, counted, print_as, table};
use crate::config::Setting;

const HELP: &str = "\
Takes the options, variables and file of `ferrolog serve`, and starts nothing.

Examples:
  ferrolog config check --config n1.toml
  ferrolog config show --config n1.toml --origin
  ferrolog config show --config n1.toml > whole.toml                (all settings, as a file of settings)";

const CHECK_HELP: &str = "\
Looks at the settings themselves, at the file of the policy, at the certificates and their key, at the data directory,
and whether this machine has the address to listen on. It takes no port, and may run beside the node.
Exit code 1: something is wrong; all of it is told.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell all that is wrong with a node's settings, without starting it
    #[command(after_help = CHECK_HELP)]
    Check(Box<SettingsArgs>),
    /// Show the settings that hold, and where each comes from
    Show(Box<ShowArgs>),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Show where each comes from: a default, the file, a variable of the environment, a flag
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(in crate::cli) async fn run(args: ConfigArgs, format: Format) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Check(settings) => {
            let faults = check::faults(&settings).await;
            let is_fine = faults.is_empty();
            print_as(format, checked(&faults))?;
            Ok(match is_fine {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(EXIT_FAILURE),
            })
        }
        Verb::Show(args) => {
            let together = args.settings.together()?;
            let held = together.options.clone().resolve();
            // What does not fit together is shown as it was given: where it comes from is what helps.
            let settings = match &held {
                Ok(held) => held.settings(),
                Err(_) => together.options.given(),
            };
            print_as(format, shown(&args, &together, settings)?)?;
            held.map_err(|fault| together.explained(fault))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn checked(faults: &[String]) -> Told {
    let text = match faults {
        [] => "the node would start with these settings".to_owned(),
        faults => {
            let lines: Vec<_> = faults.iter().map(|fault| format!("- {fault}")).collect();
            let head = counted(faults.len() as u64, "thing is wrong", "things are wrong");
            format!("{head}:\n{}", lines.join("\n"))
        }
    };
    (text, json!({ "faults": faults }))
}

fn shown(args: &ShowArgs, together: &Together, mut settings: Vec<Setting>) -> anyhow::Result<Told> {
    settings.extend(together.of_log()?);
    let value = |setting: &Setting| setting.value.as_ref().map(ToString::to_string);
    let row = |setting: &Setting| {
        let value = value(setting).unwrap_or_else(|| "-".to_owned());
        vec![
            setting.key.clone(),
            value,
            together.origin(&setting.key).to_string(),
        ]
    };
    let text = match args.origin {
        true => {
            let heads = ["SETTING", "VALUE", "ORIGIN"].map(str::to_owned).to_vec();
            let rows: Vec<_> = std::iter::once(heads)
                .chain(settings.iter().map(row))
                .collect();
            table(&rows)
        }
        false => settings
            .iter()
            .map(Setting::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let told = settings.iter().map(|setting| {
        let origin = together.origin(&setting.key);
        json!({
            "key": setting.key,
            "value": setting.value,
            "origin": origin.kind(),
            "from": origin.place(),
        })
    });
    Ok((text, json!({ "settings": told.collect::<Vec<Value>>() })))
}
