//! The settings as flags.

use std::ffi::OsString;
use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::table::{self, Setting};

/// What was given as flags, as it was given: what is wrong with it is told together with what is wrong
/// with the variables and the file. Not `Debug`: some of it is secret.
pub(crate) struct Flags<T> {
    pub(super) known: Vec<(&'static Setting, OsString)>,
    /// What looks like a flag and is none, and whatever else nobody asked for.
    pub(super) unknown: Vec<OsString>,
    of: PhantomData<T>,
}

/// Which settings are flags of a command.
pub(crate) trait Taken {
    const SETTINGS: &'static [&'static [&'static Setting]];

    /// Whether clap may not complain of what it does not know, so that all of it is told at once. Commands
    /// that have arguments of their own leave it to clap.
    const ALL_AT_ONCE: bool = false;

    /// The flags that the command has besides, of those that are told of all at once.
    const OTHERS: &'static [&'static str] = &["help"];
}

/// The settings of commands that use the database.
pub(crate) enum OfDatabase {}

/// Those and the runner's.
pub(crate) enum OfRunner {}

/// The same, of `outbox doctor`.
pub(crate) enum OfDoctor {}

/// Those of commands that use the brokers alone.
pub(crate) enum OfBrokers {}

/// Those of `outbox verify`, which compares the two.
pub(crate) enum OfBoth {}

impl Taken for OfDatabase {
    const SETTINGS: &'static [&'static [&'static Setting]] = &[table::OF_DATABASE];
}

impl Taken for OfRunner {
    const SETTINGS: &'static [&'static [&'static Setting]] =
        &[table::OF_DATABASE, table::OF_RUNNER];
    const ALL_AT_ONCE: bool = true;
}

impl Taken for OfDoctor {
    const SETTINGS: &'static [&'static [&'static Setting]] = OfRunner::SETTINGS;
    const ALL_AT_ONCE: bool = OfRunner::ALL_AT_ONCE;
    const OTHERS: &'static [&'static str] = &["help", "json", "old-transaction"];
}

impl Taken for OfBrokers {
    const SETTINGS: &'static [&'static [&'static Setting]] = &[&[&table::CONFIG], table::OF_READER];
}

impl Taken for OfBoth {
    const SETTINGS: &'static [&'static [&'static Setting]] =
        &[table::OF_DATABASE, table::OF_READER, table::OF_VERIFIER];
}

/// Where clap puts what it does not know: it would complain of the first alone.
const UNKNOWN: &str = "unknown";

/// The flags of commands that use the database.
pub(crate) type DatabaseFlags = Flags<OfDatabase>;

/// Those and the runner's.
pub(crate) type RunnerFlags = Flags<OfRunner>;

/// The flags of `outbox doctor`.
pub(crate) type DoctorFlags = Flags<OfDoctor>;

/// The flags of commands that use the brokers alone.
pub(crate) type BrokerFlags = Flags<OfBrokers>;

/// The flags of commands that compare the two.
pub(crate) type VerifierFlags = Flags<OfBoth>;

impl<T: Taken> Flags<T> {
    fn settings() -> impl Iterator<Item = &'static Setting> {
        T::SETTINGS.iter().copied().flatten().copied()
    }

    /// Behind the first flag that it does not know, clap takes all there is for more of it.
    fn sort(&mut self, words: impl IntoIterator<Item = OsString>) {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.to_str().and_then(|text| text.strip_prefix("--")) else {
                self.unknown.push(word);
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.into())),
                None => (flag, None),
            };
            if T::OTHERS.contains(&name) {
                continue;
            }
            match Self::settings().find(|setting| setting.name == name) {
                Some(setting) => {
                    let value = value.or_else(|| words.next());
                    self.known.push((setting, value.unwrap_or_default()));
                }
                None => self.unknown.push(word),
            }
        }
    }
}

impl<T: Taken> Args for Flags<T> {
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
        if !T::ALL_AT_ONCE {
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

impl<T: Taken> FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self {
            known: Vec::new(),
            unknown: Vec::new(),
            of: PhantomData,
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
        if T::ALL_AT_ONCE {
            let unknown = matches.get_many::<OsString>(UNKNOWN);
            self.sort(unknown.into_iter().flatten().cloned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_doctor(words: &[&str]) -> DoctorFlags {
        let command = crate::doctor::Args::augment_args(Command::new("doctor"));
        let matches = command.try_get_matches_from(words).unwrap();
        DoctorFlags::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn what_stands_behind_an_unknown_flag_is_known_all_the_same() {
        let flags = of_doctor(&[
            "doctor",
            "--lease",
            "1s",
            "--leese",
            "2s",
            "--grace",
            "3s",
            "--json",
            "--name=a=b",
            "--help",
            "--topics",
        ]);
        let known: Vec<_> = flags
            .known
            .iter()
            .map(|(setting, value)| (setting.name, value.to_str().unwrap()))
            .collect();
        for expected in [
            ("lease", "1s"),
            ("grace", "3s"),
            ("name", "a=b"),
            ("topics", ""),
        ] {
            assert!(known.contains(&expected), "{expected:?}: {known:?}");
        }
        assert_eq!(flags.unknown, ["--leese", "2s"]);
    }

    #[test]
    fn the_doctors_own_flags_are_known() {
        let command = crate::doctor::Args::augment_args(Command::new("doctor"));
        let own = command
            .get_arguments()
            .filter_map(|argument| argument.get_long());
        let settings: Vec<_> = DoctorFlags::settings()
            .map(|setting| setting.name)
            .collect();
        let own: Vec<_> = own.filter(|name| !settings.contains(name)).collect();
        for name in &own {
            assert!(OfDoctor::OTHERS.contains(name), "{name}");
        }
        assert!(!own.is_empty());
    }
}
