//! The expansion needs no prelude, and no crate but `outbox`.
#![no_implicit_prelude]
#![deny(warnings)]

const TOPIC: &str = "orders";

#[derive(::outbox::OutboxEvent)]
#[outbox(topic = TOPIC, key = "{id}-{name}", partition = id, encode = ::outbox::Bytes)]
#[outbox(headers(name = name, id = self.id, next = self.id + 1), version = 3, max_bytes = 500)]
#[outbox(envelope = CloudEvent(source = "/{name}", subject = id, time = "2018-04-05T17:31:00Z",
    dataschema = "urn:{id}", mode = structured))]
struct Struct<'a, const N: usize> {
    id: u32,
    #[outbox(header = "region")]
    name: &'a str,
    #[outbox(id)]
    event_id: ::outbox::uuid::Uuid,
    data: [u8; N],
}

impl<const N: usize> ::std::convert::AsRef<[u8]> for Struct<'_, N> {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[derive(::outbox::OutboxEvent)]
#[outbox(topic = "orders-{0}", key = _0, rename_all = "snake_case", encode_with = encode)]
enum Enum {
    Tuple(u8),
    #[outbox(topic = "other", key = a)]
    Struct {
        a: ::std::option::Option<u8>,
    },
    #[outbox(topic = TOPIC, key = "unit", tombstone, envelope = CloudEvent(source = TOPIC))]
    Unit,
}

fn encode(_: &Enum) -> ::std::result::Result<::std::vec::Vec<u8>, ::outbox::BoxError> {
    ::std::result::Result::Ok(::std::vec::Vec::new())
}

#[::core::prelude::v1::test]
fn needs_no_prelude() {
    use ::outbox::OutboxEvent as _;
    let event = Struct {
        id: 7,
        name: "eu",
        event_id: ::outbox::uuid::Uuid::nil(),
        data: [1, 2],
    };
    ::std::assert!(event.message().is_ok());
    for event in [
        Enum::Tuple(1),
        Enum::Struct {
            a: ::std::option::Option::None,
        },
        Enum::Unit,
    ] {
        ::std::assert!(event.message().is_ok());
    }
}
