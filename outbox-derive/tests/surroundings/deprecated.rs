//! What is deprecated can still be derived for, without a warning.
#![deny(warnings)]
#![allow(dead_code)]

#[derive(serde::Serialize, outbox::OutboxEvent)]
#[outbox(topic = "orders", key = id)]
#[deprecated]
struct Type {
    id: u8,
}

#[derive(serde::Serialize, outbox::OutboxEvent)]
#[outbox(topic = "orders", key = old)]
struct Field {
    #[deprecated]
    old: u8,
}

#[derive(serde::Serialize, outbox::OutboxEvent)]
#[outbox(topic = "orders")]
enum Variant {
    #[deprecated]
    #[outbox(key = _0)]
    Old(u8),
    New,
}
