use outbox::{Avro, OutboxEvent, Protobuf};

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = Protobuf)]
struct NotAMessage;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", encode = Avro)]
struct WithoutSchema;

fn main() {}
