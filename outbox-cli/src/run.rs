//! `outbox run`: the runner, as the settings say.

use std::str::FromStr;

use opentelemetry::metrics::Meter;
use outbox::runner::{Completion, OnRejection, RunError, Runner, RunnerBuilder};
use outbox::store::{PostgresStore, StoreErrorKind};

use crate::failure::Failure;
use crate::http::Http;
use crate::log::Log;
use crate::settings::{
    ATTEMPTS, BATCH_SIZE, COMPLETION, DEAD_LETTER_TOPIC, GRACE, LEASE, LISTEN_URL, MAX_CONNECTIONS,
    MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, ON_REJECTION, POLL_INTERVAL, RETENTION, RUNNER_NAME,
    RunnerFlags, Setting, Settings, TOPICS, duration, list, number, one_of,
};
use crate::sink::{self, AnySink};
use crate::telemetry::Telemetry;
use crate::{Database, database, supervisor};

type Builder = RunnerBuilder<PostgresStore, AnySink>;

/// Runs until a signal.
pub(crate) async fn run(flags: &RunnerFlags) -> Result<(), Failure> {
    let mut settings = Settings::gather(flags);
    let telemetry = Telemetry::from_settings(&mut settings);
    let tracer = telemetry.as_ref().and_then(Telemetry::tracer);
    Log::from_settings(&mut settings).start(tracer);
    let http = Http::from_settings(&mut settings);
    let plan = Plan::from_settings(&mut settings);
    let operator = Database::from_settings(&mut settings);
    let (plan, operator) = settings.verdict(plan.zip(operator))?;
    // All settings are right. Nothing was connected to before.
    let runner = plan.build(telemetry.as_ref().map(Telemetry::meter)).await;
    let runner = runner.map_err(|problem| Failure::Settings(vec![problem]))?;
    let mut beside = tokio::task::JoinSet::new();
    beside.spawn(supervisor::keep_informed(runner.health()));
    if let (Some(http), Some(telemetry)) = (http, &telemetry) {
        let (health, registry) = (runner.health(), telemetry.registry.clone());
        beside.spawn(http.serve(health, operator.operator()?, registry).await?);
    }
    let result = runner.run_until_signal().await.map(drop).map_err(failure);
    // Probes are answered until the runner has stopped.
    drop(beside);
    supervisor::stopping();
    if let Some(telemetry) = telemetry {
        telemetry.end().await;
    }
    result
}

/// A runner that can be made, and is connected to nothing before.
pub(crate) struct Plan {
    store: PostgresStore,
    pub(crate) sink: sink::Plan,
    steps: Vec<Step>,
}

impl Plan {
    /// What the settings ask for, or `None` if it can't be: they know why.
    pub(crate) fn from_settings(settings: &mut Settings) -> Option<Self> {
        let store = store(settings);
        let sink = sink::Plan::from_settings(settings);
        let steps = steps(settings);
        // What they are together can be told only of what can be used by itself.
        let (Some(store), Some(sink), true) = (store, sink, settings.is_valid()) else {
            return None;
        };
        let stand_in = sink.rehearse(settings)?;
        let rehearsed = builder(store.clone(), stand_in, &steps).build();
        rehearsed
            .map_err(|e| settings.invalid(e.to_string()))
            .ok()?;
        Some(Self { store, sink, steps })
    }

