//! A sink that sends messages to other sinks, by their topics.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::{Delivery, Failures, Outcome, Sink, SinkConfigError, SinkError, SinkErrorKind};
use crate::store::StoredMessage;

/// Sends messages to several sinks, by their topics.
///
/// The first route with a pattern that fits decides. In a pattern `*` stands for any characters, also for none
/// and for dots: `orders.*`, `*.events`, `*`. A message whose topic fits no pattern is rejected, with a reason
/// that names the topic and the patterns.
///
/// A sink that is unavailable only holds up the topics that are routed to it. All of a topic goes to one sink,
/// so each ordering key stays in order. What a sink takes its time to *accept*, because its queue is full or it
/// connects anew, the others wait for.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use outbox::Message;
/// use outbox::runner::Runner;
/// use outbox::sink::Router;
/// use outbox::testing::{MemoryStore, RecordingSink};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (orders, rest) = (RecordingSink::new(), RecordingSink::new());
/// let sink = Router::builder()
///     .route(["orders", "orders.*"], orders.clone())
///     .route(["*"], rest.clone())
///     .build()?;
///
/// let store = MemoryStore::new();
/// store.publish(Message::new("orders.eu"))?;
/// store.publish(Message::new("invoices"))?;
/// let runner = Runner::builder(store.clone(), sink).build()?;
/// runner
///     .run_until(async {
///         while !store.waiting().is_empty() {
///             tokio::task::yield_now().await;
///         }
///     })
///     .await?;
/// assert_eq!(orders.delivered()[0].topic(), "orders.eu");
/// assert_eq!(rest.delivered()[0].topic(), "invoices");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # }
/// ```
pub struct Router {
    routes: Vec<Route>,
    /// A sink holds nothing up any more when it has told all of its part, but the runner is told of the whole.
    failures: Failures,
}

/// Configures a [`Router`].
#[must_use]
#[derive(Default)]
pub struct RouterBuilder {
    routes: Vec<Route>,
}

struct Route {
    patterns: Vec<String>,
    sink: Box<dyn DynSink>,
}

impl Router {
    /// A router without routes.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::default()
    }

    /// The route that a topic takes, by its place among all of them; or `None`, and its messages are rejected.
    pub fn route_of(&self, topic: &str) -> Option<usize> {
        let fits = |route: &Route| route.patterns.iter().any(|pattern| fits(pattern, topic));
        self.routes.iter().position(fits)
    }

    /// The same, with the reason why there is none.
    fn route(&self, topic: &str) -> Result<usize, SinkError> {
        self.route_of(topic).ok_or_else(|| {
            let routes = self.routes.iter().flat_map(|route| &route.patterns);
            let patterns: Vec<_> = routes.map(|pattern| format!("{pattern:?}")).collect();
            SinkError::rejected(format!(
                "no route fits the topic {topic:?}: there are {}; add one",
                patterns.join(", ")
            ))
        })
    }
}

impl RouterBuilder {
    /// Sends messages whose topics fit one of these patterns to this sink, unless an earlier route has them.
    pub fn route(
        mut self,
        patterns: impl IntoIterator<Item = impl Into<String>>,
        sink: impl Sink,
    ) -> Self {
        self.routes.push(Route {
            patterns: patterns.into_iter().map(Into::into).collect(),
            sink: Box::new(sink),
        });
        self
    }

    /// Makes the sink.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] if there is no route, if one has no pattern or an empty one, if an earlier route
    /// has all that a pattern fits, or if a sink delivers exactly once: its transactions are of lanes, which
    /// have messages of other sinks too.
    pub fn build(self) -> Result<Router, SinkConfigError> {
        let wrong = |reason: String| Err(SinkConfigError::new(reason));
        if self.routes.is_empty() {
            return wrong("a router without routes could deliver nothing; add one".into());
        }
        let mut earlier: Vec<&String> = Vec::new();
        for Route { patterns, sink } in &self.routes {
            if patterns.is_empty() || patterns.iter().any(String::is_empty) {
                return wrong(
                    "a route without a pattern, or with an empty one, fits no topic".into(),
                );
            }
            if sink.delivers_exactly_once() {
                return wrong(format!(
                    "the sink for {patterns:?} delivers exactly once, which it can't behind a router; let \
                     it deliver at least once, or give it a runner of its own"
                ));
            }
            for pattern in patterns {
                // Whatever fits an asterisk as such fits all that it stands for.
                if let Some(earlier) = earlier.iter().find(|earlier| fits(earlier, pattern)) {
                    return wrong(format!(
                        "the pattern {pattern:?} is never reached, since {earlier:?} comes before it"
                    ));
                }
                earlier.push(pattern);
            }
        }
        Ok(Router {
            routes: self.routes,
            failures: Failures::default(),
        })
    }
}

