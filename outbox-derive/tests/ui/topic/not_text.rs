use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = 5)]
struct Number;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = None, event_type = None)]
struct Nothing;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = region)]
struct Field {
    region: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = self.region + 1)]
struct Expression {
    region: u8,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders-{region}")]
struct Template {
    region: Vec<u8>,
}

fn main() {}
