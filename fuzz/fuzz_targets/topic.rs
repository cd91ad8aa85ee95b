//! Topics as anybody may have written them by plain SQL: what is no defect is a name by Kafka's rules.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox::Message;

fuzz_target!(|topic: &str| {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = (1..=249).contains(&topic.len())
        && topic.chars().all(legal)
        && topic != "."
        && topic != "..";
    assert_eq!(Message::new(topic).defect().is_none(), is_name);
});
