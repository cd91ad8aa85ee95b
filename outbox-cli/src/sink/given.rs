//! What was said of where messages go.

use super::kafka;
use super::kind::Kind;
use crate::brokers;
use crate::settings::{BROKERS, SINK, Settings};

/// The URL of a sink, and where it was given. Not `Debug`: it may hold a password.
pub(super) struct Given {
    pub(super) url: String,
    pub(super) origin: String,
    /// The patterns of the topics that go there, if not all do, and where these were given.
    pub(super) topics: Option<(String, String)>,
}

/// All URLs that were given.
pub(super) fn all(settings: &Settings) -> Vec<Given> {
    let one = settings.text(&SINK).map(|url| Given {
        url: url.to_owned(),
        origin: settings.origin(&SINK),
        topics: None,
    });
    let routes = settings.routes().iter().map(|route| {
        let ((topics, at), (url, origin)) = (route.topics(), route.sink());
        Given {
            url: url.to_owned(),
            origin: origin.to_owned(),
            topics: Some((topics.to_owned(), at.to_owned())),
        }
    });
    one.into_iter().chain(routes).collect()
}

/// Whether anything says where messages go.
pub(crate) fn is_given(settings: &Settings) -> bool {
    settings.has(&SINK) || settings.has(&BROKERS) || !settings.routes().is_empty()
}

/// Takes note if several settings say it.
pub(super) fn refuse_several(settings: &mut Settings) {
    let mut origins: Vec<_> = [&SINK, &BROKERS]
        .into_iter()
        .filter(|setting| settings.has(setting))
        .map(|setting| settings.origin(setting))
        .collect();
    if !settings.routes().is_empty() {
        origins.push("[[route]]".to_owned());
    }
    if origins.len() > 1 {
        settings.invalid(format!(
            "{} say where messages go; give one of them alone",
            origins.join(" and ")
        ));
    }
}

/// The brokers for commands that read from Kafka, and from nothing else.
pub(crate) fn brokers_to_read(settings: &mut Settings) -> Option<String> {
    if settings.has(&BROKERS) || !is_given(settings) {
        if settings.has(&SINK) {
            refuse_several(settings);
        }
        return brokers::bootstrap(settings);
    }
    let given = all(settings);
    let mut found = Vec::new();
    for Given { url, origin, .. } in &given {
        let brokers = match Kind::of(url) {
            Ok(Kind::Kafka) => kafka::brokers(url),
            Ok(_) => continue,
            Err(why) => Err(why),
        };
        let brokers = brokers.map_err(|why| settings.invalid(format!("{origin} {why}")));
        found.push(brokers.ok()?);
    }
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [brokers] => Some(brokers.clone()),
        [] => {
            for Given { url, origin, .. } in given {
                let name = Kind::of(&url).map_or("", Kind::name);
                settings.invalid(format!(
                    "{origin} is for {name}, and this command knows Kafka alone: read there by its own tools"
                ));
            }
            None
        }
        _ => {
            settings.invalid(format!(
                "[[route]] names several clusters of Kafka; say by `{}` which one to read",
                BROKERS.name
            ));
            None
        }
    }
}