/// Whether a topic fits a pattern.
fn fits(pattern: &str, topic: &str) -> bool {
    let mut literals = pattern.split('*');
    let first = literals.next().unwrap_or_default();
    let Some(mut rest) = topic.strip_prefix(first) else {
        return false;
    };
    let Some(last) = literals.next_back() else {
        // There is no asterisk.
        return rest.is_empty();
    };
    for literal in literals {
        // The earliest place leaves most for the others.
        match rest.find(literal) {
            Some(at) => rest = &rest[at + literal.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A [`Sink`] of any type.
trait DynSink: Send + Sync {
    fn send<'s>(&'s self, batch: &'s [StoredMessage], deadline: Instant)
    -> BoxFuture<'s, Delivery>;
    fn delivery_timeout(&self) -> Duration;
    fn system(&self) -> &'static str;
    fn check(&self) -> BoxFuture<'_, Result<(), SinkError>>;
    fn delivers_exactly_once(&self) -> bool;
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl<S: Sink> DynSink for S {
    fn send<'s>(
        &'s self,
        batch: &'s [StoredMessage],
        deadline: Instant,
    ) -> BoxFuture<'s, Delivery> {
        Sink::send(self, batch, deadline).boxed()
    }

    fn delivery_timeout(&self) -> Duration {
        Sink::delivery_timeout(self)
    }

    fn system(&self) -> &'static str {
        Sink::system(self)
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Sink::check(self).boxed()
    }

    fn delivers_exactly_once(&self) -> bool {
        self.transactions().is_some()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Sink::close(*self).boxed()
    }
}

impl Sink for Router {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        // Then it is not for the sinks that they take nothing.
        let late = Instant::now() >= deadline;
        let open = self.failures.open_batch();
        let mut parts: Vec<Part> = Vec::new();
        parts.resize_with(self.routes.len(), Part::default);
        let mut outcomes: Vec<Outcome> = vec![Err(untold()); batch.len()];
        for (index, stored) in batch.iter().enumerate() {
            match self.route(stored.message.topic()) {
                Ok(_) if open.must_skip(&stored.message) => {
                    outcomes[index] = Err(SinkError::skipped());
                }
                Ok(route) => {
                    parts[route].indices.push(index);
                    parts[route].messages.push(stored.clone());
                }
                Err(error) => outcomes[index] = Err(error),
            }
        }
        let parts = parts.into_iter().zip(&self.routes);
        let parts = parts.filter(|(part, _)| !part.messages.is_empty());
        let sent = join_all(parts.map(|(part, route)| async move {
            let delivery = route.sink.send(&part.messages, deadline).await;
            (part, delivery)
        }));
        let sent = sent.await;
        let failures = self.failures.clone();
        Delivery::new(async move {
            let failures = &failures;
            let known = sent.into_iter().map(|(part, delivery)| async move {
                let mut told = delivery.await;
                told.resize_with(part.messages.len(), || Err(untold()));
                // From now on its sink believes that the runner knows.
                for (stored, outcome) in part.messages.iter().zip(&mut told) {
                    if let Err(error) = outcome {
                        *error = of_topic(error.clone(), late);
                        failures.note(&stored.message, error);
                    }
                }
                (part.indices, told)
            });
            for (indices, told) in join_all(known).await {
                for (index, outcome) in indices.into_iter().zip(told) {
                    outcomes[index] = outcome;
                }
            }
            drop(open);
            outcomes
        })
    }

    /// The longest of all.
    fn delivery_timeout(&self) -> Duration {
        let timeouts = self
            .routes
            .iter()
            .map(|route| route.sink.delivery_timeout());
        timeouts.max().unwrap_or_default()
    }

    /// That of all sinks, if it is the same.
    fn system(&self) -> &'static str {
        let mut systems = self.routes.iter().map(|route| route.sink.system());
        let first = systems.next().unwrap_or("_OTHER");
        match systems.all(|system| system == first) {
            true => first,
            false => "_OTHER",
        }
    }

    /// Asks all sinks, at the same time, and tells what each of them says that is not well.
    async fn check(&self) -> Result<(), SinkError> {
        let answers = self.routes.iter().map(|route| async move {
            let answer = route.sink.check().await;
            answer.map_err(|error| (error.kind(), format!("{:?}: {error}", route.patterns)))
        });
        let answers = join_all(answers).await;
        let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        let Some((kind, _)) = errors.first() else {
            return Ok(());
        };
        let kind = *kind;
        let reasons: Vec<_> = errors.into_iter().map(|(_, reason)| reason).collect();
        Err(SinkError::new(kind, reasons.join("; ")))
    }

    /// Closes all sinks, at the same time.
    async fn close(self) {
        join_all(self.routes.into_iter().map(|route| route.sink.close())).await;
    }
}

