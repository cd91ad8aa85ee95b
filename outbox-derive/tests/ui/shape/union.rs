use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "orders")]
union Either {
    a: u8,
    b: i8,
}

fn main() {
    let _ = Either { a: 1 }.message();
}
