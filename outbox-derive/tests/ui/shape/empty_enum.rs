use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "orders")]
enum Never {}

fn main() {}
