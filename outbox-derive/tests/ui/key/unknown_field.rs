use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = ordr_id)]
struct Misspelt {
    order_id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{ordr_id}")]
struct InTemplate {
    order_id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "order-{1}")]
struct InTuple(u8);

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = order_id)]
enum InVariants {
    Placed { order_id: u8 },
    Shipped { ordr_id: u8 },
    Cancelled,
}

fn main() {
    let _ = InTuple(1).message();
}
