use outbox::{BoxError, Encoder, OutboxEvent};

struct Csv;

impl Encoder<u8> for Csv {
    const CONTENT_TYPE: Option<&'static str> = None;

    fn encode(_: &u8) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(None)
    }
}

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = Csv)]
struct Other;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode = outbox::Bytes)]
struct NotBytes;

#[derive(OutboxEvent)]
#[outbox(topic = "orders", encode_with = function)]
struct WrongFunction;

fn function(_: &WrongFunction) -> Result<String, BoxError> {
    Ok(String::new())
}

fn main() {}
