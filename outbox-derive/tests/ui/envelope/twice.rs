use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop"))]
#[outbox(envelope = CloudEvent(source = "/other"))]
struct Envelope;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop", source = "/other"))]
struct Source;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/shop"))]
#[outbox(headers("ce_id" = id, "ce_tenant-id" = id))]
struct Headers {
    id: u8,
    #[outbox(header = "ce_subject")]
    subject: u8,
}

fn main() {
    let _ = Envelope.message();
}
