//! The brokers.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::BaseConsumer;

use super::Finding;
use crate::brokers::{self, Trouble};
use crate::settings::{CREATE_TOPICS, Settings};

/// How long brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is to say about these brokers, and about the topics for which messages wait.
pub(super) async fn examine(
    settings: &mut Settings,
    bootstrap: &str,
    topics: Vec<String>,
) -> Vec<Finding> {
    let client = brokers::client_of(settings, bootstrap);
    let makes_topics = settings.has(&CREATE_TOPICS);
    // librdkafka waits on the thread that asks.
    let asked = tokio::task::spawn_blocking(move || ask(&client)).await;
    match asked {
        Ok(Ok(cluster)) => cluster.findings(topics, makes_topics),
        Ok(Err(error)) => vec![Finding::error(
            format!("no broker answers at {bootstrap}: {error}"),
            "Check the addresses, `security.protocol` and what comes with it, and the network. A \
             runner waits until one answers.",
        )],
        Err(error) => vec![Finding::error(
            format!("the brokers could not be asked: {error}"),
            "This is a defect of the program: report it.",
        )],
    }
}

struct Cluster {
    brokers: usize,
    topics: HashSet<String>,
}

fn ask(client: &ClientConfig) -> Result<Cluster, String> {
    let client = BaseConsumer::from_config_and_context(client, Trouble::default());
    let metadata = brokers::metadata(&client.map_err(|e| e.to_string())?, PATIENCE)?;
    let topics = metadata.topics().iter().filter(|t| t.error().is_none());
    Ok(Cluster {
        brokers: metadata.brokers().len(),
        topics: topics.map(|topic| topic.name().to_owned()).collect(),
    })
}

impl Cluster {
    fn findings(&self, waiting: Vec<String>, makes_topics: bool) -> Vec<Finding> {
        let brokers = Finding::ok(match self.brokers {
            1 => "one broker answers".to_owned(),
            brokers => format!("{brokers} brokers answer"),
        });
        let missing = waiting.into_iter().filter(|t| !self.topics.contains(t));
        let missing = missing.map(|topic| match makes_topics {
            true => Finding::ok(format!(
                "the topic {topic:?} is not there; a runner makes it"
            )),
            false => Finding::error(
                format!("messages wait for the topic {topic:?}, which is not there"),
                "Make it, or allow the runner to see it: DESCRIBE and WRITE. Its messages are \
                 delivered then.",
            ),
        });
        std::iter::once(brokers).chain(missing).collect()
    }
}
