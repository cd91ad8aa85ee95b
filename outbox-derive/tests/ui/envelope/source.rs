use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent)]
struct Bare;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(mode = structured))]
struct Missing;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent())]
enum OnVariants {
    #[outbox(envelope = CloudEvent(subject = _0))]
    A(u8),
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = ""))]
struct Empty;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/our shop"))]
struct Space;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = "/50%"))]
struct Escape;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = 5))]
struct Number;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", envelope = CloudEvent(source = None))]
struct Without;

fn main() {
    let _ = Bare.message();
}
