//! Which topic names a broker takes.

/// The longest topic name, in bytes.
///
/// Kafka names a partition's directory after its topic, which leaves 249 of the 255 bytes that a
/// file name may have (`Topic.MAX_NAME_LENGTH` in Kafka's sources).
pub const MAX_TOPIC_BYTES: usize = 249;

/// Checks a topic name by Kafka's rules (`Topic.validate` in its sources), the strictest of the
/// supported brokers.
pub(crate) const fn check(topic: &str) -> Result<(), &'static str> {
    let bytes = topic.as_bytes();
    if bytes.is_empty() {
        return Err("it is empty");
    }
    if bytes.len() > MAX_TOPIC_BYTES {
        return Err("it is longer than 249 bytes");
    }
    if matches!(bytes, b"." | b"..") {
        return Err("\".\" and \"..\" are reserved");
    }
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-') {
            return Err("only letters, digits, '.', '_' and '-' are allowed (ASCII)");
        }
        i += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_that_kafka_takes() {
        let longest = "x".repeat(249);
        for name in ["a", "orders", "Shop.orders_v1-eu", "...", longest.as_str()] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_kafka_refuses() {
        let too_long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "ä", "a/b", "a\0", too_long.as_str()] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
