//! Assertions about what was published, and what they say when they fail.

use std::any::type_name;
use std::fmt::Write as _;
use std::panic::Location;

use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;

use super::TestConnection;
use crate::{BoxError, Message, OutboxEvent};

/// How much of a payload is shown.
const SHOWN_CHARACTERS: usize = 500;

/// Asserts that an event is published that matches a pattern, and returns the first one.
///
/// It looks at what waits in the table `outbox`, as the connection sees it in its transaction:
///
/// ```
/// # #[cfg(all(feature = "migrations", feature = "sqlite"))] {
/// # use diesel_migrations::MigrationHarness as _;
/// # use diesel::{Connection, SqliteConnection};
/// use outbox::OutboxEvent;
/// use outbox::testing::assert_published;
///
/// #[derive(serde::Serialize, serde::Deserialize, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id)]
/// struct OrderPlaced { order_id: u64, customer: String }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(outbox::migrations::SQLITE).unwrap();
/// conn.begin_test_transaction()?;
/// OrderPlaced { order_id: 17, customer: "ada".into() }.publish(conn)?;
///
/// assert_published!(conn, OrderPlaced { order_id: 17, .. });
/// // With a condition, as in `matches!`.
/// let event = assert_published!(conn, OrderPlaced { customer, .. } if customer == "ada");
/// assert_eq!(event.order_id, 17);
/// # Ok(())
/// # }
/// # main().unwrap();
/// # }
/// ```
///
/// With diesel-async it is awaited: `assert_published!(conn, OrderPlaced { .. }).await`.
///
/// Events are decoded from JSON. For any other form, a function follows that decodes a message:
/// `assert_published!(conn, OrderPlaced { .. }, decode = |message| …)`, as for
/// [`published_by`](crate::testing::TestConnection::published_by).
///
/// # Panics
///
/// If no event matches. It says then what was published instead, and why that is none.
#[doc(hidden)]
#[macro_export]
macro_rules! assert_published {
    ($conn:expr, $pattern:pat $(if $guard:expr)? $(,)?) => {
        $crate::assert_published!($conn, $pattern $(if $guard)?, decode = $crate::testing::json)
    };
    ($conn:expr, $pattern:pat $(if $guard:expr)?, decode = $decode:expr $(,)?) => {
        $crate::testing::__assert_published(
            $conn,
            $decode,
            |event: &_| ::core::matches!(event, $pattern $(if $guard)?),
            ::core::stringify!($pattern $(if $guard)?),
        )
    };
}

/// Asserts that no event is published that matches a pattern.
///
/// It is used as [`assert_published!`](crate::testing::assert_published) is:
///
/// ```
/// # #[cfg(all(feature = "migrations", feature = "sqlite"))] {
/// # use diesel_migrations::MigrationHarness as _;
/// # use diesel::{Connection, SqliteConnection};
/// use outbox::OutboxEvent;
/// use outbox::testing::refute_published;
///
/// #[derive(serde::Serialize, serde::Deserialize, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id)]
/// struct OrderPlaced { order_id: u64 }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(outbox::migrations::SQLITE).unwrap();
/// conn.begin_test_transaction()?;
/// OrderPlaced { order_id: 17 }.publish(conn)?;
///
/// refute_published!(conn, OrderPlaced { order_id: 18.. });
/// # Ok(())
/// # }
/// # main().unwrap();
/// # }
/// ```
///
/// # Panics
///
/// If an event matches, and if a message has the event type of a type that derives `OutboxEvent` and
/// can't be decoded, since nobody knows then.
#[doc(hidden)]
#[macro_export]
macro_rules! refute_published {
    ($conn:expr, $pattern:pat $(if $guard:expr)? $(,)?) => {
        $crate::refute_published!($conn, $pattern $(if $guard)?, decode = $crate::testing::json)
    };
    ($conn:expr, $pattern:pat $(if $guard:expr)?, decode = $decode:expr $(,)?) => {
        $crate::testing::__refute_published(
            $conn,
            $decode,
            |event: &_| ::core::matches!(event, $pattern $(if $guard)?),
            ::core::stringify!($pattern $(if $guard)?),
        )
    };
}

