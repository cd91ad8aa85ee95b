use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", event_type = "")]
struct Empty;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", event_type = "a\0")]
struct Nul;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", event_type = 5)]
struct Number;

fn main() {
    let _ = Empty.message();
}
