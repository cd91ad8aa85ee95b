use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", headers)]
struct NoList;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", headers = "a")]
struct Assigned;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", headers(tenant-id = tenant, "kind" "placed", 5 = tenant, empty =))]
struct Entries {
    tenant: u8,
}

fn main() {
    let _ = NoList.message();
}
