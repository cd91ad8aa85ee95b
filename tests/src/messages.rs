//! Messages that count, so that a test can tell whether they came in order.

use std::collections::{HashMap, HashSet};

use outbox::{Message, OrderingKey};

/// Messages whose payloads count up from 0 for each of the keys.
pub fn keyed(topic: &str, count: usize, keys: usize) -> Vec<Message> {
    let message = |n: usize| {
        Message::new(topic)
            .with_key((n % keys).to_string())
            .with_payload((n / keys).to_string())
    };
    (0..count).map(message).collect()
}

/// How many different messages a log has.
pub fn distinct(log: &[Message]) -> usize {
    log.iter().map(Message::id).collect::<HashSet<_>>().len()
}

/// Asserts that, of each key of [`keyed`] messages, none was accepted before all that were written
/// before it. Repeated ones are allowed: the outcome of the first time was not known.
///
/// # Panics
///
/// When one was.
pub fn assert_order<'a>(log: impl IntoIterator<Item = &'a Message>) {
    let mut next = HashMap::<OrderingKey<'_>, usize>::new();
    for message in log {
        let next = next.entry(message.ordering_key()).or_insert(0);
        let text = String::from_utf8_lossy(message.payload().unwrap_or_default());
        let n: usize = text.parse().expect("a payload that counts");
        let key = message.ordering_key();
        assert!(n <= *next, "{n} of {key:?} came before {next}");
        *next = (*next).max(n + 1);
    }
}
