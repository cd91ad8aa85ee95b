use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox]
struct Nothing;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox = "orders"]
struct NameValue;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox("orders")]
struct Literal;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic)]
struct Flag;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic =)]
struct NoValue;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic("orders"))]
struct List;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = , key = 1)]
struct Comma;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders" key = 1)]
struct NoComma;

fn main() {
    let _ = Nothing.message();
}
