//! Passwords taken out of texts that other people's libraries wrote.

/// The text without passwords of URLs (`scheme://user:PASSWORD@host`), tokens of NATS (`nats://TOKEN@host`) and
/// passwords of connection strings (`password=PASSWORD`).
pub(crate) fn redact(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| redact_pair(&redact_url(word)))
        .collect()
}

fn redact_url(word: &str) -> String {
    let redacted = || {
        let (scheme, rest) = word.split_once("://")?;
        // A password that was not encoded may hold anything.
        let (account, place) = rest.rsplit_once('@')?;
        let is_of_nats = ["nats", "tls"].iter().any(|nats| scheme.ends_with(nats));
        match account.split_once(':') {
            Some((user, _)) => Some(format!("{scheme}://{user}:***@{place}")),
            None if is_of_nats => Some(format!("{scheme}://***@{place}")),
            None => None,
        }
    };
    redacted().unwrap_or_else(|| word.to_owned())
}

fn redact_pair(word: &str) -> String {
    const NAME: &str = "password=";
    let redacted = || {
        let end = word.to_ascii_lowercase().find(NAME)? + NAME.len();
        let white = word.get(word.trim_end().len()..)?;
        Some(format!("{}***{white}", word.get(..end)?))
    };
    redacted().unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn passwords_are_taken_out() {
        for (text, expected) in [
            ("nothing secret", "nothing secret"),
            (
                "unexpected argument 'postgres://u:canary@h/db' found",
                "unexpected argument 'postgres://u:***@h/db' found",
            ),
            ("postgres://u:can@a/ry@h", "postgres://u:***@h"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("'nats://canary@h'", "'nats://***@h'"),
            ("tls://u:canary@h", "tls://u:***@h"),
            ("password=canary host=h", "password=*** host=h"),
            ("sasl.password=canary", "sasl.password=***"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
