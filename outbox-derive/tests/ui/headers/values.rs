use outbox::OutboxEvent;

#[derive(serde::Serialize)]
struct Money(u8);

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", headers(price = price, other = self.price.0.to_string().chars()))]
struct Event {
    price: Money,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders")]
enum Marked {
    A {
        #[outbox(header)]
        price: Money,
    },
}

fn main() {}
