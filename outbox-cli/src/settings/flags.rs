//! The settings as flags.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::table::{self, Setting};

/// What was given as flags, as it was given: what is wrong with it is told together with what is wrong
/// with the variables and the file. Not `Debug`: some of it is secret.
pub(crate) struct Flags<const RUNNER: bool> {
    pub(super) known: Vec<(&'static Setting, OsString)>,
    /// What looks like a flag and is none, and whatever else nobody asked for.
    pub(super) unknown: Vec<OsString>,
}

/// Where clap puts what it does not know: it would complain of the first alone.
const UNKNOWN: &str = "unknown";

/// The flags of commands that use the database.
pub(crate) type DatabaseFlags = Flags<false>;

/// Those and the runner's.
pub(crate) type RunnerFlags = Flags<true>;

impl<const RUNNER: bool> Flags<RUNNER> {
    fn settings() -> impl Iterator<Item = &'static Setting> {
        let runner = table::OF_RUNNER.iter().filter(|_| RUNNER);
        table::OF_DATABASE.iter().chain(runner).copied()
    }
}

impl<const RUNNER: bool> Args for Flags<RUNNER> {
    fn augment_args(command: Command) -> Command {
        let command = command.args(Self::settings().map(|setting| {
            let repeated = setting.name == table::KAFKA.name;
            Arg::new(setting.name)
                .long(setting.name)
                .value_name(setting.value)
                .help(setting.help)
                .help_heading("Settings")
                .value_parser(clap::value_parser!(OsString))
                .action(match repeated {
                    true => ArgAction::Append,
                    false => ArgAction::Set,
                })
        }));
        // Commands that have arguments of their own leave it to clap.
        if !RUNNER {
            return command;
        }
        command.arg(
            Arg::new(UNKNOWN)
                .num_args(0..)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(OsString))
                .hide(true),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const RUNNER: bool> FromArgMatches for Flags<RUNNER> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self {
            known: Vec::new(),
            unknown: Vec::new(),
        };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in Self::settings() {
            let values = matches.get_many::<OsString>(setting.name);
            let values = values.into_iter().flatten().cloned();
            self.known.extend(values.map(|value| (setting, value)));
        }
        if RUNNER {
            let unknown = matches.get_many::<OsString>(UNKNOWN);
            self.unknown.extend(unknown.into_iter().flatten().cloned());
        }
        Ok(())
    }
}
