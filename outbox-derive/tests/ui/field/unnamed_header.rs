use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
struct Event(#[outbox(header)] u8, #[outbox(header, header = "a")] u8);

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", id = event_id, partition = 1)]
struct Twice {
    #[outbox(id)]
    event_id: u8,
    #[outbox(partition)]
    shard: u8,
}

fn main() {
    let _ = Event(1, 2).message();
}
