//! Where messages go, as the settings say.

mod any;
mod given;
mod kafka;
mod kind;
mod rehearsal;
mod target;

use outbox::sink::Router;

pub(crate) use self::any::AnySink;
pub(crate) use self::given::{brokers_to_read, is_given};
pub(crate) use self::target::Target;

use self::given::Given;
use self::kind::Kind;
use crate::brokers;
use crate::settings::{DEAD_LETTER_TOPIC, DELIVERY, Settings, TOPICS, list};

/// One sink or several. Nothing is connected to before they are built.
pub(crate) enum Plan {
    One(Target),
    Routes(Vec<Route>),
}

/// Topics, and the sink that their messages go to.
pub(crate) struct Route {
    pub(crate) patterns: Vec<String>,
    pub(crate) target: Target,
}

impl Plan {
    /// What the settings ask for, if it can be: they know why not.
    pub(crate) fn from_settings(settings: &mut Settings) -> Option<Self> {
        given::refuse_several(settings);
        let given = given::all(settings);
        refuse_what_is_for_kafka(settings, &given);
        if given.is_empty() {
            let brokers = brokers::bootstrap(settings);
            return Target::of_kafka(settings, brokers).map(Self::One);
        }
        let mut routes = Vec::new();
        for Given {
            url,
            origin,
            topics,
        } in &given
        {
            let target = Target::of_url(settings, url, origin);
            let patterns = topics.as_ref().map(|(topics, _)| list(topics));
            match (target, patterns) {
                (Some(target), None) => return Some(Self::One(target)),
                (Some(target), Some(patterns)) => routes.push(Route {
                    patterns: patterns.unwrap_or_default(),
                    target,
                }),
                (None, _) => {}
            }
        }
        (routes.len() == given.len()).then_some(Self::Routes(routes))
    }

    /// What stands in for the sink until all settings are known to be right. What is wrong with them together
    /// is noted.
    pub(crate) fn rehearse(&self, settings: &mut Settings) -> Option<AnySink> {
        let routes = match self {
            Self::One(target) => {
                let sink = target.rehearse();
                return sink.map_err(|why| settings.invalid(why)).ok();
            }
            Self::Routes(routes) => routes,
        };
        let mut router = Router::builder();
        for route in routes {
            let sink = route.target.rehearse();
            let sink = sink.map_err(|why| settings.invalid(why)).ok()?;
            router = router.route(route.patterns.clone(), sink);
        }
        let router = router.build();
        let router = router.map_err(|error| settings.invalid(format!("[[route]]: {error}")));
        let router = router.ok()?;
        for setting in [&TOPICS, &DEAD_LETTER_TOPIC] {
            let origin = settings.origin(setting);
            for topic in settings.value(setting, list).unwrap_or_default() {
                if router.route_of(&topic).is_none() {
                    settings.invalid(format!(
                        "{origin} has {topic:?}, and no [[route]] has it; add one"
                    ));
                }
            }
        }
        Some(AnySink::Router(router))
    }

    /// Makes the sink, which may begin to connect.
    pub(crate) async fn build(self) -> Result<AnySink, String> {
        let routes = match self {
            Self::One(target) => return target.build().await,
            Self::Routes(routes) => routes,
        };
        let mut router = Router::builder();
        for Route { patterns, target } in routes {
            router = router.route(patterns, target.build().await?);
        }
        let router = router.build().map_err(|error| error.to_string())?;
        Ok(AnySink::Router(router))
    }
}

/// Takes note of settings that only Kafka could heed, where messages go elsewhere.
fn refuse_what_is_for_kafka(settings: &mut Settings, given: &[Given]) {
    let kinds: Result<Vec<_>, _> = given.iter().map(|given| Kind::of(&given.url)).collect();
    let (Ok(kinds), Some(first)) = (kinds, given.first()) else {
        // What is meant is not known.
        return;
    };
    let has_routes = first.topics.is_some();
    let exactly_once = kafka::is_exactly_once(settings);
    if exactly_once && has_routes {
        let origin = settings.origin(&DELIVERY);
        settings.invalid(format!(
            "{origin} is \"exactly-once\", which can't be with [[route]]: a transaction of Kafka has no messages \
             of other sinks; give its topics a runner of their own, by `{}`",
            TOPICS.name
        ));
    }
    if kinds.contains(&Kind::Kafka) {
        return;
    }
    let mut names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    names.dedup();
    let names = names.join(" and ");
    if exactly_once && !has_routes {
        let origin = settings.origin(&DELIVERY);
        settings.invalid(format!(
            "{origin} is \"exactly-once\", which {names} can't do: only Kafka can; leave it out, and consumers \
             pass over ids that they have seen"
        ));
    }
    let of_properties = settings
        .properties()
        .map(|(_, _, origin)| origin.to_owned());
    let mut origins: Vec<_> = of_properties.collect();
    for setting in kafka::SETTINGS {
        if settings.has(setting) {
            origins.push(settings.origin(setting));
        }
    }
    for origin in origins {
        settings.invalid(format!(
            "{origin} is for Kafka, and messages go to {names}; leave it out"
        ));
    }
}
