use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", headers(tenant = tenant, trace = trcae, kind = "{knid}"))]
struct Event {
    trace: u8,
    kind: u8,
}

fn main() {
    let _ = Event { trace: 1, kind: 1 }.message();
}
