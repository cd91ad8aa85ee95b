//! The settings in a TOML file.

use std::fs;

use toml::{Table, Value};

use super::table::{self, CONFIG, KAFKA};
use super::{Settings, did_you_mean, route};

/// Takes what is in the file, and takes note of what is not known.
pub(super) fn take(settings: &mut Settings, path: &str) {
    match fs::read_to_string(path) {
        Ok(text) => take_text(settings, path, &text),
        Err(error) => {
            let origin = settings.origin(&CONFIG);
            settings.refuse(&origin, &format!("can't be read: {path}: {error}"));
        }
    }
}

/// Takes what is in the text of such a file.
pub(super) fn take_text(settings: &mut Settings, path: &str, text: &str) {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let problem = syntax(path, text, &error);
            settings.invalid(problem);
            return;
        }
    };
    for (key, value) in &table {
        let origin = format!("`{key}` in {path}");
        if key == KAFKA.name {
            match value {
                Value::Table(properties) => take_properties(settings, path, "", properties),
                _ => settings.refuse(&origin, "is a table: write [kafka]"),
            }
            continue;
        }
        if key == route::NAME {
            route::take(settings, path, value);
            continue;
        }
        let Some(setting) = known().find(|setting| setting.name == key) else {
            let hint = did_you_mean(key, names().map(str::to_owned));
            settings
                .unknown
                .push(format!("{origin} is no setting of the outbox{hint}"));
            continue;
        };
        match scalar(value) {
            Some(text) => settings.set(setting, &text, origin),
            None => settings.refuse(&origin, "is neither text nor a number"),
        }
    }
}

fn known() -> impl Iterator<Item = &'static table::Setting> {
    table::all().filter(|setting| setting.name != CONFIG.name)
}

fn names() -> impl Iterator<Item = &'static str> {
    known()
        .map(|setting| setting.name)
        .chain(std::iter::once(route::NAME))
}

/// TOML reads `linger.ms = 5` as a table `linger`.
fn take_properties(settings: &mut Settings, path: &str, prefix: &str, table: &Table) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let origin = format!("`kafka.{name}` in {path}");
        match (value, scalar(value)) {
            (Value::Table(table), _) => {
                take_properties(settings, path, &format!("{name}."), table);
            }
            (_, Some(text)) => settings.set_property(&name, &text, origin),
            (_, None) => settings.refuse(&origin, "is neither text, a number nor true or false"),
        }
    }
}

pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(boolean) => Some(boolean.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// What TOML's parser says, without the line that it shows: a password may stand there.
fn syntax(path: &str, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("{path}, line {line}, is no TOML: {}", error.message())
}
