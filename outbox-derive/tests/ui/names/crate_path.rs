use outbox::OutboxEvent as _;

#[derive(serde::Serialize, outbox::OutboxEvent)]
#[outbox(topic = "orders", key = id, headers(id = id), crate = mailbox)]
struct Unknown {
    id: u8,
}

#[derive(serde::Serialize, outbox::OutboxEvent)]
#[outbox(topic = "orders", crate = "std::fmt")]
struct Other;

fn main() {}
