use outbox::OutboxEvent;

#[derive(serde::Serialize)]
struct Money(u8);

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = price)]
struct Field {
    price: Money,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = self.price)]
struct Expression {
    price: Option<Money>,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
struct Marked {
    #[outbox(key)]
    price: Money,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = "price-{price}")]
struct Template {
    price: Money,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = id)]
struct Generic<T: serde::Serialize> {
    id: T,
}

fn main() {}
