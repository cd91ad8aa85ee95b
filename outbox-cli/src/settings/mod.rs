//! What was given as flags, as variables and in the file, and what is wrong with it.
//!
//! Everything that is wrong is collected, and told at once.

mod environment;
mod file;
mod flags;
mod nearest;
mod route;
mod table;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;

use self::value::Value;
use crate::failure::Failure;

pub(crate) use self::flags::{
    BrokerFlags, DatabaseFlags, DoctorFlags, Flags, RunnerFlags, VerifierFlags,
};
pub(crate) use self::nearest::{did_you_mean, nearest};
pub(crate) use self::route::Route;
pub(crate) use self::table::*;
pub(crate) use self::value::{duration, list, number, one_of};

/// The settings that were given, by their names.
#[derive(Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Value>,
    properties: BTreeMap<String, Value>,
    routes: Vec<Route>,
    /// Names that nobody knows.
    unknown: Vec<String>,
    /// Values that can't be used, and settings that exclude each other.
    invalid: Vec<String>,
}

impl Settings {
    /// Gathers the settings: flags come before variables, and these before the file.
    pub(crate) fn gather<T>(flags: &Flags<T>) -> Self {
        let mut settings = Self::default();
        for (setting, value) in &flags.known {
            settings.take_flag(setting, value);
        }
        settings.refuse_flags(&flags.unknown);
        environment::take(&mut settings, std::env::vars_os());
        if let Some(path) = settings.text(&CONFIG).map(str::to_owned) {
            file::take(&mut settings, &path);
        }
        settings
    }

    /// Those in the text of a file, and no others.
    #[cfg(test)]
    pub(crate) fn of_file(text: &str) -> Self {
        let mut settings = Self::default();
        file::take_text(&mut settings, "outbox.toml", text);
        settings
    }

    fn take_flag(&mut self, setting: &'static Setting, value: &OsString) {
        let origin = format!("`--{}`", setting.name);
        let Some(text) = value.to_str() else {
            self.refuse(&origin, "is no UTF-8");
            return;
        };
        if setting.name != KAFKA.name {
            self.set(setting, text, origin);
            return;
        }
        match text.split_once('=') {
            Some((name, value)) => {
                let origin = format!("`--kafka {name}`");
                self.set_property(name, value, origin);
            }
            // It may be a secret, so it is not shown.
            None => self.refuse(&origin, "takes NAME=VALUE, as in compression.type=lz4"),
        }
    }

    /// Takes note of flags that nobody knows. Whatever does not look like a flag may be the value of one,
    /// and a secret.
    fn refuse_flags(&mut self, unknown: &[OsString]) {
        let mut names = 0;
        for name in unknown.iter().filter_map(|text| text.to_str()) {
            let Some(name) = name.strip_prefix("--") else {
                continue;
            };
            names += 1;
            let name = name.split_once('=').map_or(name, |(name, _)| name);
            let known = table::all().map(|setting| format!("--{}", setting.name));
            let hint = did_you_mean(&format!("--{name}"), known);
            self.unknown.push(format!("`--{name}` is no flag{hint}"));
        }
        if names == 0 && !unknown.is_empty() {
            self.unknown
                .push("every setting is a flag, `--NAME VALUE`; there is something else".into());
        }
    }

    /// Sets what no earlier source has set.
    fn set(&mut self, setting: &'static Setting, text: &str, origin: String) {
        let value = || Value::new(text, origin);
        self.values.entry(setting.name).or_insert_with(value);
    }

    fn set_property(&mut self, name: &str, text: &str, origin: String) {
        let value = || Value::new(text, origin);
        self.properties.entry(name.to_owned()).or_insert_with(value);
    }

    fn refuse(&mut self, origin: &str, why: &str) {
        self.invalid(format!("{origin} {why}"));
    }

    /// Takes note that what was given can't be used. Told once, however often it is looked at.
    pub(crate) fn invalid(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.invalid.contains(&problem) {
            self.invalid.push(problem);
        }
    }

    /// Whether all values can be used, so that it makes sense to try what they are together.
    pub(crate) fn is_valid(&self) -> bool {
        self.invalid.is_empty()
    }

    /// Whether it was given.
    pub(crate) fn has(&self, setting: &Setting) -> bool {
        self.values.contains_key(setting.name)
    }

    /// Where it was given, for people.
    pub(crate) fn origin(&self, setting: &Setting) -> String {
        let value = self.values.get(setting.name);
        value.map_or_else(
            || format!("`{}`", setting.name),
            |value| value.origin.clone(),
        )
    }

    /// Its value as it was given.
    pub(crate) fn text(&self, setting: &Setting) -> Option<&str> {
        let value = self.values.get(setting.name)?;
        Some(&value.text)
    }

    /// Its value, read by `read`, which says what is expected if it can't be read.
    pub(crate) fn value<T>(
        &mut self,
        setting: &Setting,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.values.get(setting.name)?;
        match read(&value.text) {
            Ok(read) => Some(read),
            Err(expected) => {
                let shown = match setting.secret {
                    true => String::new(),
                    false => format!("is {:?}, but ", value.text),
                };
                let problem = format!("{} {shown}{expected}", value.origin);
                self.invalid(problem);
                None
            }
        }
    }

    /// The properties of librdkafka: each with its name, its value and where it was given.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.text.as_str(), value.origin.as_str()))
    }

    /// Which topics go to which sink, in the order in which the file has them.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Makes sure that a setting is there if, and only if, another one makes it necessary.
    pub(crate) fn belongs(&mut self, setting: &Setting, needed: bool, by: &Setting, word: &str) {
        let (here, there) = (self.origin(setting), self.origin(by));
        match (needed, self.has(setting)) {
            (true, false) => self.invalid(format!(
                "{there} is {word:?}, which needs `{}` too ({})",
                setting.name, setting.help
            )),
            (false, true) => self.invalid(format!(
                "{here} is set, but has no effect unless `{}` is {word:?}",
                by.name
            )),
            _ => {}
        }
    }

    /// What was made of the settings, or all that is wrong with them.
    pub(crate) fn verdict<T>(&self, made: Option<T>) -> Result<T, Failure> {
        let problems: Vec<_> = self.unknown.iter().chain(&self.invalid).cloned().collect();
        match made {
            Some(made) if problems.is_empty() => Ok(made),
            _ => Err(Failure::Settings(problems)),
        }
    }
}
