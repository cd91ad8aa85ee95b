//! The library under another name, as a path or in quotes.
#![deny(warnings)]

extern crate outbox as mailbox;

mod vendored {
    pub(super) use outbox as inner;
}

#[derive(serde::Serialize, mailbox::OutboxEvent)]
#[outbox(crate = mailbox, topic = "orders", key = self.0)]
struct Path(u8);

#[derive(serde::Serialize, mailbox::OutboxEvent)]
#[outbox(topic = "orders", key = self.0, crate = "crate::renamed::vendored::inner")]
struct Quoted(u8);

#[derive(serde::Serialize, mailbox::OutboxEvent)]
#[outbox(crate = "self::vendored::inner", topic = "orders", envelope = mailbox::CloudEvent(source = "/"))]
struct Enveloped;

#[test]
fn the_library_has_another_name() {
    use mailbox::OutboxEvent as _;
    assert!(Enveloped.message().is_ok());
    assert!(Path(1).message().is_ok());
    assert!(Quoted(1).message().is_ok());
}
