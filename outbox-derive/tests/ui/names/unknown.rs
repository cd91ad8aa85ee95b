use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topics = "orders", keys = id, colour = "red", partitions(1, 2), encoded_with = a::b::<c, d>)]
struct Container {
    #[outbox(kye)]
    id: u8,
    #[outbox(headers)]
    tenant: u8,
    #[outbox(topic = "orders")]
    region: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", header = "a")]
enum Variants {
    #[outbox(rename_all = "kebab-case", encode = outbox::Json, vesion = 1)]
    A,
}

fn main() {
    let _ = Variants::A.message();
}
