//! Attributes and payloads of CloudEvents: what is wrapped is an event by the specification's JSON format, and what is
//! not is refused with the attribute.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox::{CloudEvent, Message};
use serde_json::Value;

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
        let Ok(Value::Object(members)) = serde_json::from_slice(text) else {
            panic!("no JSON object: {}", String::from_utf8_lossy(text));
        };
        for (name, value) in [("specversion", "1.0"), ("source", source), ("subject", subject)] {
            assert_eq!(members[name], value);
        }
        let data: Value = serde_json::from_slice(payload).unwrap_or_default();
        assert_eq!(members["data"], data);
    }
});
