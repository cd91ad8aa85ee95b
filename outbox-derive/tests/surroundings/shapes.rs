//! Every kind of type.
#![deny(warnings, clippy::all)]
#![allow(dead_code)]

use outbox::OutboxEvent;
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t")]
struct Unit;

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t")]
struct EmptyTuple();

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t")]
struct EmptyBraces {}

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = self.1)]
struct Tuple(u8, #[outbox(header = "b")] u8);

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = r#type, headers(r#fn = r#fn))]
struct r#RawNames {
    r#type: u8,
    r#fn: u8,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = r#type)]
#[allow(non_camel_case_types)]
enum r#enum {
    r#match { r#type: u8 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = id)]
struct Lifetimes<'a, 'b: 'a> {
    id: &'a str,
    body: &'b [u8],
}

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = "{id}")]
struct Generic<'a, T, U: Clone = u8, const N: usize = 3>
where
    T: Serialize + 'a,
{
    id: u8,
    body: &'a T,
    #[serde(skip)]
    rest: [U; N],
}

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "t", key = id, bound = "T: Serialize + std::fmt::Display,")]
enum GenericEnum<T> {
    A { id: T },
    B { id: u8, body: T },
}

#[derive(OutboxEvent)]
#[outbox(topic = "t", encode = Pair<u8, Self>, key = min::<u8>(self.0, 3), bound = "")]
struct Commas(u8);

fn min<T: Ord>(a: T, b: T) -> T {
    a.min(b)
}

struct Pair<A, B>(A, B);

impl outbox::Encoder<Commas> for Pair<u8, Commas> {
    const CONTENT_TYPE: Option<&'static str> = None;

    fn encode(_: &Commas) -> Result<Option<Vec<u8>>, outbox::BoxError> {
        Ok(None)
    }
}

mod private {
    #[derive(serde::Serialize, outbox::OutboxEvent)]
    #[outbox(topic = "t", key = hidden)]
    pub(super) struct Fields<T> {
        hidden: Hidden,
        pub(super) body: T,
    }

    #[derive(serde::Serialize)]
    struct Hidden;

    impl std::fmt::Display for Hidden {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("hidden")
        }
    }

    impl<T> Fields<T> {
        pub(super) fn new(body: T) -> Self {
            Self {
                hidden: Hidden,
                body,
            }
        }
    }
}

#[test]
fn every_kind_of_type() {
    fn sent(event: impl OutboxEvent) {
        event.message().unwrap();
    }
    sent(Unit);
    sent(EmptyTuple());
    sent(EmptyBraces {});
    sent(Tuple(1, 2));
    sent(r#RawNames { r#type: 1, r#fn: 2 });
    sent(r#enum::r#match { r#type: 1 });
    sent(Lifetimes {
        id: "a",
        body: b"b",
    });
    sent(Generic {
        id: 1,
        body: &"x",
        rest: [1_u8; 2],
    });
    sent(GenericEnum::A { id: "a" });
    sent(Commas(1));
    sent(private::Fields::new(1));
}
