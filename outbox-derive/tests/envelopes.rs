//! What envelopes make of messages.

use outbox::{Bytes, CloudEvent, Error, Message, OutboxEvent};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

fn message(event: &impl OutboxEvent) -> Message {
    event.message().unwrap()
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let value = message.headers().first(name)?;
    Some(std::str::from_utf8(value).unwrap())
}

fn payload(message: &Message) -> Value {
    serde_json::from_slice(message.payload().unwrap()).unwrap()
}

/// The attribute and the reason of an invalid envelope.
fn invalid(event: &impl OutboxEvent) -> (String, &'static str) {
    match event.message().unwrap_err() {
        Error::InvalidEnvelope {
            attribute, reason, ..
        } => (attribute, reason),
        other => panic!("{other}"),
    }
}

const EVENT_ID: Uuid = Uuid::from_u128(7);

mod binary {
    use super::*;

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "orders", key = order_id, id = EVENT_ID, event_type = "order.placed")]
    #[outbox(envelope = CloudEvent(source = "/shop", subject = order_id))]
    #[outbox(headers(tenant = "acme", "ce_tenantid" = "acme"))]
    struct OrderPlaced {
        order_id: u64,
    }

    #[test]
    fn attributes_are_headers_and_the_payload_stays() {
        let message = message(&OrderPlaced { order_id: 17 });
        assert_eq!(message.payload(), Some(&br#"{"order_id":17}"#[..]));
        assert_eq!(message.key(), Some(&b"17"[..]));
        let names: Vec<_> = message.headers().iter().map(|h| h.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tenant",
                "ce_tenantid",
                "content-type",
                "ce_specversion",
                "ce_id",
                "ce_source",
                "ce_type",
                "ce_time",
                "ce_subject",
            ]
        );
        assert_eq!(header(&message, "content-type"), Some("application/json"));
        assert_eq!(header(&message, "ce_specversion"), Some("1.0"));
        let id = EVENT_ID.to_string();
        assert_eq!(header(&message, "ce_id"), Some(id.as_str()));
        assert_eq!(message.id(), EVENT_ID);
        assert_eq!(header(&message, "ce_source"), Some("/shop"));
        assert_eq!(header(&message, "ce_type"), Some("order.placed"));
        assert_eq!(header(&message, "ce_subject"), Some("17"));
        assert_eq!(header(&message, "ce_tenantid"), Some("acme"));
    }

    #[test]
    fn the_time_is_now_in_rfc_3339() {
        let before = std::time::SystemTime::now() - std::time::Duration::from_millis(1);
        let message = message(&OrderPlaced { order_id: 17 });
        let time = header(&message, "ce_time").unwrap();
        assert!(time.len() == "2018-04-05T17:31:00.123Z".len() && time.ends_with('Z'));
        let time: jiff::Timestamp = time.parse().unwrap();
        let after = std::time::SystemTime::now();
        assert!((before..=after).contains(&std::time::SystemTime::from(time)));
    }

    #[test]
    fn every_attribute_from_every_kind_of_value() {
        const SCHEMAS: &str = "https://shop.example/schemas";

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode = Bytes, envelope = outbox::CloudEvent(
            mode = binary,
            source = "https://{region}.shop.example/",
            subject = "order-{id:04}",
            time = placed_at,
            dataschema = format!("{SCHEMAS}/{}", self.version),
        ))]
        struct Event {
            region: &'static str,
            id: u8,
            placed_at: jiff::Timestamp,
            version: u8,
        }
        impl AsRef<[u8]> for Event {
            fn as_ref(&self) -> &[u8] {
                &[0, 255]
            }
        }
        let placed_at = "2018-04-05T17:31:00.123456Z";
        let message = message(&Event {
            region: "eu",
            id: 7,
            placed_at: placed_at.parse().unwrap(),
            version: 2,
        });
        let source = header(&message, "ce_source");
        assert_eq!(source, Some("https://eu.shop.example/"));
        assert_eq!(header(&message, "ce_subject"), Some("order-0007"));
        assert_eq!(header(&message, "ce_time"), Some(placed_at));
        let dataschema = header(&message, "ce_dataschema");
        assert_eq!(dataschema, Some("https://shop.example/schemas/2"));
        assert_eq!(header(&message, "ce_type"), Some("Event"));
        assert_eq!(message.payload(), Some(&[0, 255][..]));
    }

    #[test]
    fn a_subject_and_a_time_may_be_missing() {
        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = "t", envelope = CloudEvent(source = "/", subject = name, time = at))]
        struct Event {
            name: Option<String>,
            at: Option<&'static str>,
        }
        let without = message(&Event {
            name: None,
            at: None,
        });
        assert_eq!(header(&without, "ce_subject"), None);
        assert!(header(&without, "ce_time").is_some());
        // A time is written in UTC, whatever its offset.
        let given = message(&Event {
            name: Some("ä".into()),
            at: Some("2018-04-05T19:31:00+02:00"),
        });
        assert_eq!(header(&given, "ce_subject"), Some("ä"));
        assert_eq!(header(&given, "ce_time"), Some("2018-04-05T17:31:00Z"));
    }
}

