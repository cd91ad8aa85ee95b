use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", rename_all = "kebab_case")]
struct Near;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", rename_all = "whatever")]
struct Far;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", rename_all = kebab-case)]
struct Unquoted;

fn main() {
    let _ = Near.message();
}
