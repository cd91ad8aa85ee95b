use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
struct Event {
    #[outbox(key = "id")]
    a: u8,
    #[outbox(partition(3))]
    b: u8,
    #[outbox(header = tenant)]
    c: u8,
    #[outbox(header("tenant"))]
    d: u8,
    #[outbox]
    e: u8,
    #[outbox(id = a)]
    f: u8,
}

fn main() {}