mod structured {
    use super::*;

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "orders", id = EVENT_ID)]
    #[outbox(headers(tenant = "acme", "ce_tenantid" = "acme \"ä\""))]
    #[outbox(envelope = CloudEvent(source = "/shop", mode = structured, time = "2018-04-05T17:31:00Z",
        subject = order_id, dataschema = "https://shop.example/order"))]
    struct OrderPlaced {
        order_id: u64,
    }

    #[test]
    fn json_is_put_in_as_json() {
        let message = message(&OrderPlaced { order_id: u64::MAX });
        let headers: Vec<_> = message.headers().iter().map(|h| h.name.as_str()).collect();
        assert_eq!(headers, ["tenant", "content-type"]);
        assert_eq!(
            header(&message, "content-type"),
            Some("application/cloudevents+json; charset=UTF-8")
        );
        assert_eq!(
            payload(&message),
            json!({
                "specversion": "1.0",
                "id": EVENT_ID.to_string(),
                "source": "/shop",
                "type": "OrderPlaced",
                "subject": u64::MAX.to_string(),
                "time": "2018-04-05T17:31:00Z",
                "dataschema": "https://shop.example/order",
                "datacontenttype": "application/json",
                "tenantid": "acme \"ä\"",
                "data": { "order_id": u64::MAX },
            })
        );
    }

    #[test]
    fn anything_else_is_put_in_as_base64() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode = Bytes)]
        #[outbox(envelope = CloudEvent(source = "/shop", mode = structured))]
        struct File(Vec<u8>);
        impl AsRef<[u8]> for File {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let sent = payload(&message(&File(vec![0, 255])));
        assert_eq!(sent["data_base64"], "AP8=");
        assert_eq!(sent["datacontenttype"], "application/octet-stream");
        assert_eq!(sent.get("data"), None);
    }

    #[test]
    fn data_of_an_unknown_type_is_base64_without_a_type() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = Self::bytes)]
        #[outbox(envelope = CloudEvent(source = "/shop", mode = structured))]
        struct Event;
        impl Event {
            fn bytes(&self) -> Result<Vec<u8>, outbox::BoxError> {
                Ok(b"{}".to_vec())
            }
        }
        let sent = payload(&message(&Event));
        assert_eq!(sent["data_base64"], "e30=");
        assert_eq!(sent.get("datacontenttype"), None);
    }

    #[test]
    fn a_payload_that_is_not_the_json_it_says_is_refused() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = Self::bytes)]
        #[outbox(headers("content-type" = "application/vnd.shop+json"))]
        #[outbox(envelope = CloudEvent(source = "/shop", mode = structured))]
        struct Event(&'static str);
        impl Event {
            fn bytes(&self) -> Result<Vec<u8>, outbox::BoxError> {
                Ok(self.0.as_bytes().to_vec())
            }
        }
        let sent = payload(&message(&Event(" [1.50] ")));
        assert_eq!(sent["data"], json!([1.5]));
        // A number that no type of serde_json holds is JSON, and goes as it is.
        let huge = message(&Event("11e9999")).payload().map(<[u8]>::to_vec);
        let huge = String::from_utf8(huge.unwrap()).unwrap();
        assert!(huge.contains("\"data\":11e9999"), "{huge}");
        assert_eq!(invalid(&Event("[1.50")).0, "data");
    }
}

#[test]
fn tombstones_stay_tombstones() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "customers", key = id)]
    #[outbox(envelope = CloudEvent(source = "/shop", mode = structured, subject = id))]
    enum Customer {
        Changed {
            id: u64,
        },
        #[outbox(tombstone)]
        Forgotten {
            id: u64,
        },
    }
    let changed = message(&Customer::Changed { id: 5 });
    assert_eq!(payload(&changed)["data"]["Changed"]["id"], 5);
    let forgotten = message(&Customer::Forgotten { id: 5 });
    assert_eq!(forgotten.payload(), None);
    assert_eq!(header(&forgotten, "content-type"), None);
    assert_eq!(header(&forgotten, "ce_type"), Some("Forgotten"));
    assert_eq!(header(&forgotten, "ce_subject"), Some("5"));
}

