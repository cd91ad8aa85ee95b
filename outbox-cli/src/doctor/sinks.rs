//! Where messages go.

use outbox::sink::Sink as _;

use super::{Finding, brokers};
use crate::settings::Settings;
use crate::sink::{AnySink, Plan, Route, Target};

/// What there is to say about the sinks, and about the topics for which messages wait.
pub(super) async fn examine(
    settings: &mut Settings,
    plan: Option<Plan>,
    topics: Vec<String>,
) -> Vec<Finding> {
    let Some(plan) = plan else {
        return vec![Finding::ok(
            "where messages go was not looked at: neither `brokers` nor `sink` is given",
        )];
    };
    let routed = plan.rehearse(settings);
    let routes = match plan {
        Plan::One(target) => return examine_one(settings, target, "", topics).await,
        Plan::Routes(routes) => routes,
    };
    let mut findings = Vec::new();
    let mut waiting: Vec<Vec<String>> = routes.iter().map(|_| Vec::new()).collect();
    for topic in topics {
        let route = match &routed {
            Some(AnySink::Router(router)) => router.route_of(&topic),
            _ => None,
        };
        match route.and_then(|route| waiting.get_mut(route)) {
            Some(waiting) => waiting.push(topic),
            None => findings.push(Finding::error(
                format!("messages wait for the topic {topic:?}, which no route has"),
                "Add a [[route]] for it: a runner parks them.",
            )),
        }
    }
    for (Route { patterns, target }, topics) in routes.into_iter().zip(waiting) {
        let of = format!(" for {}", patterns.join(", "));
        findings.extend(examine_one(settings, target, &of, topics).await);
    }
    findings
}

async fn examine_one(
    settings: &mut Settings,
    target: Target,
    of: &str,
    topics: Vec<String>,
) -> Vec<Finding> {
    if let Target::Kafka(kafka) = &target {
        return brokers::examine(settings, kafka.brokers(), topics).await;
    }
    let (name, places) = (target.kind().name(), target.kind().places());
    let finding = match target.build().await {
        Err(error) => Finding::error(error, "Correct its URL, or the environment."),
        Ok(sink) => match sink.check().await {
            Ok(()) => Finding::ok(format!(
                "{name}{of} answers; whether its {places} are there was not looked at"
            )),
            Err(error) => Finding::error(
                format!("{name}{of}: {error}"),
                "Check its URL, the credentials and the network. A runner waits until it can deliver.",
            ),
        },
    };
    vec![finding]
}
