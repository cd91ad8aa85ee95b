use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = outbox::Json, encode_with = function)]
struct Both;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", key = 1, tombstone, encode = outbox::Json, encode_with = function)]
struct Tombstone;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", tombstone)]
struct NoKey;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", key = 1, tombstone)]
enum OnEnum {
    A,
}

#[derive(OutboxEvent)]
#[outbox(topic = "orders")]
enum NoKeyOnVariant {
    #[outbox(tombstone)]
    A,
    #[outbox(tombstone, key = None)]
    B,
}

#[derive(OutboxEvent)]
#[outbox(topic = "orders", kye = 1, tombstone)]
struct MisspeltKey;

fn main() {
    let _ = Both.message();
}
