//! Connection URLs and strings: they are taken or refused, and the password is told by neither.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox::store::PostgresStore;

const CANARY: &str = "canary5317";

fuzz_target!(|parts: (&str, &str)| {
    let (host, rest) = parts;
    for url in [
        format!("{host}{rest}"),
        format!("postgres://user:{CANARY}@{host}/{rest}"),
        format!("host={host} password={CANARY} {rest}"),
    ] {
        let text = match PostgresStore::new(&url) {
            Ok(store) => format!("{store:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        // Where the fuzzer has written it itself, it may stand in what is told.
        if !host.contains(CANARY) && !rest.contains(CANARY) {
            assert!(!text.contains(CANARY), "{text}");
        }
    }
});
