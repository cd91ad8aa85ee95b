use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{id")]
struct NotClosed {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-id}")]
struct NotOpened {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{}")]
struct Unnamed {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{self.id}")]
struct Expression {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{id:width$}")]
struct Width {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{id:!}")]
struct Format {
    id: u8,
}

fn main() {
    let _ = Unnamed { id: 1 }.message();
}
