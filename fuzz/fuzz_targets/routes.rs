//! Patterns of a router, as settings may have them: each topic goes where a plain reading of the patterns says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox::sink::{Router, SinkError, sink_fn};
use outbox::store::StoredMessage;

/// Slow and simple: each character is taken by the pattern's next one, or by an asterisk, or by none.
fn fits(pattern: &[char], topic: &[char]) -> bool {
    match pattern.split_first() {
        None => topic.is_empty(),
        Some(('*', rest)) => (0..=topic.len()).any(|taken| fits(rest, &topic[taken..])),
        Some((literal, rest)) => topic.first() == Some(literal) && fits(rest, &topic[1..]),
    }
}

fuzz_target!(|names: (&str, &str, &str)| {
    let (first, second, topic) = names;
    // It takes exponentially long.
    if [first, second, topic].iter().any(|name| name.len() > 12) {
        return;
    }
    let sink = || sink_fn(async |_: StoredMessage| Ok::<(), SinkError>(()));
    let router = Router::builder()
        .route([first], sink())
        .route([second], sink())
        .build();
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    let (patterns, topic_chars) = ([chars(first), chars(second)], chars(topic));
    match router {
        Ok(router) => {
            let expected = patterns
                .iter()
                .position(|pattern| fits(pattern, &topic_chars));
            assert_eq!(router.route_of(topic), expected);
        }
        // A route that is refused is empty, or never reached.
        Err(_) => assert!(
            patterns.iter().any(Vec::is_empty)
                || !fits(&patterns[1], &topic_chars)
                || fits(&patterns[0], &topic_chars)
        ),
    }
});
