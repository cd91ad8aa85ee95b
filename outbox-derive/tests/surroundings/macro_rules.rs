//! Types that are written by `macro_rules` macros.
#![deny(warnings)]

use outbox::OutboxEvent;

macro_rules! event {
    ($name:ident, $field:ident: $type:ty, $topic:literal, $key:expr, $event_type:expr) => {
        #[derive(serde::Serialize, OutboxEvent)]
        #[outbox(topic = $topic, key = $key, event_type = $event_type)]
        #[outbox(headers(by_field = $field, by_self = self.$field, by_both = *$field + self.other))]
        struct $name {
            $field: $type,
            #[outbox(header)]
            other: $type,
        }
    };
}

event!(Placed, id: u8, "orders", "order-{id}", concat!("order", ".placed"));

#[test]
fn in_macros() {
    let message = Placed { id: 1, other: 2 }.message().unwrap();
    assert_eq!(message.key(), Some(&b"order-1"[..]));
    assert_eq!(message.event_type(), Some("order.placed"));
    assert_eq!(message.headers().first("by_both"), Some(&b"3"[..]));
}