#[doc(hidden)]
#[track_caller]
pub fn __assert_published<'c, C, M, E, D, P>(
    conn: &'c mut C,
    decode: D,
    matches: P,
    pattern: &'static str,
) -> C::Answer<'c, E>
where
    C: TestConnection<M>,
    E: OutboxEvent + Send + 'c,
    D: Fn(&Message) -> Result<E, BoxError> + Send + 'c,
    P: Fn(&E) -> bool + Send + 'c,
{
    let place = Location::caller();
    conn.look(move |waiting| {
        let judged = waiting
            .into_iter()
            .map(|waiting| {
                let verdict = match &waiting.defect {
                    Some(defect) => Verdict::Unreadable(defect.as_str().into()),
                    None => judge(&waiting.message, &decode),
                };
                (waiting.message, verdict)
            })
            .collect::<Vec<_>>();
        let mut others = Vec::new();
        for (message, verdict) in judged {
            let reason = match verdict {
                Verdict::Event(event) if matches(&event) => return (event, Vec::new()),
                Verdict::Event(_) => "it does not match".to_owned(),
                Verdict::Other(reason) => reason,
                Verdict::Unreadable(error) => format!("it can't be decoded: {error}"),
            };
            others.push((message, reason));
        }
        panic!(
            "no event is published that matches `{pattern}` ({place})\n{}",
            list(&others)
        )
    })
}

#[doc(hidden)]
#[track_caller]
pub fn __refute_published<'c, C, M, E, D, P>(
    conn: &'c mut C,
    decode: D,
    matches: P,
    pattern: &'static str,
) -> C::Answer<'c, ()>
where
    C: TestConnection<M>,
    E: OutboxEvent + Send + 'c,
    D: Fn(&Message) -> Result<E, BoxError> + Send + 'c,
    P: Fn(&E) -> bool + Send + 'c,
{
    let place = Location::caller();
    conn.look(move |waiting| {
        for waiting in waiting {
            let message = waiting.message;
            match judge(&message, &decode) {
                Verdict::Event(event) if matches(&event) => panic!(
                    "an event is published that matches `{pattern}` ({place})\n{}",
                    show(&message)
                ),
                Verdict::Event(_) | Verdict::Other(_) => {}
                Verdict::Unreadable(error) => undecodable::<E>(&message, &error),
            }
        }
        ((), Vec::new())
    })
}

/// The events of a type among messages.
#[track_caller]
pub(super) fn events<E: OutboxEvent>(
    messages: &[Message],
    decode: impl Fn(&Message) -> Result<E, BoxError>,
) -> Vec<E> {
    let event = |message| match judge(message, &decode) {
        Verdict::Event(event) => Some(event),
        Verdict::Other(_) => None,
        Verdict::Unreadable(error) => undecodable::<E>(message, &error),
    };
    messages.iter().filter_map(event).collect()
}

#[track_caller]
fn undecodable<E>(message: &Message, error: &BoxError) -> ! {
    panic!(
        "a message can't be decoded as `{}`, which its event type says that it is: {error}\n{}",
        type_name::<E>(),
        show(message)
    )
}

/// What a message is, seen from a type of events.
enum Verdict<E> {
    /// One of them.
    Event(E),
    /// Something else, and how that shows.
    Other(String),
    /// One of them, that can't be decoded.
    Unreadable(BoxError),
}

fn judge<E: OutboxEvent>(
    message: &Message,
    decode: &impl Fn(&Message) -> Result<E, BoxError>,
) -> Verdict<E> {
    match decode(message) {
        Ok(event) if event.topic() != message.topic() => Verdict::Other(format!(
            "it is for another topic than {:?}, where such an event goes",
            event.topic()
        )),
        Ok(event) if event.event_type().as_deref() != message.event_type() => {
            Verdict::Other(match event.event_type() {
                Some(event_type) => format!("it is no {event_type}"),
                None => "it has an event type".to_owned(),
            })
        }
        Ok(event) => Verdict::Event(event),
        Err(error) if is_certainly::<E>(message) => Verdict::Unreadable(error),
        Err(error) => Verdict::Other(format!(
            "it can't be decoded as {}: {error}",
            type_name::<E>()
        )),
    }
}

