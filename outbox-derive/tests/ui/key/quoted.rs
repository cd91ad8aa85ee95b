use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order_id")]
struct Quoted {
    order_id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order_id")]
enum InVariants {
    Placed { order_id: u8 },
    Shipped { order_id: u8 },
    Closed,
}

fn main() {
    let _ = Quoted { order_id: 1 }.message();
}
