//! What the derive makes of an event is what an implementation by hand makes of it.

use std::borrow::Cow;

use outbox::{BoxError, CloudEvent, Encoder, Error, Headers, Json, Message, OutboxEvent};
use proptest::prelude::*;
use serde::Serialize;
use uuid::Uuid;

#[derive(Clone, Debug, Serialize, OutboxEvent)]
#[outbox(topic = "orders-{region}", key = key, partition = partition, version = 3, id = event_id)]
#[outbox(headers("tenant-id" = tenant, kind = "{{{number:05}}}"), event_type = "order.{region}")]
struct Order {
    region: String,
    key: Option<Vec<u8>>,
    partition: Option<u32>,
    #[serde(skip)]
    event_id: Uuid,
    tenant: Option<String>,
    number: i32,
    #[outbox(header)]
    raw: Vec<u8>,
    price: f64,
    lines: Vec<(String, u8)>,
}

struct OrderByHand(Order);

impl OutboxEvent for OrderByHand {
    fn topic(&self) -> Cow<'_, str> {
        format!("orders-{}", self.0.region).into()
    }

    fn key(&self) -> Option<Cow<'_, [u8]>> {
        self.0.key.as_deref().map(Cow::Borrowed)
    }

    fn partition(&self) -> Option<i32> {
        let partition = self.0.partition?;
        Some(i32::try_from(partition).unwrap_or(-1))
    }

    fn headers(&self) -> Headers {
        let mut headers = Headers::new().with("schema-version", "3");
        if let Some(tenant) = &self.0.tenant {
            headers.push("tenant-id", tenant);
        }
        headers
            .with("kind", format!("{{{:05}}}", self.0.number))
            .with("raw", &self.0.raw)
    }

    fn event_type(&self) -> Option<Cow<'_, str>> {
        Some(format!("order.{}", self.0.region).into())
    }

    fn id(&self) -> Uuid {
        self.0.event_id
    }

    fn content_type(&self) -> Option<Cow<'_, str>> {
        Some("application/json".into())
    }

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Json::encode(&self.0)
    }
}

#[derive(Clone, Debug, Serialize, OutboxEvent)]
#[outbox(
    topic = "customers",
    key = "{id}",
    rename_all = "snake_case",
    headers(source = "shop")
)]
enum Customer<T: Serialize> {
    FirstSeen {
        id: u64,
        name: T,
    },
    #[outbox(key = _0, headers(source = _1), version = _0)]
    MovedTo(u64, String),
    #[outbox(tombstone, topic = "forgotten", partition = self.shard())]
    Forgotten {
        id: u64,
    },
    #[outbox(key = "all")]
    Reset,
}

impl<T: Serialize> Customer<T> {
    fn shard(&self) -> Option<u64> {
        match self {
            Self::Forgotten { id } if id % 2 == 0 => Some(id % 12),
            _ => None,
        }
    }
}

struct CustomerByHand<T: Serialize>(Customer<T>);

impl<T: Serialize> OutboxEvent for CustomerByHand<T> {
    fn topic(&self) -> Cow<'_, str> {
        match self.0 {
            Customer::Forgotten { .. } => "forgotten".into(),
            _ => "customers".into(),
        }
    }

    fn key(&self) -> Option<Cow<'_, [u8]>> {
        match &self.0 {
            Customer::FirstSeen { id, .. }
            | Customer::MovedTo(id, _)
            | Customer::Forgotten { id } => outbox::as_bytes(id),
            Customer::Reset => outbox::as_bytes("all"),
        }
    }

    fn partition(&self) -> Option<i32> {
        self.0.shard().map(|shard| shard as i32)
    }

    fn headers(&self) -> Headers {
        match &self.0 {
            Customer::MovedTo(id, to) => Headers::new()
                .with("schema-version", id.to_string())
                .with("source", to),
            _ => Headers::new().with("source", "shop"),
        }
    }

    fn event_type(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match self.0 {
            Customer::FirstSeen { .. } => "first_seen",
            Customer::MovedTo(..) => "moved_to",
            Customer::Forgotten { .. } => "forgotten",
            Customer::Reset => "reset",
        }))
    }

    fn content_type(&self) -> Option<Cow<'_, str>> {
        match self.0 {
            Customer::Forgotten { .. } => None,
            _ => Some("application/json".into()),
        }
    }

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        match &self.0 {
            Customer::Forgotten { .. } => Ok(None),
            other => Json::encode(other),
        }
    }
}

const TIME: &str = "2018-04-05T17:31:00Z";

