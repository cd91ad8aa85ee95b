//! The expansion breaks no lint, and allows none that the user may have forbidden.
#![forbid(warnings, unused, deprecated, unsafe_code, elided_lifetimes_in_paths)]
#![forbid(
    missing_docs,
    unused_qualifications,
    single_use_lifetimes,
    unreachable_pub
)]

mod forbidden {
    use outbox::OutboxEvent;

    #[derive(OutboxEvent)]
    #[outbox(topic = "orders", key = "{id}-{name}", partition = id, encode = outbox::Bytes)]
    #[outbox(headers(name = name, id = self.id, plain = self.name.trim()), version = 3)]
    pub(crate) struct Event<'name> {
        pub(crate) id: u32,
        pub(crate) name: &'name str,
    }

    impl AsRef<[u8]> for Event<'_> {
        fn as_ref(&self) -> &[u8] {
            self.name.as_bytes()
        }
    }
}

#[test]
fn breaks_no_lint() {
    use outbox::OutboxEvent as _;
    assert!(forbidden::Event { id: 1, name: "a" }.message().is_ok());
}
