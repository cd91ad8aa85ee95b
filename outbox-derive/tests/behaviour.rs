//! What the derive makes of types: the messages that they become.

use std::borrow::Cow;

use outbox::{BoxError, Bytes, Error, Message, OutboxEvent};
use serde::Serialize;
use uuid::Uuid;

fn message(event: &impl OutboxEvent) -> Message {
    event.message().unwrap()
}

fn key(event: &impl OutboxEvent) -> Option<String> {
    let key = message(event).key()?.to_vec();
    Some(String::from_utf8(key).unwrap())
}

fn header(event: &impl OutboxEvent, name: &str) -> Option<String> {
    let value = message(event).headers().first(name)?.to_vec();
    Some(String::from_utf8(value).unwrap())
}

#[test]
fn a_struct_with_little_said() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "orders", key = order_id)]
    struct OrderPlaced {
        order_id: u64,
        total_cents: i64,
    }
    let message = message(&OrderPlaced {
        order_id: 17,
        total_cents: -5,
    });
    assert_eq!(message.topic(), "orders");
    assert_eq!(message.key(), Some(&b"17"[..]));
    assert_eq!(message.partition(), None);
    assert_eq!(message.event_type(), Some("OrderPlaced"));
    let payload = message.payload().unwrap();
    assert_eq!(payload, br#"{"order_id":17,"total_cents":-5}"#);
    let headers = message.headers();
    assert_eq!(headers.len(), 1);
    assert_eq!(
        headers.first("content-type"),
        Some(&b"application/json"[..])
    );
}

mod topic {
    use super::*;

    const ORDERS: &str = "orders-of-a-constant";
    static SHIPPING: &str = "shipping-of-a-static";

    fn topic_of(event: &impl OutboxEvent) -> String {
        message(event).topic().to_owned()
    }

    #[test]
    fn constants() {
        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = ORDERS)]
        struct Constant;
        assert_eq!(topic_of(&Constant), ORDERS);

        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = super::topic::SHIPPING)]
        struct Static;
        assert_eq!(topic_of(&Static), SHIPPING);

        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = Self::TOPIC)]
        struct Associated;
        impl Associated {
            const TOPIC: &str = "associated";
        }
        assert_eq!(topic_of(&Associated), "associated");

        trait Named {
            const NAME: &str;
        }
        #[derive(Serialize)]
        struct Eu;
        impl Named for Eu {
            const NAME: &str = "eu";
        }
        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = R::NAME)]
        struct Of<R: Named>(R);
        assert_eq!(topic_of(&Of(Eu)), "eu");
    }

    #[test]
    fn fields_and_expressions() {
        struct Region {
            name: String,
        }

        #[derive(OutboxEvent)]
        #[outbox(topic = region, encode_with = nothing)]
        struct ByField<'a> {
            region: &'a str,
        }
        assert_eq!(topic_of(&ByField { region: "eu" }), "eu");

        #[derive(OutboxEvent)]
        #[outbox(topic = self.region.name, encode_with = nothing)]
        struct ByPlace {
            region: Region,
        }
        let region = Region { name: "eu".into() };
        assert_eq!(topic_of(&ByPlace { region }), "eu");

        #[derive(OutboxEvent)]
        #[outbox(topic = self.topic_of_region(), encode_with = nothing)]
        struct ByMethod(u8);
        impl ByMethod {
            fn topic_of_region(&self) -> Cow<'_, str> {
                match self.0 {
                    0 => "none".into(),
                    n => format!("region-{n}").into(),
                }
            }
        }
        assert_eq!(topic_of(&ByMethod(0)), "none");
        assert_eq!(topic_of(&ByMethod(3)), "region-3");

        #[derive(OutboxEvent)]
        #[outbox(topic = "orders-{region}.{shard:03}", encode_with = nothing)]
        struct ByTemplate {
            region: &'static str,
            shard: u8,
        }
        let by_template = ByTemplate {
            region: "eu",
            shard: 7,
        };
        assert_eq!(topic_of(&by_template), "orders-eu.007");
    }

    #[test]
    fn what_only_shows_at_run_time_is_refused_then() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "orders-{0}", encode_with = nothing)]
        struct Event(&'static str);
        let error = Event("a b").message().unwrap_err();
        assert!(matches!(error, Error::InvalidTopic { .. }), "{error}");
    }
}

