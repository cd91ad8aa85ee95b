//! Events in Confluent's wire format, with a schema registry of a few lines.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apache_avro::AvroSchema;
use outbox::registry::{
    JsonSchema, NotRegistered, ProtobufSchema, RegistryError, SchemaRegistry, SubjectNames,
};
use outbox::{Avro, Confluent, Error, Json, OutboxEvent, Protobuf};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A request as the registry saw it.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    authorization: Option<String>,
    body: Value,
}

/// Answers one request after the other with what a function says.
struct Registry {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    fn start(answer: fn(&Request) -> (&'static str, Value)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let Some(request) = read(&mut connection) else {
                    continue;
                };
                let (status, body) = answer(&request);
                seen.lock().unwrap().push(request);
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
                     Connection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                connection.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        Self { url, requests }
    }

    /// One that gives this id to whatever is sent.
    fn with_id_258() -> Self {
        Self::start(|_| ("200 OK", json!({ "id": 258 })))
    }

    fn client(&self) -> SchemaRegistry {
        SchemaRegistry::new(&self.url).with_timeout(Duration::from_secs(10))
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(connection);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    while let Some(header) = line().filter(|line| !line.is_empty()) {
        let (name, value) = header.split_once(": ")?;
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        path,
        authorization: headers.remove("authorization"),
        body: serde_json::from_slice(&body).ok()?,
    })
}

fn payload(event: &impl OutboxEvent) -> Vec<u8> {
    event.message().unwrap().payload().unwrap().to_vec()
}

/// The bytes of id 258.
const PREFIX: [u8; 5] = [0, 0, 0, 1, 2];

mod avro {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, AvroSchema, OutboxEvent)]
    #[avro(namespace = "shop")]
    #[outbox(topic = "orders-{region}", key = order_id, encode = Confluent<Avro>)]
    struct OrderPlaced {
        order_id: i64,
        region: String,
    }

    fn event(region: &str) -> OrderPlaced {
        OrderPlaced {
            order_id: 17,
            region: region.to_owned(),
        }
    }

    #[tokio::test]
    async fn an_event_is_encoded_without_the_network_once_it_is_registered() {
        let registry = Registry::with_id_258();
        let client = registry.client().with_basic_auth("shop", "secret");
        let id = client.register::<OrderPlaced, Avro>("orders-eu").await;
        assert_eq!(id.unwrap(), 258);

        let requests = registry.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].path, "/subjects/orders-eu-value/versions");
        let authorization = requests[0].authorization.as_deref();
        assert_eq!(authorization, Some("Basic c2hvcDpzZWNyZXQ="));
        assert_eq!(requests[0].body["schemaType"], "AVRO");
        let schema: Value =
            serde_json::from_str(requests[0].body["schema"].as_str().unwrap()).unwrap();
        assert_eq!(schema["name"], "OrderPlaced");
        assert_eq!(schema["fields"][0]["type"], "long");

        let payload = payload(&event("eu"));
        assert_eq!(payload, [&PREFIX[..], &[34, 4], b"eu"].concat());
        let schema = OrderPlaced::get_schema();
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema);
        let reader = reader.build().unwrap();
        let read: OrderPlaced = reader.read_deser(&mut &payload[5..]).unwrap();
        assert_eq!(read, event("eu"));

        assert_eq!(registry.requests().len(), 1);
        let message = event("eu").message().unwrap();
        assert_eq!(message.headers().first("content-type"), None);
    }

    #[tokio::test]
    async fn each_topic_has_an_id_of_its_own() {
        let registry = Registry::start(|request| match request.path.as_str() {
            "/subjects/orders-us-value/versions" => ("200 OK", json!({ "id": 1 })),
            _ => ("200 OK", json!({ "id": 2 })),
        });
        let client = registry.client();
        for topic in ["orders-us", "orders-asia"] {
            let registered = client.register::<OrderPlaced, Avro>(topic).await;
            registered.unwrap();
        }
        assert_eq!(payload(&event("us"))[..5], [0, 0, 0, 0, 1]);
        assert_eq!(payload(&event("asia"))[..5], [0, 0, 0, 0, 2]);
    }

    #[test]
    fn an_event_that_is_not_registered_is_refused_with_the_remedy() {
        let error = event("mars").message().unwrap_err();
        assert!(error.is_invalid_event());
        let text = error.to_string();
        for expected in [
            "schema_registry::avro::OrderPlaced",
            "\"orders-mars-value\"",
            "`registry.register::<OrderPlaced, Avro>(\"orders-mars\")`",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let Error::Encode { reason, .. } = error else {
            panic!("{error}");
        };
        let reason = reason.downcast::<NotRegistered>().unwrap();
        assert_eq!(reason.topic(), "orders-mars");
        assert!(reason.type_name().ends_with("avro::OrderPlaced"));
    }

    #[tokio::test]
    async fn subjects_may_be_named_by_the_record() {
        #[derive(Serialize, AvroSchema)]
        #[avro(namespace = "shop")]
        struct Moved(i32);

        let registry = Registry::with_id_258();
        for subjects in [SubjectNames::Record, SubjectNames::TopicRecord] {
            let client = registry.client().with_subjects(subjects);
            client.register::<Moved, Avro>("orders").await.unwrap();
        }
        let paths = registry.requests().into_iter().map(|request| request.path);
        assert_eq!(
            paths.collect::<Vec<_>>(),
            [
                "/subjects/shop.Moved/versions",
                "/subjects/orders-shop.Moved/versions",
            ]
        );
    }
}

