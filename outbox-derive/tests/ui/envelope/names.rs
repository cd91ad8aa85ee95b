use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvnt(source = "/shop"))]
struct Near;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = Protobuf)]
struct Far;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelop = CloudEvent(source = "/shop"))]
struct Key;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", subjekt = id, topic = "x", colour = 5))]
struct Inside {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(sorce = "/shop", mode = structred))]
struct Source;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", mode = batch))]
struct Mode;

fn main() {
    let _ = Near.message();
}
