use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", version = 1)]
#[outbox(headers("" = 1, "a\0" = 1, "outbox-id" = 1, "schema-version" = 2, kind = "a", kind = "b"))]
struct Reserved {
    #[outbox(header = "outbox-tenant")]
    tenant: u8,
    #[outbox(header = "kind")]
    again: u8,
    #[outbox(header)]
    kind: u8,
    #[outbox(header = "schema-version")]
    version: u8,
}

fn main() {}