#[test]
fn a_variant_replaces_the_envelope_or_takes_it_back() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", envelope = CloudEvent(source = "/shop"))]
    enum Event {
        A,
        #[outbox(envelope = CloudEvent(source = "/other", mode = structured))]
        B,
        #[outbox(envelope = None)]
        C,
    }
    let source = |event| header(&message(&event), "ce_source").map(str::to_owned);
    assert_eq!(source(Event::A).as_deref(), Some("/shop"));
    assert_eq!(payload(&message(&Event::B))["source"], "/other");
    assert_eq!(source(Event::C), None);
    assert_eq!(message(&Event::C).headers().len(), 1);
}

#[test]
fn a_trait_object_has_its_envelope() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", envelope = CloudEvent(source = "/shop"))]
    struct Event;
    let event: Box<dyn OutboxEvent> = Box::new(Event);
    assert_eq!(header(&message(&event), "ce_source"), Some("/shop"));
    let wrapped = event.envelope(Message::new("t").with_event_type("x"));
    assert!(wrapped.unwrap().headers().first("ce_id").is_some());
}

#[test]
fn what_only_shows_at_run_time_is_refused_then() {
    #[derive(Clone, Serialize, OutboxEvent)]
    #[outbox(topic = "orders", event_type = event_type, headers("ce_region" = region))]
    #[outbox(envelope = CloudEvent(
        source = source,
        subject = subject,
        time = time,
        dataschema = dataschema,
    ))]
    struct Event {
        event_type: &'static str,
        region: Vec<u8>,
        source: &'static str,
        subject: &'static str,
        time: &'static str,
        dataschema: &'static str,
    }
    let right = Event {
        event_type: "placed",
        region: b"eu".to_vec(),
        source: "/shop",
        subject: "17",
        time: "2018-04-05T17:31:00Z",
        dataschema: "urn:order",
    };
    assert!(right.message().is_ok());
    type Break = fn(&mut Event);
    let cases: [(&str, Break); 10] = [
        ("type", |event| event.event_type = ""),
        ("type", |event| event.event_type = "a\nb"),
        ("region", |event| event.region = vec![0xff]),
        ("source", |event| event.source = ""),
        ("source", |event| event.source = "/our shop"),
        ("subject", |event| event.subject = ""),
        ("subject", |event| event.subject = "a\u{fffe}"),
        ("time", |event| event.time = "2018-04-05"),
        ("time", |event| event.time = "yesterday"),
        ("dataschema", |event| event.dataschema = "/order"),
    ];
    for (attribute, breaking) in cases {
        let mut event = right.clone();
        breaking(&mut event);
        assert_eq!(invalid(&event).0, attribute);
        let error = event.message().unwrap_err();
        assert!(error.is_invalid_event());
        assert!(error.to_string().contains("\"orders\""), "{error}");
    }
}

#[test]
fn headers_that_can_not_be_attributes_are_refused() {
    let event = CloudEvent::new("/shop");
    for (name, expected) in [
        ("ce_id", "the envelope gives it"),
        ("ce_data", "the envelope gives it"),
        ("ce_tenant-id", "lower-case"),
        ("ce_", "lower-case"),
        ("ce_twice", "twice"),
    ] {
        let message = Message::new("t")
            .with_event_type("x")
            .with_header("ce_twice", "1")
            .with_header(name, "2");
        let error = event.wrap(message).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_limit_counts_the_envelope() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", max_bytes = 100)]
    struct Bare(String);
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", max_bytes = 100, envelope = CloudEvent(source = "/shop"))]
    struct Wrapped(String);
    assert!(Bare("x".into()).message().is_ok());
    assert!(matches!(
        Wrapped("x".into()).message(),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn generics_and_fields_of_the_names_that_the_expansion_uses() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t")]
    #[outbox(envelope = CloudEvent(source = event, subject = *message + 1, mode = structured))]
    struct Event<'a, T: Serialize> {
        event: &'a str,
        message: u8,
        data: T,
    }
    let sent = payload(&message(&Event {
        event: "/shop",
        message: 4,
        data: [1],
    }));
    assert_eq!(
        (&sent["source"], &sent["subject"]),
        (&json!("/shop"), &json!("5"))
    );
    assert_eq!(sent["data"]["data"], json!([1]));
}