mod keys {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        macro_rules! check {
            ($($type:ty: $value:expr => $expected:expr),+ $(,)?) => {$({
                #[derive(OutboxEvent)]
                #[outbox(topic = "t", key = id, encode_with = nothing)]
                struct Event { id: $type }
                let event = Event { id: $value };
                let expected: Option<&[u8]> = $expected;
                assert_eq!(message(&event).key(), expected, stringify!($type));

                #[derive(OutboxEvent)]
                #[outbox(topic = "t", key = (self.0), encode_with = nothing)]
                struct Place($type);
                assert_eq!(message(&Place($value)).key(), expected, stringify!($type));
            })+};
        }
        check!(
            u64: 17 => Some(b"17"),
            i8: -1 => Some(b"-1"),
            String: "a".to_owned() => Some(b"a"),
            &'static str: "a" => Some(b"a"),
            char: 'x' => Some(b"x"),
            Cow<'static, str>: "a".into() => Some(b"a"),
            Uuid: Uuid::nil() => Some(b"00000000-0000-0000-0000-000000000000"),
            Vec<u8>: vec![0, 255] => Some(&[0, 255]),
            [u8; 2]: [0, 255] => Some(&[0, 255]),
            &'static [u8]: &[0, 255] => Some(&[0, 255]),
            &'static Vec<u8>: Box::leak(Box::new(vec![0, 255])) => Some(&[0, 255]),
            Cow<'static, [u8]>: vec![0, 255].into() => Some(&[0, 255]),
            Option<u8>: Some(3) => Some(b"3"),
            Option<u8>: None => None,
            Option<Vec<u8>>: Some(vec![0, 255]) => Some(&[0, 255]),
            Option<&'static [u8]>: None => None,
            Option<Option<String>>: Some(Some("a".into())) => Some(b"a"),
            &'static Option<u8>: &Some(3) => Some(b"3"),
        );
    }

    #[test]
    fn templates() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = "{{o}}-{id:04}-{r#type}-{type:?}", encode_with = nothing)]
        struct Event {
            id: u32,
            r#type: &'static str,
        }
        let event = Event {
            id: 17,
            r#type: "b",
        };
        assert_eq!(key(&event).as_deref(), Some("{o}-0017-b-\"b\""));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = "{1}/{0}{0}", encode_with = nothing)]
        struct Tuple(u8, u8);
        assert_eq!(key(&Tuple(1, 2)).as_deref(), Some("2/11"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = "all", encode_with = nothing)]
        struct Constant;
        assert_eq!(key(&Constant).as_deref(), Some("all"));
    }

    #[test]
    fn expressions() {
        const PREFIX: &str = "p";
        fn id(of: &Event) -> u64 {
            of.id
        }

        #[derive(OutboxEvent)]
        // `id` is a field and a function here.
        #[outbox(topic = "t", key = id(self) + 4, encode_with = nothing)]
        struct Event {
            id: u64,
        }
        assert_eq!(key(&Event { id: 4 }).as_deref(), Some("8"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = format!("{PREFIX}-{id}-{}", name.len()), encode_with = nothing)]
        struct Formatted {
            id: u64,
            name: String,
        }
        let formatted = Formatted {
            id: 4,
            name: "abc".into(),
        };
        assert_eq!(key(&formatted).as_deref(), Some("p-4-3"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = if *big { "big" } else { "small" }, encode_with = nothing)]
        struct Branch {
            big: bool,
        }
        assert_eq!(key(&Branch { big: true }).as_deref(), Some("big"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = b"\x00\xff", encode_with = nothing)]
        struct Binary;
        assert_eq!(message(&Binary).key(), Some(&[0, 255][..]));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = self, encode_with = nothing)]
        struct Whole(u8);
        impl std::fmt::Display for Whole {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "whole-{}", self.0)
            }
        }
        assert_eq!(key(&Whole(1)).as_deref(), Some("whole-1"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = self.parent.as_ref()?.id, encode_with = nothing)]
        struct Child {
            parent: Option<Event>,
        }
        assert_eq!(key(&Child { parent: None }), None);
        let parent = Some(Event { id: 9 });
        assert_eq!(key(&Child { parent }).as_deref(), Some("9"));
    }

    #[test]
    fn marked_fields() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = nothing)]
        struct Named {
            _other: u8,
            #[outbox(key)]
            r#type: u8,
        }
        let named = Named {
            _other: 1,
            r#type: 2,
        };
        assert_eq!(key(&named).as_deref(), Some("2"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = nothing)]
        struct Tuple(#[allow(dead_code)] u8, #[outbox(key, partition)] u8);
        assert_eq!(key(&Tuple(1, 2)).as_deref(), Some("2"));
        assert_eq!(message(&Tuple(1, 2)).partition(), Some(2));
    }
}

