//! The settings as variables of the environment.

use std::ffi::OsString;

use super::table::{self, DATABASE_URL, KAFKA};
use super::value::read_secret;
use super::{Setting, Settings, nearest};

const PREFIX: &str = "OUTBOX_";
const KAFKA_PREFIX: &str = "OUTBOX_KAFKA_";
const FILE: &str = "_FILE";

/// Takes what is set, and takes note of what is not known. A variable without a text counts as not set.
pub(super) fn take(
    settings: &mut Settings,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) {
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| is_ours(name) && !value.is_empty())
        .collect();
    // `OUTBOX_DATABASE_URL` before `DATABASE_URL`, and messages always in the same order.
    variables.sort_by(|(one, _), (other, _)| {
        (!one.starts_with(PREFIX), one).cmp(&(!other.starts_with(PREFIX), other))
    });
    let names: Vec<_> = variables.iter().map(|(name, _)| name.clone()).collect();
    for (name, value) in variables {
        let origin = format!("`{name}`");
        let Some(meaning) = meaning(&name) else {
            let hint = nearest(&name, known()).map(|name| format!("; did you mean `{name}`?"));
            let hint = hint.unwrap_or_default();
            settings
                .unknown
                .push(format!("{origin} is no variable of the outbox{hint}"));
            continue;
        };
        let Ok(text) = value.into_string() else {
            settings.refuse(&origin, "is no UTF-8");
            continue;
        };
        let text = match meaning.in_file {
            false => text,
            true => {
                let other = name.trim_end_matches(FILE);
                if names.iter().any(|name| name == other) {
                    let why = format!("and `{other}` are both set; which one is meant?");
                    settings.refuse(&origin, &why);
                    continue;
                }
                match read_secret(&text) {
                    Ok(content) => content,
                    Err(error) => {
                        let why = format!("names a file that can't be read: {text}: {error}");
                        settings.refuse(&origin, &why);
                        continue;
                    }
                }
            }
        };
        match meaning.what {
            What::Setting(setting) => settings.set(setting, &text, origin),
            What::Property(property) => settings.set_property(&property, &text, origin),
        }
    }
}

fn is_ours(name: &str) -> bool {
    // `cargo xtask up` tells tests by these where its servers are.
    let of_tests = name.starts_with("OUTBOX_TEST_");
    let ours = name.starts_with(PREFIX) && !of_tests && !is_link_of_kubernetes(name);
    ours || name == "DATABASE_URL"
}

/// Kubernetes gives every container variables about a service; one that is called `outbox` gets
/// OUTBOX_PORT, OUTBOX_SERVICE_HOST and so on.
fn is_link_of_kubernetes(name: &str) -> bool {
    name == "OUTBOX_PORT"
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP"))
        || name.ends_with("_PORT")
}

struct Meaning {
    what: What,
    /// The variable names a file that holds the value.
    in_file: bool,
}

enum What {
    Setting(&'static Setting),
    Property(String),
}

fn meaning(name: &str) -> Option<Meaning> {
    let setting = |what| Meaning {
        what: What::Setting(what),
        in_file: false,
    };
    if name == "DATABASE_URL" {
        return Some(setting(&DATABASE_URL));
    }
    if let Some(property) = name.strip_prefix(KAFKA_PREFIX) {
        return Some(meaning_of_property(property));
    }
    let named = |name: &str| {
        let mut settings = table::all().filter(|setting| setting.name != KAFKA.name);
        settings.find(|setting| setting.variable() == name)
    };
    let in_file = || {
        let found = named(name.strip_suffix(FILE)?).filter(|setting| setting.secret)?;
        Some(Meaning {
            what: What::Setting(found),
            in_file: true,
        })
    };
    named(name).map(setting).or_else(in_file)
}

/// The property that is called so in capitals; some of those that exist end in `.file` themselves.
fn meaning_of_property(capitals: &str) -> Meaning {
    let known = |capitals: &str| {
        let capitals_of = |name: &str| name.replace('.', "_").to_uppercase();
        table::properties().find(|name| capitals_of(name) == capitals)
    };
    let dotted = |capitals: &str| capitals.to_lowercase().replace('_', ".");
    let (property, in_file) = match (known(capitals), capitals.strip_suffix(FILE)) {
        (Some(property), _) => (property.to_owned(), false),
        (None, Some(rest)) => (
            known(rest).map_or_else(|| dotted(rest), str::to_owned),
            true,
        ),
        (None, None) => (dotted(capitals), false),
    };
    Meaning {
        what: What::Property(property),
        in_file,
    }
}

fn known() -> impl Iterator<Item = String> {
    table::all().flat_map(|setting| {
        let variable = setting.variable();
        let in_file = setting.secret.then(|| format!("{variable}{FILE}"));
        std::iter::once(variable).chain(in_file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(variables: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        let variables = variables.iter();
        take(
            &mut settings,
            variables.map(|(name, value)| (name.into(), value.into())),
        );
        settings
    }

    #[test]
    fn a_services_own_variables_are_not_ours() {
        let settings = taken(&[
            ("OUTBOX_PORT", "tcp://10.0.0.1:80"),
            ("OUTBOX_SERVICE_HOST", "10.0.0.1"),
            ("OUTBOX_SERVICE_PORT_HTTP", "80"),
            ("OUTBOX_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("OUTBOX_METRICS_PORT", "tcp://10.0.0.2:80"),
        ]);
        assert!(settings.verdict(Some(())).is_ok());
        assert!(
            taken(&[("OUTBOX_LEASES", "15s")])
                .verdict(Some(()))
                .is_err()
        );
    }

    #[test]
    fn our_own_url_comes_before_everybodys() {
        let settings = taken(&[("DATABASE_URL", "theirs"), ("OUTBOX_DATABASE_URL", "ours")]);
        assert_eq!(settings.text(&DATABASE_URL), Some("ours"));
        let settings = taken(&[("DATABASE_URL", "theirs"), ("OUTBOX_DATABASE_URL", "")]);
        assert_eq!(settings.text(&DATABASE_URL), Some("theirs"));
    }

    #[test]
    fn properties_of_librdkafka_are_named_in_capitals() {
        let settings = taken(&[
            ("OUTBOX_KAFKA_COMPRESSION_TYPE", "lz4"),
            ("OUTBOX_KAFKA_LOG_LEVEL", "7"),
            ("OUTBOX_KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE", "/a.jwt"),
        ]);
        let properties = settings.properties().map(|(name, value, _)| (name, value));
        let properties: Vec<_> = properties.collect();
        assert_eq!(
            properties,
            [
                ("compression.type", "lz4"),
                ("log_level", "7"),
                ("sasl.oauthbearer.assertion.file", "/a.jwt"),
            ]
        );
    }
}
