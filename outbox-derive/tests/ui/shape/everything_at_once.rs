//! Each mistake of a type is reported, and nothing but the mistakes.

use outbox::OutboxEvent;

#[derive(OutboxEvent)]
#[outbox(topic = "a b", key = ordr_id, partition = -1, evnt_type = "x")]
#[outbox(headers("outbox-id" = 1), rename_all = "kebab", key = order_id)]
enum OrderEvent<'a, T> {
    #[outbox(topic = "", tombstone = 1)]
    Placed {
        #[outbox(header = "")]
        order_id: &'a T,
    },
    #[outbox(encode = outbox::Json)]
    Shipped(#[outbox(header)] u8),
}

fn is_event(_: &impl OutboxEvent) {}

fn main() {
    let event = OrderEvent::Placed { order_id: &1 };
    is_event(&event);
    let _: Result<outbox::Message, outbox::Error> = event.message();
    let _ = OrderEvent::<u8>::Shipped(1).topic().into_owned();
}