mod partitions {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        macro_rules! check {
            ($($type:ty: $value:expr => $expected:expr),+ $(,)?) => {$({
                #[derive(OutboxEvent)]
                #[outbox(topic = "t", partition = shard, encode_with = nothing)]
                struct Event { shard: $type }
                let event = Event { shard: $value };
                assert_eq!(OutboxEvent::partition(&event), $expected);

                #[derive(OutboxEvent)]
                #[outbox(topic = "t", partition = self.0, encode_with = nothing)]
                struct Place($type);
                assert_eq!(OutboxEvent::partition(&Place($value)), $expected);
            })+};
        }
        check!(
            i32: 3 => Some(3),
            u32: 3 => Some(3),
            u32: u32::MAX => Some(-1),
            i32: -7 => Some(-7),
            u64: u64::MAX => Some(-1),
            usize: 3 => Some(3),
            u8: 3 => Some(3),
            Option<i32>: Some(3) => Some(3),
            Option<u32>: None => None,
            &'static Option<u32>: &Some(3) => Some(3),
        );
    }

    #[test]
    fn out_of_range_is_refused() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", partition = self.0, encode_with = nothing)]
        struct Event(u32);
        let error = Event(1 << 31).message().unwrap_err();
        assert!(matches!(error, Error::InvalidPartition { .. }), "{error}");
        assert_eq!(message(&Event(i32::MAX as u32)).partition(), Some(i32::MAX));
    }

    #[test]
    fn constants_and_expressions() {
        const SHARDS: u64 = 12;
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", partition = customer % SHARDS, encode_with = nothing)]
        struct Event {
            customer: u64,
        }
        assert_eq!(message(&Event { customer: 25 }).partition(), Some(1));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", partition = 3, encode_with = nothing)]
        struct Constant;
        assert_eq!(message(&Constant).partition(), Some(3));
    }
}

mod names {
    use super::*;

