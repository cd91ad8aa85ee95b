use outbox::OutboxEvent;

struct Bare;

fn main() {
    let _ = OutboxEvent::message(&Bare);
}
