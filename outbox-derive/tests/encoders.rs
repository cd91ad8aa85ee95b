//! What the encoders of other formats make of events, read back by their own libraries.

use std::collections::HashMap;

use apache_avro::{AvroSchema, SpecificSingleObjectReader};
use outbox::{Avro, Error, Message, OutboxEvent, Protobuf};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn payload(message: &Message) -> &[u8] {
    message.payload().unwrap()
}

mod protobuf {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Line {
        #[prost(string, tag = "1")]
        sku: String,
    }

    #[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
    #[outbox(topic = "orders", key = order_id, encode = Protobuf)]
    struct OrderPlaced {
        #[prost(uint64, tag = "1")]
        order_id: u64,
        #[prost(message, repeated, tag = "2")]
        lines: Vec<Line>,
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let event = OrderPlaced {
            order_id: 17,
            lines: vec![Line { sku: "a".into() }, Line { sku: "b".into() }],
        };
        let message = event.message().unwrap();
        assert_eq!(OrderPlaced::decode(payload(&message)).unwrap(), event);
        let content_type = message.headers().first("content-type");
        assert_eq!(content_type, Some(&b"application/protobuf"[..]));
    }

    #[test]
    fn a_message_of_defaults_is_empty_but_no_tombstone() {
        let message = OrderPlaced::default().message().unwrap();
        assert_eq!(message.payload(), Some(&[][..]));
    }
}

mod avro {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
    struct Line {
        sku: String,
        count: i32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, AvroSchema, OutboxEvent)]
    #[outbox(topic = "orders", key = order_id, encode = Avro)]
    struct OrderPlaced {
        order_id: Uuid,
        lines: Vec<Line>,
        first: Option<Line>,
        prices: HashMap<String, f64>,
    }

    fn event() -> OrderPlaced {
        let line = |sku: &str| Line {
            sku: sku.into(),
            count: -3,
        };
        OrderPlaced {
            order_id: Uuid::from_u128(17),
            lines: vec![line("a"), line("b")],
            first: Some(line("c")),
            prices: HashMap::from([("a".to_owned(), 1.5)]),
        }
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let message = event().message().unwrap();
        let reader = SpecificSingleObjectReader::<OrderPlaced>::new().unwrap();
        let read: OrderPlaced = reader.read(&mut payload(&message)).unwrap();
        assert_eq!(read, event());
        let content_type = message.headers().first("content-type");
        assert_eq!(content_type, Some(&b"application/avro"[..]));
    }

    #[test]
    fn types_are_kept_apart() {
        #[derive(Serialize, AvroSchema, OutboxEvent)]
        #[outbox(topic = "t", encode = Avro)]
        struct Of<T: AvroSchema + apache_avro::AvroSchemaComponent + Serialize>(
            #[serde(rename = "value")] T,
        );
        let number = Of(1_i32).message().unwrap();
        let text = Of("a".to_owned()).message().unwrap();
        assert_ne!(payload(&number)[..10], payload(&text)[..10]);
        // Once more from what is kept.
        assert_eq!(Of(1_i32).message().unwrap().payload(), number.payload());
    }

    #[test]
    fn a_value_that_does_not_fit_its_schema_is_refused() {
        #[derive(AvroSchema, OutboxEvent)]
        #[outbox(topic = "orders", encode = Avro)]
        #[allow(dead_code)]
        struct Other {
            id: i32,
        }
        impl Serialize for Other {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str("no record")
            }
        }
        let error = Other { id: 1 }.message().unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error}");
        assert!(error.to_string().contains("orders"), "{error}");
    }
}

#[test]
fn a_generic_event_with_a_schema_registry_says_its_bound() {
    use outbox::Confluent;
    use outbox::registry::Format;

    #[derive(Serialize, AvroSchema, OutboxEvent)]
    #[outbox(topic = "orders", encode = Confluent<Avro>, bound = "Avro: Format<Self>")]
    struct Changed<T: Serialize + apache_avro::AvroSchemaComponent> {
        value: T,
    }
    // Not registered.
    assert!(Changed { value: 1 }.message().is_err());
}
