//! Attributes and payloads of CloudEvents: what is wrapped is an event by the specification's JSON format with the
//! payload as it was, numbers of any size too, and what is not is refused with the attribute.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use outbox::{CloudEvent, Message};
use serde_json::value::RawValue;

fuzz_target!(|parts: (&str, &str, &str, &[u8])| {
    let (source, time, subject, payload) = parts;
    let message = Message::new("t")
        .with_event_type("type")
        .with_payload(payload)
        .with_header("content-type", "application/json")
        .with_header("ce_extension", subject);
    let event = CloudEvent::new(source)
        .with_time(time)
        .with_subject(subject)
        .structured();
    if let Ok(wrapped) = event.wrap(message) {
        let text = wrapped.payload().unwrap_or_default();
        let Ok(members) = serde_json::from_slice::<HashMap<String, Box<RawValue>>>(text) else {
            panic!("no JSON object: {}", String::from_utf8_lossy(text));
        };
        for (name, value) in [
            ("specversion", "1.0"),
            ("source", source),
            ("subject", subject),
        ] {
            assert_eq!(
                serde_json::from_str::<String>(members[name].get()).unwrap(),
                value
            );
        }
        assert_eq!(members["data"].get().as_bytes(), payload.trim_ascii());
    }
});
