use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = id)]
#[outbox(key = 1, topic = "orders")]
struct Twice {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = id)]
struct AlsoMarked {
    #[outbox(key)]
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
enum TwoFields {
    A(#[outbox(key)] u8, #[outbox(key, key)] u8),
    #[outbox(key = 1)]
    B(#[outbox(key)] u8),
}

fn main() {
    let _ = Twice { id: 1 }.message();
}
