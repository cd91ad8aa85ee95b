//! Ordering keys as text, as services in the cloud want them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::{Message, OrderingKey};

/// What begins like this is never taken as it is.
const PREFIXES: [&str; 3] = ["base64:", "hash:", "partition:"];

/// What a service takes as a key.
pub(in super::super) struct Shape {
    /// In bytes.
    pub(in super::super) longest: usize,
    pub(in super::super) legal: fn(char) -> bool,
}

/// The ordering key of a message as text of this shape: the key itself where it can be. Other keys are
/// `base64:…`, those that are too long `hash:…`, and an explicit partition is `partition:N`. Different keys
/// become different texts, but for hashes that are equal by chance: then they share an order.
pub(in super::super) fn text<'m>(message: &'m Message, shape: &Shape) -> Option<Cow<'m, str>> {
    let key = match message.ordering_key() {
        OrderingKey::Unordered => return None,
        OrderingKey::Partition(_, partition) => {
            return Some(Cow::Owned(format!("partition:{partition}")));
        }
        OrderingKey::Key(_, key) => key,
    };
    let plain = std::str::from_utf8(key).ok().filter(|text| {
        !text.is_empty()
            && text.len() <= shape.longest
            && text.chars().all(shape.legal)
            && !PREFIXES.iter().any(|prefix| text.starts_with(prefix))
    });
    if let Some(text) = plain {
        return Some(Cow::Borrowed(text));
    }
    let encoded = format!("base64:{}", BASE64.encode(key));
    Some(Cow::Owned(match encoded.len() <= shape.longest {
        true => encoded,
        false => format!("hash:{:016x}", fnv1a(key)),
    }))
}

/// The hash FNV-1a with 64 bits: the same on each machine and in each version, since consumers see it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        longest: 30,
        legal: |c| c.is_ascii_graphic(),
    };

    fn of(key: impl Into<Vec<u8>>) -> String {
        let message = Message::new("t").with_key(key);
        text(&message, &SHAPE).unwrap().into_owned()
    }

    #[test]
    fn a_key_is_taken_as_it_is_where_it_can_be() {
        assert_eq!(of("order-17"), "order-17");
        assert_eq!(of(""), "base64:");
        assert_eq!(of("ä"), "base64:w6Q");
        assert_eq!(of("base64:"), "base64:YmFzZTY0Og");
        assert_eq!(of([0, 0xff]), "base64:AP8");
        assert_eq!(of("partition:3"), "base64:cGFydGl0aW9uOjM");
        assert!(of("a".repeat(31)).starts_with("hash:"));
        assert_ne!(of("a".repeat(31)), of("a".repeat(32)));
    }

    #[test]
    fn a_partition_is_a_key_and_nothing_is_none() {
        let message = Message::new("t").with_key("k").with_partition(3);
        assert_eq!(text(&message, &SHAPE).unwrap(), "partition:3");
        assert_eq!(text(&Message::new("t"), &SHAPE), None);
    }

    /// From the authors' own test vectors.
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
