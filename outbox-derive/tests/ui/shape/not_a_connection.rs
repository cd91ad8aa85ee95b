use outbox::{OutboxEvent, publish_all};

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
struct Event;

struct Pool;

fn main() {
    let _ = Event.publish(&mut Pool);
    let _ = publish_all(&mut Pool, [Event]);
}
