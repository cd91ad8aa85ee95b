use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = "Json", encode_with = "function", tombstone = true)]
#[outbox(max_bytes = "1 MB", version, bound = "T Serialize", crate = 5)]
struct Malformed;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", crate = "not a path", bound = T: Serialize, max_bytes)]
struct MalformedToo;

fn main() {
    let _ = Malformed.message();
}
