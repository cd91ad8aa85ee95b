use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
struct Event {
    #[outbox(id)]
    event_id: u64,
    #[outbox(partition)]
    shard: String,
}

fn main() {}
