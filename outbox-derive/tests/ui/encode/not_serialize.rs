use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", key = id)]
struct OrderPlaced {
    id: u8,
}

fn main() {}