mod protobuf {
    use super::*;

    const PROTO: &str = r#"
        syntax = "proto3";
        package shop;
        message OrderPlaced { uint64 order_id = 1; }
        message OrderShipped { message Parcel { string carrier = 1; } }
    "#;

    #[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
    #[outbox(topic = "orders", encode = Confluent<Protobuf>)]
    struct OrderPlaced {
        #[prost(uint64, tag = "1")]
        order_id: u64,
    }

    impl prost::Name for OrderPlaced {
        const PACKAGE: &'static str = "shop";
        const NAME: &'static str = "OrderPlaced";
    }

    impl ProtobufSchema for OrderPlaced {
        const PROTO: &'static str = PROTO;
    }

    #[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
    #[outbox(topic = "orders", encode = Confluent<Protobuf>)]
    struct Parcel {
        #[prost(string, tag = "1")]
        carrier: String,
    }

    impl prost::Name for Parcel {
        const PACKAGE: &'static str = "shop";
        const NAME: &'static str = "OrderShipped.Parcel";
    }

    impl ProtobufSchema for Parcel {
        const PROTO: &'static str = PROTO;
    }

    /// From a thread of a runtime too, where a runtime can't be started.
    #[tokio::test]
    async fn which_message_it_is_stands_before_it() {
        let registry = Registry::with_id_258();
        let client = registry.client().with_bearer_token("token");
        let id = client.register_blocking::<OrderPlaced, Protobuf>("orders");
        assert_eq!(id.unwrap(), 258);
        let id = client.register_blocking::<Parcel, Protobuf>("orders");
        assert_eq!(id.unwrap(), 258);
        let requests = registry.requests();
        assert_eq!(requests[0].path, "/subjects/orders-value/versions");
        assert_eq!(requests[0].body["schemaType"], "PROTOBUF");
        assert_eq!(requests[0].body["schema"], PROTO);
        assert_eq!(requests[0].authorization.as_deref(), Some("Bearer token"));

        let event = OrderPlaced { order_id: 17 };
        let expected = [&PREFIX[..], &[0], &event.encode_to_vec()].concat();
        assert_eq!(payload(&event), expected);

        let carrier = "sea".to_owned();
        let event = Parcel { carrier };
        let expected = [&PREFIX[..], &[4, 2, 0], &event.encode_to_vec()].concat();
        assert_eq!(payload(&event), expected);
    }

    #[test]
    fn a_message_that_the_file_does_not_have_is_not_sent() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Other {}