/// Whether topic and event type tell that it is an event of the type, decoded or not.
fn is_certainly<E: OutboxEvent>(message: &Message) -> bool {
    E::__kinds().iter().any(|(topic, event_type)| {
        message.event_type() == Some(event_type)
            && topic.as_ref().is_none_or(|topic| topic == message.topic())
    })
}

/// Decodes a message from JSON, as events are by default; of a CloudEvent in structured mode, its data.
///
/// # Errors
///
/// If it is a tombstone, which has no payload, or its payload has another form.
pub fn json<E: DeserializeOwned>(message: &Message) -> Result<E, BoxError> {
    let payload = message
        .payload()
        .ok_or("it is a tombstone, which has no payload")?;
    let content_type = message.headers().first("content-type");
    if content_type.is_some_and(|value| value.starts_with(b"application/cloudevents+json")) {
        #[derive(serde::Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let envelope: Envelope<'_> = serde_json::from_slice(payload)?;
        let data = envelope
            .data
            .ok_or_else(|| serde_json::Error::missing_field("data"))?;
        return Ok(serde_json::from_str(data.get())?);
    }
    Ok(serde_json::from_slice(payload)?)
}

/// All that waits, and why it is not what was expected.
fn list(others: &[(Message, String)]) -> String {
    if others.is_empty() {
        return "nothing is published".to_owned();
    }
    let mut text = String::from("this is published instead:");
    for (message, reason) in others {
        let _ = write!(text, "\n{}\n    {reason}", show(message));
    }
    text
}

/// A message as people read it.
fn show(message: &Message) -> String {
    let mut text = format!(
        "  {} for topic {:?}",
        message.event_type().unwrap_or("message without a type"),
        message.topic()
    );
    if let Some(partition) = message.partition() {
        let _ = write!(text, ", partition {partition}");
    }
    if let Some(key) = message.key() {
        let _ = write!(text, ", key {:?}", String::from_utf8_lossy(key));
    }
    match message.payload() {
        None => text.push_str(": a tombstone"),
        Some(payload) => match std::str::from_utf8(payload) {
            Ok(payload) => {
                let shown: String = payload.chars().take(SHOWN_CHARACTERS).collect();
                let rest = if shown.len() < payload.len() {
                    "…"
                } else {
                    ""
                };
                let _ = write!(text, "\n    {shown}{rest}");
            }
            Err(_) => {
                let _ = write!(text, "\n    {} bytes that are no text", payload.len());
            }
        },
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, crate::OutboxEvent)]
    #[outbox(topic = "orders", event_type = "order.placed")]
    struct OrderPlaced {
        order_id: u64,
    }

    #[test]
    #[cfg(feature = "cloudevents")]
    fn the_data_of_a_cloud_event_is_the_event() -> Result<(), BoxError> {
        let event = OrderPlaced { order_id: 17 };
        let message = crate::CloudEvent::new("/shop")
            .structured()
            .wrap(event.message()?)?;
        assert_ne!(message.payload(), event.message()?.payload());
        assert_eq!(events(&[message], json::<OrderPlaced>), [event]);
        Ok(())
    }

    #[test]
    fn what_is_shown_is_short_and_readable() -> Result<(), BoxError> {
        let long = Message::new("t")
            .with_partition(3)
            .with_key("k")
            .with_payload("ä".repeat(SHOWN_CHARACTERS + 1));
        let shown = show(&long);
        assert!(shown.contains("message without a type for topic \"t\", partition 3, key \"k\""));
        assert!(shown.ends_with("ä…"), "{shown}");
        assert_eq!(shown.matches('ä').count(), SHOWN_CHARACTERS);
        let bytes = show(&Message::new("t").with_payload([0xff, 0x00]));
        assert!(bytes.ends_with("2 bytes that are no text"), "{bytes}");
        assert!(show(&Message::new("t")).ends_with("a tombstone"));
        Ok(())
    }

    #[test]
    fn the_derive_tells_the_kinds_of_a_type() {
        let kind = (Some("orders".into()), "order.placed".into());
        assert_eq!(OrderPlaced::__kinds(), [kind]);
        assert_eq!(Message::__kinds(), []);
    }
}
