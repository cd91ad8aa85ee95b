use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", subject = custmer))]
struct Field {
    customer: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", subject = id))]
enum Variants {
    A { id: u8 },
    B,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", subject = "", dataschema = "/order"))]
struct Literals;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", dataschema = "https://a/#b"))]
struct Fragment;

fn main() {
    let _ = Literals.message();
}
