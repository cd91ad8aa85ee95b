//! The expansion means its own `Result`, `Option` and so on.
#![deny(warnings)]
#![allow(dead_code, unused_macros)]

struct Result;
struct Option;
struct Vec;
struct String;
struct Cow;
struct Some;
struct None;
struct Ok;
struct Headers;
struct Json;
struct Uuid;
struct CloudEvent;
struct Message;
struct Error;
trait Into {}
mod outbox {}
mod std {}
mod core {}
mod alloc {}

macro_rules! format {
    () => {};
}

#[derive(::serde::Serialize, ::outbox::OutboxEvent)]
#[outbox(topic = "orders", key = "{id}-{key}", partition = partition, version = 3)]
#[outbox(envelope = CloudEvent(source = "/{event}", subject = message))]
#[outbox(headers(id = id, two = *id * 2, all = headers, me = self.id))]
struct Event {
    id: u32,
    key: u8,
    partition: i32,
    headers: u8,
    #[outbox(header)]
    topic: u8,
    #[outbox(header)]
    value: u8,
    event: u8,
    message: u8,
}

#[::core::prelude::v1::test]
fn names_are_taken() {
    let event = Event {
        id: 7,
        key: 1,
        partition: 2,
        headers: 3,
        topic: 4,
        value: 5,
        event: 6,
        message: 7,
    };
    let message = ::outbox::OutboxEvent::message(&event).unwrap();
    assert_eq!(
        message.headers().first("all"),
        ::std::option::Option::Some(&b"3"[..])
    );
    assert_eq!(
        message.headers().first("two"),
        ::std::option::Option::Some(&b"14"[..])
    );
}
