use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "")]
struct Empty;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "order events")]
struct Space;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "..")]
struct Dots;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(
    topic = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
)]
struct Long;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders/{region}")]
struct Template {
    region: String,
}

#[derive(serde::Serialize, OutboxEvent)]
enum Variant {
    #[outbox(topic = "ärger")]
    A,
}

fn main() {
    let _ = Empty.message();
}
