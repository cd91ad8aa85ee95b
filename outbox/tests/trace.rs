//! Messages carry the trace in which they were published.

use diesel::connection::SimpleConnection as _;
use diesel::deserialize::QueryableByName;
use diesel::sql_types::{Nullable, Text};
use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection, sql_query};
use diesel_migrations::MigrationHarness as _;
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use outbox::{DEFAULT_MAX_BYTES, Headers, Message, OutboxEvent as _, publish_all};
use tracing_subscriber::layer::SubscriberExt as _;

const PARENT: &str = "00-0000000000000000000000000000002a-0000000000000007-01";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Nullable<Text>)]
    headers: Option<String>,
}

struct Outbox(SqliteConnection);

impl Outbox {
    fn new() -> Self {
        let mut connection = SqliteConnection::establish(":memory:").unwrap();
        connection
            .run_pending_migrations(outbox::migrations::SQLITE)
            .unwrap();
        Self(connection)
    }

    fn publish(&mut self, message: Message) {
        let published = self.0.transaction(|c| message.publish(c));
        published.unwrap();
    }

    /// The headers of all that was published since the last time.
    fn taken(&mut self) -> Vec<Headers> {
        let rows: Vec<Row> = sql_query("SELECT headers FROM outbox ORDER BY id")
            .load(&mut self.0)
            .unwrap();
        self.0.batch_execute("DELETE FROM outbox").unwrap();
        let read = |row: Row| {
            row.headers
                .map_or_else(Headers::new, |h| Headers::from_json(&h).unwrap())
        };
        rows.into_iter().map(read).collect()
    }
}

fn context() -> Context {
    let state = TraceState::from_key_value([("shop", "17")]).unwrap();
    let span = SpanContext::new(
        TraceId::from(42),
        SpanId::from(7),
        TraceFlags::SAMPLED,
        true,
        state,
    );
    Context::new().with_remote_span_context(span)
}

#[test]
fn the_current_context_goes_along() {
    let mut outbox = Outbox::new();
    let plain = || Message::new("orders").with_header("tenant", "acme");
    outbox.publish(plain());
    assert_eq!(
        outbox.taken(),
        [Headers::new().with("tenant", "acme")],
        "there is none"
    );

    let _current = context().attach();
    let expected = || {
        let headers = Headers::new().with("tenant", "acme");
        headers
            .with("traceparent", PARENT)
            .with("tracestate", "shop=17")
    };
    outbox.publish(plain());
    assert_eq!(outbox.taken(), [expected()]);
    outbox
        .0
        .transaction(|c| publish_all(c, [plain(), plain()]))
        .unwrap();
    assert_eq!(outbox.taken(), [expected(), expected()]);

    let own = plain().with_header("traceparent", "its own");
    let headers = own.headers().clone();
    outbox.publish(own);
    assert_eq!(outbox.taken(), [headers], "it has one already");
}

/// A message that may be sent without a trace is not refused because of one, and never grows beyond its limit.
#[test]
fn the_limit_of_size_holds_with_the_context() {
    let mut outbox = Outbox::new();
    let _current = context().attach();
    let parent = "traceparent".len() + PARENT.len();
    let state = "tracestate".len() + "shop=17".len();
    for (room, expected) in [
        (parent + state, 2),
        (parent + state - 1, 1),
        (parent, 1),
        // `tracestate` alone says nothing.
        (parent - 1, 0),
        (0, 0),
    ] {
        let message = || Message::new("orders").with_payload(vec![0; DEFAULT_MAX_BYTES - room]);
        outbox.publish(message());
        let published = outbox.0.transaction(|c| publish_all(c, [message()]));
        published.unwrap();
        for headers in outbox.taken() {
            assert_eq!(headers.len(), expected, "{room}: {headers:?}");
        }
    }
}

/// Spans of `tracing` are contexts too, where a program hands them to OpenTelemetry.
#[test]
fn the_current_span_goes_along() {
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    let subscriber = tracing_subscriber::registry().with(layer);
    let mut outbox = Outbox::new();
    let spans = tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("request").in_scope(|| {
            outbox.publish(Message::new("orders"));
            tracing::info_span!("inner").in_scope(|| outbox.publish(Message::new("orders")));
        });
        outbox.taken()
    });
    let parents: Vec<_> = spans
        .iter()
        .map(|headers| String::from_utf8(headers.first("traceparent").unwrap().to_vec()).unwrap())
        .collect();
    let parts: Vec<Vec<_>> = parents.iter().map(|p| p.split('-').collect()).collect();
    assert_eq!(parts[0][1], parts[1][1], "one trace: {parents:?}");
    assert_ne!(parts[0][2], parts[1][2], "two spans: {parents:?}");
}