#[derive(Clone, Debug, Serialize, OutboxEvent)]
#[outbox(topic = "readings", id = Uuid::nil(), event_type = kind, headers("ce_unit" = unit))]
#[outbox(envelope = CloudEvent(source = "/sensors/{sensor}", subject = subject, time = TIME))]
enum Reading {
    Binary {
        kind: String,
        unit: Option<String>,
        sensor: String,
        subject: Option<String>,
    },
    #[outbox(envelope = CloudEvent(source = sensor, mode = structured, time = TIME,
        dataschema = "urn:{kind}"))]
    Structured {
        kind: String,
        unit: Option<String>,
        sensor: String,
        subject: Option<String>,
    },
}

struct ReadingByHand(Reading);

impl ReadingByHand {
    fn parts(&self) -> (&str, &Option<String>, &str, &Option<String>) {
        let (Reading::Binary {
            kind,
            unit,
            sensor,
            subject,
        }
        | Reading::Structured {
            kind,
            unit,
            sensor,
            subject,
        }) = &self.0;
        (kind, unit, sensor, subject)
    }
}

impl OutboxEvent for ReadingByHand {
    fn topic(&self) -> Cow<'_, str> {
        "readings".into()
    }

    fn headers(&self) -> Headers {
        let (_, unit, ..) = self.parts();
        unit.iter().map(|unit| ("ce_unit", unit)).collect()
    }

    fn event_type(&self) -> Option<Cow<'_, str>> {
        Some(self.parts().0.into())
    }

    fn id(&self) -> Uuid {
        Uuid::nil()
    }

    fn content_type(&self) -> Option<Cow<'_, str>> {
        Some("application/json".into())
    }

    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
        Json::encode(&self.0)
    }

    fn envelope(&self, message: Message) -> Result<Message, Error> {
        let (kind, _, sensor, subject) = self.parts();
        let event = match self.0 {
            Reading::Binary { .. } => {
                let event = CloudEvent::new(format!("/sensors/{sensor}"));
                match subject {
                    Some(subject) => event.with_subject(subject),
                    None => event,
                }
            }
            Reading::Structured { .. } => CloudEvent::new(sensor)
                .with_dataschema(format!("urn:{kind}"))
                .structured(),
        };
        event.with_time(TIME).wrap(message)
    }
}

fn reading() -> impl Strategy<Value = Reading> {
    // Some are no URI, and some are empty or contain control characters.
    let text = || prop_oneof!["[a-z0-9._-]{1,8}", any::<String>()];
    let optional = || prop::option::of(text());
    (any::<bool>(), text(), optional(), text(), optional()).prop_map(
        |(is_binary, kind, unit, sensor, subject)| match is_binary {
            true => Reading::Binary {
                kind,
                unit,
                sensor,
                subject,
            },
            false => Reading::Structured {
                kind,
                unit,
                sensor,
                subject,
            },
        },
    )
}

fn order() -> impl Strategy<Value = Order> {
    // Some regions make illegal topics, and some partitions are too large.
    let region = prop_oneof!["[a-z0-9._-]{1,8}", any::<String>()];
    let partition = prop::option::of(prop_oneof![0..64_u32, any::<u32>()]);
    let lines = prop::collection::vec(any::<(String, u8)>(), 0..4);
    let routing = (region, any::<Option<Vec<u8>>>(), partition, any::<u128>());
    let rest = (
        any::<Option<String>>(),
        any::<i32>(),
        any::<Vec<u8>>(),
        any::<f64>(),
        lines,
    );
    (routing, rest).prop_map(
        |((region, key, partition, id), (tenant, number, raw, price, lines))| Order {
            region,
            key,
            partition,
            event_id: Uuid::from_u128(id),
            tenant,
            number,
            raw,
            price,
            lines,
        },
    )
}

fn customer() -> impl Strategy<Value = Customer<Option<String>>> {
    prop_oneof![
        any::<(u64, Option<String>)>().prop_map(|(id, name)| Customer::FirstSeen { id, name }),
        any::<(u64, String)>().prop_map(|(id, to)| Customer::MovedTo(id, to)),
        any::<u64>().prop_map(|id| Customer::Forgotten { id }),
        Just(Customer::Reset),
    ]
}

/// The message, or the error's text. The ids of events without one of their own differ.
fn outcome(event: &impl OutboxEvent, has_id: bool) -> Result<Message, String> {
    let message = event.message().map_err(|error| error.to_string())?;
    Ok(match has_id {
        true => message,
        false => message.with_id(Uuid::nil()),
    })
}

proptest! {
    #[test]
    fn structs(order in order()) {
        let by_hand = OrderByHand(order.clone());
        prop_assert_eq!(outcome(&order, true), outcome(&by_hand, true));
    }

    #[test]
    fn enums(customer in customer()) {
        let by_hand = CustomerByHand(customer.clone());
        prop_assert_eq!(outcome(&customer, false), outcome(&by_hand, false));
    }

    #[test]
    fn envelopes(reading in reading()) {
        let by_hand = ReadingByHand(reading.clone());
        prop_assert_eq!(outcome(&reading, true), outcome(&by_hand, true));
    }
}