    /// Makes the runner, whose sinks may begin to connect.
    async fn build(self, meter: Option<Meter>) -> Result<Runner<PostgresStore, AnySink>, String> {
        let sink = self.sink.build().await?;
        let mut builder = builder(self.store, sink, &self.steps);
        if let Some(meter) = meter {
            builder = builder.meter(meter);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

fn builder(store: PostgresStore, sink: AnySink, steps: &[Step]) -> Builder {
    let builder = Runner::builder(store, sink);
    steps.iter().fold(builder, |builder, step| step(builder))
}

fn store(settings: &mut Settings) -> Option<PostgresStore> {
    let database = Database::from_settings(settings);
    let connections = settings.value(&MAX_CONNECTIONS, number);
    let listen_url = settings.value(&LISTEN_URL, database::check_url);
    let mut store = database?.store();
    if let Some(connections) = connections {
        store = store.max_connections(connections);
    }
    if let Some(url) = listen_url {
        store = store.listen_url(url);
    }
    store
        .build()
        .map_err(|e| settings.invalid(e.to_string()))
        .ok()
}

/// What to do with the runner's builder.
type Step = Box<dyn Fn(Builder) -> Builder>;

fn steps(settings: &mut Settings) -> Vec<Step> {
    let steps = [
        step(settings, &RUNNER_NAME, text::<String>, Builder::name),
        step(settings, &TOPICS, list, Builder::topics),
        step(settings, &BATCH_SIZE, number, Builder::batch_size),
        step(settings, &MAX_IN_FLIGHT, number, Builder::max_in_flight),
        step(
            settings,
            &MAX_IN_FLIGHT_BYTES,
            number,
            Builder::max_in_flight_bytes,
        ),
        step(settings, &POLL_INTERVAL, duration, Builder::poll_interval),
        step(settings, &LEASE, duration, Builder::lease),
        step(settings, &GRACE, duration, Builder::grace),
        on_rejection(settings)
            .map(|policy| -> Step { Box::new(move |b| b.on_rejection(policy.clone())) }),
        completion(settings)
            .map(|completion| -> Step { Box::new(move |b| b.completion(completion)) }),
    ];
    steps.into_iter().flatten().collect()
}

fn step<T: Clone + 'static>(
    settings: &mut Settings,
    setting: &Setting,
    read: impl FnOnce(&str) -> Result<T, String>,
    apply: impl Fn(Builder, T) -> Builder + 'static,
) -> Option<Step> {
    let value = settings.value(setting, read)?;
    Some(Box::new(move |builder| apply(builder, value.clone())))
}

fn text<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a text is expected".to_owned())
}

fn on_rejection(settings: &mut Settings) -> Option<OnRejection> {
    #[derive(Clone, Copy, PartialEq)]
    enum What {
        Park,
        Topic,
        Table,
        Halt,
    }
    let words = [
        ("park", What::Park),
        ("dead-letter-topic", What::Topic),
        ("dead-letter-table", What::Table),
        ("halt", What::Halt),
    ];
    let what = settings.value(&ON_REJECTION, |text| one_of(&words, text));
    let attempts = settings.value(&ATTEMPTS, number);
    let topic = settings.value(&DEAD_LETTER_TOPIC, text::<String>);
    if !matches!(what, None | Some(What::Park)) {
        settings.belongs(&ATTEMPTS, false, &ON_REJECTION, "park");
    }
    let to_topic = what == Some(What::Topic);
    settings.belongs(
        &DEAD_LETTER_TOPIC,
        to_topic,
        &ON_REJECTION,
        "dead-letter-topic",
    );
    match what {
        None | Some(What::Park) => attempts.map(|attempts| OnRejection::Park { attempts }),
        Some(What::Topic) => topic.map(|topic| OnRejection::DeadLetter { topic }),
        Some(What::Table) => Some(OnRejection::DeadLetterTable),
        Some(What::Halt) => Some(OnRejection::Halt),
    }
}

fn completion(settings: &mut Settings) -> Option<Completion> {
    let words = [("delete", false), ("archive", true)];
    let archive = settings
        .value(&COMPLETION, |text| one_of(&words, text))
        .unwrap_or(false);
    let retention = settings.value(&RETENTION, duration);
    settings.belongs(&RETENTION, archive, &COMPLETION, "archive");
    let retention = retention.filter(|_| archive)?;
    Some(Completion::Archive { retention })
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Store(error) if error.kind() == StoreErrorKind::Fatal => {
            Failure::Database(error.to_string())
        }
        RunError::Interrupted => Failure::Interrupted(error.to_string()),
        error => Failure::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use toml::{Table, Value};

    use super::*;
    use crate::settings::all;

    const CANARY: &str = "CANARY8861";

    /// A key of the file, mostly a known one, and what somebody may have written there. Only what is marked as a
    /// secret has one.
    fn entry() -> impl Strategy<Value = (String, Value)> {
        let known: Vec<_> = all().collect();
        let known = proptest::sample::select(known).prop_flat_map(|setting| {
            let value = match setting.secret {
                true => secret().boxed(),
                false => value(),
            };
            (Just(setting.name.to_owned()), value)
        });
        prop_oneof![9 => known, 1 => ("[a-z-]{1,12}", value())]
    }

    fn value() -> BoxedStrategy<Value> {
        let words = [
            "",
            "0",
            "1",
            "500",
            "15s",
            "7d",
            "1m 30s",
            "-1",
            "true",
            "park",
            "halt",
            "archive",
            "delete",
            "exactly-once",
            "at-least-once",
            "dead-letter-topic",
            "dead-letter-table",
            "orders",
            "orders,bills",
            "a b",
            "127.0.0.1:9092",
            "all",
            "shop",
            "public",
            "json",
            "trace",
            "http://localhost:4318",
            "https://",
            "[::1]:80",
            "lz4",
        ];
        let word = proptest::sample::select(words.to_vec()).prop_map(str::to_owned);
        let leaf = prop_oneof![
            6 => word.prop_map(Value::String),
            2 => ".{0,20}".prop_map(Value::String),
            1 => any::<i64>().prop_map(Value::Integer),
            1 => any::<f64>().prop_map(Value::Float),
            1 => any::<bool>().prop_map(Value::Boolean),
        ];
        let nested = leaf.clone().prop_flat_map(|value| {
            let table = Table::from_iter([("linger.ms".to_owned(), value.clone())]);
            prop_oneof![Just(Value::Table(table)), Just(Value::Array(vec![value]))]
        });
        prop_oneof![9 => leaf, 1 => nested].boxed()
    }

    /// A URL, or what somebody took for one, with a password.
    fn secret() -> impl Strategy<Value = Value> {
        let schemes = [
            "postgres",
            "postgresql",
            "kafka",
            "amqp",
            "amqps",
            "nats",
            "tls",
            "sqs",
            "kinesis",
            "pubsub",
            "mysql",
            "-",
        ];
        let scheme = proptest::sample::select(schemes.to_vec());
        (scheme, "[a-z]{0,3}", "[ -~]{0,3}", "[a-z./:?=&0-9]{0,12}").prop_map(
            |(scheme, user, more, rest)| {
                Value::String(format!("{scheme}://{user}:{more}{CANARY}@localhost{rest}"))
            },
        )
    }

    fn file() -> impl Strategy<Value = String> {
        let route = proptest::collection::vec(
            prop_oneof![
                (Just("sink".to_owned()), secret()),
                (Just("topics".to_owned()), value()),
                ("[a-z-]{1,8}", value()),
            ],
            0..3,
        );
        let kafka = proptest::collection::vec((r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}", value()), 0..2);
        let entries = proptest::collection::vec(entry(), 0..8);
        let routes = proptest::collection::vec(route, 0..3);
        (entries, kafka, routes).prop_map(|(entries, kafka, routes)| {
            let mut file = Table::from_iter(entries);
            if !kafka.is_empty() {
                file.insert("kafka".into(), Table::from_iter(kafka).into());
            }
            if !routes.is_empty() {
                let tables = routes
                    .into_iter()
                    .map(|route| Value::Table(Table::from_iter(route)));
                file.insert("route".into(), tables.collect::<Vec<_>>().into());
            }
            file.to_string()
        })
    }

    /// What is told of a file that makes no runner.
    fn refusal(text: &str) -> Option<String> {
        let mut settings = Settings::of_file(text);
        let plan = Plan::from_settings(&mut settings);
        let failure = settings.verdict(plan).err()?;
        let told = failure.to_string();
        let has_reasons = matches!(&failure, Failure::Settings(problems) if !problems.is_empty());
        assert!(has_reasons, "{text}: {told}");
        Some(told)
    }

    proptest! {
        /// Whatever is in the file, there can be a runner, or all reasons why not are told, and no secret.
        #[test]
        fn any_file_makes_a_runner_or_is_refused_with_reasons(text in file()) {
            if let Some(told) = refusal(&text) {
                prop_assert!(!told.contains(CANARY), "{text}: {told}");
            }
        }

        /// The same of what is no TOML at all.
        #[test]
        fn any_text_makes_a_runner_or_is_refused_with_reasons(text in r#"([a-z-]{1,8}|[ =\n\[\]"'.#]|.){0,24}"#) {
            refusal(&text);
        }
    }
}
