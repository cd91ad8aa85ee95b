//! Headers as anybody may have written them by plain SQL: what is read is written back as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox::Headers;

fuzz_target!(|json: &str| {
    if let Ok(headers) = Headers::from_json(json) {
        let written = headers.to_json().unwrap_or_else(|| "[]".into());
        assert_eq!(Headers::from_json(&written).ok().as_ref(), Some(&headers));
    }
});