        impl prost::Name for Other {
            const PACKAGE: &'static str = "shop";
            const NAME: &'static str = "Other";
        }

        impl ProtobufSchema for Other {
            const PROTO: &'static str = PROTO;
        }

        let registry = Registry::with_id_258();
        let error = registry.client().register_blocking::<Other, Protobuf>("t");
        let error = error.unwrap_err();
        assert!(error.is_invalid_schema());
        let text = error.to_string();
        assert!(text.contains("no message `shop.Other`"), "{text}");
        assert!(registry.requests().is_empty());
    }
}

mod json_schema {
    use super::*;

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "orders", encode = Confluent)]
    #[outbox(headers("content-type" = "application/vnd.shop"))]
    struct OrderPlaced<'a> {
        name: &'a str,
    }

    impl JsonSchema for OrderPlaced<'_> {
        fn json_schema() -> String {
            r#"{"title": "OrderPlaced", "type": "object"}"#.to_owned()
        }
    }

    #[test]
    fn looking_up_changes_nothing_in_the_registry() {
        let registry = Registry::with_id_258();
        let id = registry
            .client()
            .look_up_blocking::<OrderPlaced<'_>, Json>("orders");
        assert_eq!(id.unwrap(), 258);
        let requests = registry.requests();
        assert_eq!(requests[0].path, "/subjects/orders-value?deleted=false");
        assert_eq!(requests[0].body["schemaType"], "JSON");
        assert_eq!(requests[0].body["schema"], OrderPlaced::json_schema());

        let name = "ä".to_owned();
        let event = OrderPlaced { name: &name };
        let expected = [&PREFIX[..], r#"{"name":"ä"}"#.as_bytes()].concat();
        assert_eq!(payload(&event), expected);
    }
}

mod errors {
    use super::*;

    #[derive(Serialize, AvroSchema, OutboxEvent)]
    #[outbox(topic = "refused", encode = Confluent<Avro>)]
    struct Refused {
        id: i32,
    }

    fn refused(registry: &SchemaRegistry) -> RegistryError {
        let error = registry.register_blocking::<Refused, Avro>("refused");
        assert!(Refused { id: 1 }.message().is_err());
        error.unwrap_err()
    }

    #[test]
    fn a_schema_that_is_refused() {
        let registry = Registry::start(|_| {
            let message = "Schema being registered is incompatible with an earlier schema";
            (
                "409 Conflict",
                json!({ "error_code": 409, "message": message }),
            )
        });
        let error = refused(&registry.client());
        assert!(!error.is_unavailable() && !error.is_invalid_schema());
        let text = error.to_string();
        for expected in [
            "errors::Refused",
            "\"refused-value\"",
            "409",
            "incompatible",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_none() {
        let registry = Registry::start(|_| ("200 OK", json!({ "version": 1 })));
        let text = refused(&registry.client()).to_string();
        assert!(text.contains("id"), "{text}");
    }

    #[test]
    fn a_registry_that_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = refused(&SchemaRegistry::new(&url));
        assert!(error.is_unavailable());
        let text = error.to_string();
        assert!(text.contains(&url) && text.contains("refused"), "{text}");

        // The next one is asked then.
        let registry = Registry::with_id_258();
        let client = SchemaRegistry::new(url).with_further_url(&registry.url);
        let id = client.look_up_blocking::<Refused, Avro>("elsewhere");
        assert_eq!(id.unwrap(), 258);
    }

    #[test]
    fn secrets_are_not_printed() {
        let registry = SchemaRegistry::new("http://shop:secret@localhost")
            .with_basic_auth("shop", "secret")
            .with_bearer_token("secret");
        let text = format!("{registry:?}");
        assert!(!text.contains("secret"), "{text}");
    }
}

/// Programs register their types in tasks.
#[allow(dead_code)]
fn futures_are_send(registry: &SchemaRegistry) -> impl Send {
    #[derive(Serialize, AvroSchema)]
    struct Event(i32);
    registry.register::<Event, Avro>("t")
}
