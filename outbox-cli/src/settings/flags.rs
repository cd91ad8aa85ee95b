//! The settings as flags.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::table::{self, Setting};

/// What was given as flags, as it was given: what is wrong with it is told together with what is wrong
/// with the variables and the file. Not `Debug`: some of it is secret.
pub(crate) struct Flags<const RUNNER: bool>(pub(super) Vec<(&'static Setting, OsString)>);

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
        command.args(Self::settings().map(|setting| {
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
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const RUNNER: bool> FromArgMatches for Flags<RUNNER> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self(Vec::new());
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in Self::settings() {
            let values = matches.get_many::<OsString>(setting.name);
            let values = values.into_iter().flatten().cloned();
            self.0.extend(values.map(|value| (setting, value)));
        }
        Ok(())
    }
}