    #[test]
    fn event_types() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", event_type = "order.placed", encode_with = nothing)]
        struct Given;
        assert_eq!(message(&Given).event_type(), Some("order.placed"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", event_type = "order.{0}", encode_with = nothing)]
        struct Template(&'static str);
        assert_eq!(message(&Template("x")).event_type(), Some("order.x"));

        const NAME: &str = "name";
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", event_type = NAME, encode_with = nothing)]
        struct Constant;
        assert_eq!(message(&Constant).event_type(), Some("name"));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = nothing)]
        #[allow(non_camel_case_types)]
        struct r#type;
        assert_eq!(message(&r#type).event_type(), Some("type"));
    }

    #[test]
    fn the_rules_of_serde() {
        macro_rules! check {
            ($($rule:literal => $name:literal),+ $(,)?) => {$({
                #[derive(Serialize, OutboxEvent)]
                #[outbox(topic = "t", rename_all = $rule)]
                #[serde(rename_all = $rule)]
                enum Event {
                    OrderPlacedV2,
                    #[outbox(event_type = "Explicit")]
                    Other,
                }
                assert_eq!(message(&Event::OrderPlacedV2).event_type(), Some($name));
                assert_eq!(message(&Event::Other).event_type(), Some("Explicit"));
                let serde = serde_json::to_value(Event::OrderPlacedV2).unwrap();
                assert_eq!(serde, $name);

                #[derive(OutboxEvent)]
                #[outbox(topic = "t", rename_all = $rule, encode_with = nothing)]
                struct OrderPlacedV2;
                assert_eq!(message(&OrderPlacedV2).event_type(), Some($name));
            })+};
        }
        check!(
            "lowercase" => "orderplacedv2",
            "UPPERCASE" => "ORDERPLACEDV2",
            "PascalCase" => "OrderPlacedV2",
            "camelCase" => "orderPlacedV2",
            "snake_case" => "order_placed_v2",
            "SCREAMING_SNAKE_CASE" => "ORDER_PLACED_V2",
            "kebab-case" => "order-placed-v2",
            "SCREAMING-KEBAB-CASE" => "ORDER-PLACED-V2",
        );
    }
}

#[test]
fn headers() {
    #[derive(OutboxEvent)]
    #[outbox(topic = "t", version = 2, encode_with = nothing)]
    #[outbox(headers("tenant-id" = tenant, kind = "placed-{id:02}", r#type = self.id + 1))]
    struct Event {
        id: u8,
        tenant: Option<String>,
        #[outbox(header)]
        trace: Vec<u8>,
        #[outbox(header = "X-Region")]
        region: &'static str,
    }
    let event = |tenant: Option<&str>| Event {
        id: 7,
        tenant: tenant.map(str::to_owned),
        trace: vec![0xff],
        region: "eu",
    };
    let message = message(&event(Some("acme")));
    let sent: Vec<_> = message
        .headers()
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_slice()))
        .collect();
    assert_eq!(
        sent,
        [
            ("schema-version", &b"2"[..]),
            ("tenant-id", b"acme"),
            ("kind", b"placed-07"),
            ("type", b"8"),
            ("trace", b"\xff"),
            ("X-Region", b"eu"),
        ]
    );
    assert_eq!(header(&event(None), "tenant-id"), None);
}

#[test]
fn ids() {
    #[derive(OutboxEvent)]
    #[outbox(topic = "t", id = event_id, encode_with = nothing)]
    struct ByField {
        event_id: Uuid,
    }
    let event_id = Uuid::from_u128(7);
    assert_eq!(message(&ByField { event_id }).id(), event_id);

    #[derive(OutboxEvent)]
    #[outbox(topic = "t", encode_with = nothing)]
    struct Marked(#[outbox(id)] Uuid);
    assert_eq!(message(&Marked(event_id)).id(), event_id);

    #[derive(OutboxEvent)]
    #[outbox(topic = "t", id = Uuid::from_u128(self.0), encode_with = nothing)]
    struct ByExpression(u128);
    assert_eq!(message(&ByExpression(7)).id(), event_id);

    #[derive(OutboxEvent)]
    #[outbox(topic = "t", encode_with = nothing)]
    enum Some {
        #[outbox(id = id)]
        Given {
            id: Uuid,
        },
        New,
    }
    assert_eq!(message(&Some::Given { id: event_id }).id(), event_id);
    assert_eq!(message(&Some::New).id().get_version_num(), 7);
    assert_ne!(message(&Some::New).id(), message(&Some::New).id());
}

mod encoding {
    use super::*;

    #[test]
    fn encoders() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode = Bytes)]
        struct Raw(Vec<u8>);
        impl AsRef<[u8]> for Raw {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let event = Raw(vec![0, 255]);
        assert_eq!(message(&event).payload(), Some(&[0, 255][..]));
        let content_type = header(&event, "content-type");
        assert_eq!(content_type.as_deref(), Some("application/octet-stream"));
    }

    #[test]
    fn functions() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = Self::bytes)]
        struct Method(u8);
        impl Method {
            fn bytes(&self) -> Result<Vec<u8>, std::num::TryFromIntError> {
                Ok(vec![u8::try_from(u16::from(self.0) * 2)?])
            }
        }
        assert_eq!(message(&Method(4)).payload(), Some(&[8][..]));
        assert_eq!(header(&Method(4), "content-type"), None);
        let error = Method(200).message().unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error}");

        fn maybe<T: Copy + Into<u64>>(event: &Generic<T>) -> Result<Option<Vec<u8>>, &'static str> {
            match event.0.into() {
                0 => Ok(None),
                1 => Err("one"),
                n => Ok(Some(n.to_string().into_bytes())),
            }
        }
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", encode_with = maybe::<T>)]
        struct Generic<T: Copy + Into<u64>>(T);
        assert_eq!(message(&Generic(0_u8)).payload(), None);
        assert_eq!(message(&Generic(20_u32)).payload(), Some(&b"20"[..]));
        let error = Generic(1_u8).message().unwrap_err();
        assert!(error.to_string().contains("one"), "{error}");
    }

    #[test]
    fn the_limit() {
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", max_bytes = 4, encode_with = Self::bytes)]
        struct Event(usize);
        impl Event {
            fn bytes(&self) -> Result<Vec<u8>, BoxError> {
                Ok(vec![0; self.0])
            }
        }
        assert!(Event(4).message().is_ok());
        assert!(matches!(
            Event(5).message(),
            Err(Error::TooLarge { limit: 4, .. })
        ));

        #[derive(OutboxEvent)]
        #[outbox(topic = "t", max_bytes = limit, encode_with = nothing)]
        struct ByField {
            limit: usize,
        }
        assert_eq!(ByField { limit: 9 }.max_bytes(), 9);
    }

    #[test]
    fn tombstones() {
        // Nothing here is `Serialize`.
        #[derive(OutboxEvent)]
        #[outbox(topic = "t", key = self.0, tombstone)]
        struct Forgotten<T: std::fmt::Display>(T);
        let message = message(&Forgotten(3));
        assert_eq!(message.payload(), None);
        assert!(message.headers().is_empty());
        assert_eq!(message.key(), Some(&b"3"[..]));
    }
}

