use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
struct Bare;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(key = id)]
struct WithKey {
    id: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
enum OnNoVariant {
    A,
    B,
}

#[derive(serde::Serialize, OutboxEvent)]
enum OnOneVariant {
    #[outbox(topic = "a")]
    A,
    B,
    C(u8),
}

// No follow-up errors where an event is used.
fn main() {
    let _ = Bare.message();
    let _ = WithKey { id: 1 }.message();
    let _ = OnNoVariant::A.message();
    let _ = OnOneVariant::A.message();
}
