use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = "3", id = "a")]
struct Text;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = 3.5)]
struct Float;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = 3000000000)]
struct Large;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = -1)]
struct Negative;

fn main() {
    let _ = Text.message();
}