mod enums {
    use super::*;

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "orders", key = order_id, rename_all = "kebab-case", version = 1)]
    #[outbox(headers(tenant = "acme", region = "eu"))]
    enum OrderEvent {
        Placed {
            order_id: u64,
            #[outbox(header = "total")]
            total_cents: i64,
        },
        #[outbox(topic = "shipping", key = "order-{order_id}", version = 2)]
        #[outbox(headers(region = carrier, weight = (*grams as f64) / 1000.0))]
        Shipped {
            order_id: u64,
            carrier: String,
            grams: u32,
        },
        #[outbox(key = _1, partition = _0 % 4, event_type = "order.moved")]
        Moved(u32, &'static str),
        Cancelled(#[outbox(key)] u64, #[outbox(header = "region")] String),
        #[outbox(tombstone)]
        Forgotten {
            order_id: u64,
        },
        #[outbox(key = "everything")]
        Reset,
    }

    #[test]
    fn variants_take_the_settings_of_the_type() {
        let placed = OrderEvent::Placed {
            order_id: 1,
            total_cents: 2,
        };
        let sent = message(&placed);
        assert_eq!(sent.topic(), "orders");
        assert_eq!(sent.event_type(), Some("placed"));
        assert_eq!(key(&placed).as_deref(), Some("1"));
        assert_eq!(sent.partition(), None);
        assert_eq!(header(&placed, "schema-version").as_deref(), Some("1"));
        assert_eq!(header(&placed, "tenant").as_deref(), Some("acme"));
        assert_eq!(header(&placed, "region").as_deref(), Some("eu"));
        assert_eq!(header(&placed, "total").as_deref(), Some("2"));
        let payload = sent.payload().unwrap();
        assert_eq!(payload, serde_json::to_vec(&placed).unwrap());
    }

    #[test]
    fn variants_replace_the_settings_of_the_type() {
        let shipped = OrderEvent::Shipped {
            order_id: 1,
            carrier: "dhl".into(),
            grams: 1500,
        };
        let sent = message(&shipped);
        assert_eq!(sent.topic(), "shipping");
        assert_eq!(key(&shipped).as_deref(), Some("order-1"));
        assert_eq!(header(&shipped, "schema-version").as_deref(), Some("2"));
        assert_eq!(header(&shipped, "tenant").as_deref(), Some("acme"));
        assert_eq!(header(&shipped, "region").as_deref(), Some("dhl"));
        assert_eq!(header(&shipped, "weight").as_deref(), Some("1.5"));
        // Three of ours, the version, and the content type.
        assert_eq!(sent.headers().len(), 5);

        let moved = OrderEvent::Moved(7, "berlin");
        assert_eq!(key(&moved).as_deref(), Some("berlin"));
        assert_eq!(message(&moved).partition(), Some(3));
        assert_eq!(message(&moved).event_type(), Some("order.moved"));

        let cancelled = OrderEvent::Cancelled(9, "us".into());
        assert_eq!(key(&cancelled).as_deref(), Some("9"));
        assert_eq!(header(&cancelled, "region").as_deref(), Some("us"));

        assert_eq!(key(&OrderEvent::Reset).as_deref(), Some("everything"));
    }

    #[test]
    fn a_tombstone_has_no_payload_and_no_content_type() {
        let forgotten = OrderEvent::Forgotten { order_id: 3 };
        assert_eq!(message(&forgotten).payload(), None);
        assert_eq!(header(&forgotten, "content-type"), None);
        assert_eq!(key(&forgotten).as_deref(), Some("3"));
    }

    #[test]
    fn none_takes_back_what_is_given_for_the_type() {
        #[derive(Serialize, OutboxEvent)]
        #[outbox(topic = "t", key = id, partition = 1, id = Uuid::nil(), version = 1)]
        #[outbox(headers(a = id, b = "b"))]
        enum Event {
            #[outbox(key = None, partition = None, id = None, version = None)]
            #[outbox(headers(a = None))]
            Bare,
            Full {
                id: u8,
            },
        }
        let bare = message(&Event::Bare);
        assert_eq!((bare.key(), bare.partition()), (None, None));
        assert_eq!(bare.id().get_version_num(), 7);
        assert_eq!(header(&Event::Bare, "a"), None);
        assert_eq!(header(&Event::Bare, "schema-version"), None);
        assert_eq!(header(&Event::Bare, "b").as_deref(), Some("b"));
        let full = message(&Event::Full { id: 5 });
        assert_eq!((full.key(), full.partition()), (Some(&b"5"[..]), Some(1)));
        assert_eq!(full.id(), Uuid::nil());
        assert_eq!(full.headers().first("a"), Some(&b"5"[..]));
    }

    #[test]
    fn each_variant_may_have_its_own_topic() {
        #[derive(Serialize, OutboxEvent)]
        enum Event {
            #[outbox(topic = "a")]
            A,
            #[outbox(topic = "b-{0}")]
            B(u8),
        }
        assert_eq!(message(&Event::A).topic(), "a");
        assert_eq!(message(&Event::B(1)).topic(), "b-1");
    }
}

#[test]
fn generics() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", key = "{id}")]
    struct Bounded<T: Serialize> {
        id: u8,
        body: T,
    }
    let bounded = Bounded {
        id: 1,
        body: vec!["a"],
    };
    assert_eq!(
        message(&bounded).payload(),
        Some(&br#"{"id":1,"body":["a"]}"#[..])
    );

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t")]
    struct Unbounded<T, const N: usize = 2> {
        body: T,
    }
    let unbounded = Unbounded::<_, 3> { body: 1 };
    assert_eq!(message(&unbounded).payload(), Some(&br#"{"body":1}"#[..]));

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", key = id, bound = "K: std::fmt::Display, T: Serialize, K: Serialize")]
    struct Said<K, T> {
        id: K,
        body: T,
    }
    assert_eq!(key(&Said { id: 5, body: () }).as_deref(), Some("5"));

    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", key = id)]
    struct Borrowed<'a, T: ?Sized + Serialize> {
        id: &'a str,
        body: &'a T,
    }
    let borrowed = Borrowed {
        id: "5",
        body: "text",
    };
    assert_eq!(key(&borrowed).as_deref(), Some("5"));
}

#[test]
fn a_derived_event_can_be_a_trait_object() {
    #[derive(Serialize, OutboxEvent)]
    #[outbox(topic = "t", key = self.0)]
    struct Event(u8);
    let event: Box<dyn OutboxEvent> = Box::new(Event(1));
    assert_eq!(message(&event).key(), Some(&b"1"[..]));
}

fn nothing<T>(_: &T) -> Result<Vec<u8>, BoxError> {
    Ok(Vec::new())
}
