use outbox::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = shard, id = shard)]
struct Field {
    shard: String,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(topic = "orders", partition = self.shard.as_deref(), id = self.shard)]
struct Expression {
    shard: Option<String>,
}

fn main() {}
