use outbox::OutboxEvent;

const ORDERS: &str = "order events";
const NUMBER: u8 = 1;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = ORDERS)]
struct Illegal;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = NUMBER)]
struct NotText;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = MISSING)]
struct Missing;

fn main() {}
