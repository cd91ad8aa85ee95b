use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope)]
struct Alone;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope(source = "/shop"))]
struct List;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = "CloudEvent")]
struct Quoted;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent { source: "/shop" })]
struct Braces;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent("/shop"))]
struct Unnamed;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source, mode = "structured", subject("x")))]
struct Inside;

fn main() {
    let _ = Alone.message();
}
