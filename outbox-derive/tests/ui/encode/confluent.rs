use outbox::{Avro, Bytes, Confluent, Json, OutboxEvent, Protobuf};

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", encode = Confluent<Avro>)]
struct WithoutAvroSchema;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", encode = Confluent<Json>)]
struct WithoutJsonSchema;

#[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
#[outbox(topic = "orders", encode = Confluent<Protobuf>)]
struct WithoutProto {}

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = Confluent<Bytes>)]
struct NoFormat;

fn main() {}