/// The messages of a batch for one sink, with their places in it.
#[derive(Default)]
struct Part {
    indices: Vec<usize>,
    messages: Vec<StoredMessage>,
}

/// What is wrong with one sink is wrong with the topics that go there.
fn of_topic(error: SinkError, late: bool) -> SinkError {
    match error.kind() {
        SinkErrorKind::Unavailable if !late => SinkError::topic_unavailable(error.reason),
        _ => error,
    }
}

fn untold() -> SinkError {
    SinkError::topic_unavailable("the sink told no outcome, which is a defect of it")
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Router", &self.routes, f)
    }
}

impl fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("RouterBuilder", &self.routes, f)
    }
}

fn show(name: &str, routes: &[Route], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let patterns: Vec<_> = routes.iter().map(|route| &route.patterns).collect();
    f.debug_struct(name)
        .field("routes", &patterns)
        .finish_non_exhaustive()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use crate::sink::sink_fn;

    fn refusal(builder: RouterBuilder) -> String {
        builder.build().map(drop).unwrap_err().to_string()
    }

    fn sink() -> impl Sink {
        sink_fn(async |_| Ok(()))
    }

    #[test]
    fn an_asterisk_stands_for_any_characters() {
        for (pattern, topic, expected) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu.north", true),
            ("orders.*", "orders.", true),
            ("orders.*", "orders", false),
            ("*", "anything", true),
            ("*.eu", "orders.eu", true),
            ("*.eu", "orders.eu.x", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "ace", true),
            ("a*c*e", "aec", false),
            ("a*ab", "ab", false),
            ("ab*b", "ab", false),
            ("*a*", "bab", true),
            ("**", "", true),
        ] {
            assert_eq!(fits(pattern, topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn the_first_route_that_fits_decides() {
        let router = Router::builder()
            .route(["orders.eu"], sink())
            .route(["orders.*", "invoices"], sink())
            .build()
            .unwrap();
        assert_eq!(router.route("orders.eu"), Ok(0));
        assert_eq!(router.route("orders.us"), Ok(1));
        assert_eq!(router.route("invoices"), Ok(1));
        let error = router.route("returns").unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Rejected);
        let text = error.to_string();
        for named in [
            "\"returns\"",
            "\"orders.eu\"",
            "\"orders.*\"",
            "\"invoices\"",
        ] {
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn routes_that_can_not_be_are_refused() {
        let none: [&str; 0] = [];
        for (builder, reason) in [
            (Router::builder(), "without routes"),
            (Router::builder().route(none, sink()), "without a pattern"),
            (Router::builder().route([""], sink()), "without a pattern"),
            (
                Router::builder()
                    .route(["a.*"], sink())
                    .route(["a.b.*"], sink()),
                "\"a.b.*\" is never reached, since \"a.*\"",
            ),
            (Router::builder().route(["a", "a"], sink()), "never reached"),
        ] {
            let text = refusal(builder);
            assert!(text.contains(reason), "{text}");
        }
    }

    /// A runner closes it last.
    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn it_closes_all_its_sinks() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};

        use crate::runner::Runner;
        use crate::testing::MemoryStore;

        #[derive(Clone, Default)]
        struct Closable(Arc<AtomicBool>);
        impl Sink for Closable {
            async fn send(&self, batch: &[StoredMessage], _: Instant) -> Delivery {
                Delivery::ready(vec![Ok(()); batch.len()])
            }

            fn delivery_timeout(&self) -> Duration {
                Duration::ZERO
            }

            async fn close(self) {
                tokio::task::yield_now().await;
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let sinks = [Closable::default(), Closable::default()];
        let router = Router::builder()
            .route(["a"], sinks[0].clone())
            .route(["b"], sinks[1].clone());
        let store = MemoryStore::new();
        let runner = Runner::builder(store, router.build().unwrap());
        let stopped = runner.build().unwrap().run_until(async {}).await;
        assert_eq!(stopped.unwrap().delivered, 0);
        assert!(sinks.iter().all(|sink| sink.0.load(Ordering::Relaxed)));
    }

    /// The runner has not heard of it while it waits for another sink.
    #[tokio::test]
    // What sends tells what becomes of it later.
    #[allow(clippy::async_yields_async)]
    async fn nothing_passes_what_failed_while_another_sink_takes_its_time() {
        struct Slow;
        impl Sink for Slow {
            async fn send(&self, batch: &[StoredMessage], _: Instant) -> Delivery {
                let outcomes = vec![Ok(()); batch.len()];
                let delay = Sink::delivery_timeout(self);
                Delivery::new(tokio::time::sleep(delay).map(|()| outcomes))
            }

            fn delivery_timeout(&self) -> Duration {
                Duration::from_millis(20)
            }
        }
        for kind in [SinkErrorKind::Rejected, SinkErrorKind::Unavailable] {
            let fails = std::sync::atomic::AtomicBool::new(true);
            let fails_once = sink_fn(move |_| {
                let fails = fails.swap(false, std::sync::atomic::Ordering::Relaxed);
                async move {
                    if fails {
                        Err(SinkError::new(kind, "no"))
                    } else {
                        Ok(())
                    }
                }
            });
            let router = Router::builder()
                .route(["fast"], fails_once)
                .route(["slow"], Slow)
                .build()
                .unwrap();
            let send = async |topic: &str, key: &str| {
                let batch = [topic, "slow"].map(|topic| StoredMessage {
                    position: crate::store::Position { lane: 0, id: 0 },
                    message: Message::new(topic).with_key(key),
                    created_at: std::time::SystemTime::UNIX_EPOCH,
                    defect: None,
                });
                let deadline = Instant::now() + Duration::from_secs(60);
                Sink::send(&router, &batch, deadline).await
            };
            let mut first = send("fast", "k").await;
            assert!((&mut first).now_or_never().is_none());
            let second = send("fast", "k").await;
            assert_eq!(
                first
                    .await
                    .iter()
                    .filter(|outcome| outcome.is_err())
                    .count(),
                1
            );
            assert_eq!(second.await[0], Err(SinkError::skipped()));
            assert_eq!(send("fast", "k").await.await[0], Ok(()), "it is known now");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_sink_is_told_with_its_patterns() {
        struct Unwell;
        impl Sink for Unwell {
            async fn send(&self, batch: &[StoredMessage], _: Instant) -> Delivery {
                Delivery::ready(vec![Err(SinkError::unavailable("away")); batch.len()])
            }

            fn delivery_timeout(&self) -> Duration {
                Duration::from_secs(7)
            }

            fn system(&self) -> &'static str {
                "kafka"
            }

            async fn check(&self) -> Result<(), SinkError> {
                Err(SinkError::unavailable("away"))
            }
        }
        let router = Router::builder()
            .route(["a"], sink())
            .route(["b"], Unwell)
            .build()
            .unwrap();
        let error = Sink::check(&router).await.unwrap_err();
        assert_eq!(error.to_string(), "[\"b\"]: away");
        assert_eq!(Sink::delivery_timeout(&router), Duration::from_secs(7));
        assert_eq!(Sink::system(&router), "_OTHER");

        let batch: Vec<_> = ["b", "a", "c"]
            .map(|topic| StoredMessage {
                position: crate::store::Position { lane: 0, id: 0 },
                message: Message::new(topic),
                created_at: std::time::SystemTime::UNIX_EPOCH,
                defect: None,
            })
            .into();
        let deadline = Instant::now() + Duration::from_secs(60);
        let outcomes = Sink::send(&router, &batch, deadline).await.await;
        let kind = |outcome: &Outcome| outcome.as_ref().err().map(SinkError::kind);
        let kinds: Vec<_> = outcomes.iter().map(kind).collect();
        assert_eq!(
            kinds,
            [
                Some(SinkErrorKind::TopicUnavailable),
                None,
                Some(SinkErrorKind::Rejected)
            ]
        );
    }
}
