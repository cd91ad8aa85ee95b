//! `[[route]]` in the file: which topics go to which sink.

use toml::{Table, Value as Toml};

use super::file::scalar;
use super::value::{Value, read_secret};
use super::{Settings, did_you_mean};

/// The key of the tables.
pub(super) const NAME: &str = "route";

const KEYS: [&str; 3] = ["topics", "sink", "sink-file"];

/// Topics, and where their messages go. Not `Debug`: the sink may hold a password.
pub(crate) struct Route {
    pub(super) topics: Value,
    pub(super) sink: Value,
}

impl Route {
    /// Its patterns, separated by commas, and where they were given.
    pub(crate) fn topics(&self) -> (&str, &str) {
        (&self.topics.text, &self.topics.origin)
    }

    /// The URL of its sink, and where that was given.
    pub(crate) fn sink(&self) -> (&str, &str) {
        (&self.sink.text, &self.sink.origin)
    }
}

/// Takes all tables of the file, and takes note of what is not known.
pub(super) fn take(settings: &mut Settings, path: &str, routes: &Toml) {
    let tables = || routes.as_array()?.iter().map(Toml::as_table).collect();
    let tables: Option<Vec<&Table>> = tables();
    let Some(tables) = tables else {
        let origin = format!("`{NAME}` in {path}");
        settings.refuse(&origin, "is a list of tables: write [[route]]");
        return;
    };
    for (number, table) in (1..).zip(tables) {
        take_one(settings, path, number, table);
    }
}

fn take_one(settings: &mut Settings, path: &str, number: usize, table: &Table) {
    let origin = |key: &str| format!("`{key}` of [[route]] {number} in {path}");
    let mut given = KEYS.map(|_| None);
    for (key, value) in table {
        let Some(place) = KEYS.iter().position(|known| known == key) else {
            let hint = did_you_mean(key, KEYS.map(str::to_owned));
            let what = format!("{} is no key of a route{hint}", origin(key));
            settings.unknown.push(what);
            continue;
        };
        match scalar(value) {
            Some(text) => given[place] = Some(text),
            None => settings.refuse(&origin(key), "is no text"),
        }
    }
    let [topics, sink, file] = given;
    let sink = match (sink, file) {
        (Some(_), Some(_)) => {
            let why = "and `sink` are both set; which one is meant?";
            settings.refuse(&origin("sink-file"), why);
            return;
        }
        (Some(sink), None) => Some(Value::new(&sink, origin("sink"))),
        (None, Some(file)) => match read_secret(&file) {
            Ok(sink) => Some(Value::new(&sink, origin("sink-file"))),
            Err(error) => {
                let why = format!("can't be read: {file}: {error}");
                settings.refuse(&origin("sink-file"), &why);
                return;
            }
        },
        (None, None) => None,
    };
    match (topics, sink) {
        (Some(topics), Some(sink)) => settings.routes.push(Route {
            topics: Value::new(&topics, origin("topics")),
            sink,
        }),
        (None, _) => settings.refuse(
            &origin("topics"),
            "is missing: the topics that go there, as \"orders, orders.*\"",
        ),
        (_, None) => settings.refuse(
            &origin("sink"),
            "is missing: where they go, as \"amqp://user:password@host\"",
        ),
    }
}
