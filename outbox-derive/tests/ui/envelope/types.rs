use outbox::OutboxEvent;

struct Opaque;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = outbox::Bytes)]
#[outbox(envelope = CloudEvent(source = self.1, subject = self.0, time = opaque()))]
struct Event(Vec<u8>, u8);

impl AsRef<[u8]> for Event {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn opaque() -> Opaque {
    Opaque
}

fn main() {}
