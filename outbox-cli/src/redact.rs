//! Passwords taken out of texts that other people's libraries wrote.

/// The text without passwords of URLs (`scheme://user:PASSWORD@host`), tokens of NATS (`nats://TOKEN@host`) and
/// passwords of connection strings (`password=PASSWORD`).
pub(crate) fn redact(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    redact_pairs(&words.map(redact_url).collect::<String>())
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

/// Values may stand in quotes, with white space in them, and white space may stand beside the sign.
fn redact_pairs(text: &str) -> String {
    const NAME: &str = "password";
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(NAME) {
        let (before, after) = rest.split_at(at + NAME.len());
        redacted.push_str(before);
        rest = after;
        if let Some(value) = after.trim_start().strip_prefix('=').map(str::trim_start) {
            redacted.push_str(&after[..after.len() - value.len()]);
            redacted.push_str("***");
            rest = behind(value);
        }
    }
    redacted.push_str(rest);
    redacted
}

/// What comes behind a value: in a quoted one, a backslash takes the meaning from a quote.
fn behind(value: &str) -> &str {
    let end = match value.strip_prefix('\'') {
        None => value.find(char::is_whitespace),
        Some(quoted) => {
            let mut is_escaped = false;
            let closing = quoted.find(|c| {
                let closes = c == '\'' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                closes
            });
            closing.map(|at| at + 2)
        }
    };
    end.map_or("", |end| &value[end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::redact;

    proptest! {
        /// By the rules of connection strings.
        #[test]
        fn no_password_of_a_connection_string_is_told(
            before in "[a-z '=]{0,10}", space in "[ \t]{0,2}", password in r"([a-z '\\=]|.){0,10}", after in "[a-z =]{0,10}"
        ) {
            let canary = "CANARY5317";
            let quoted = format!("{password}{canary}").replace('\\', r"\\").replace('\'', r"\'");
            let text = redact(&format!("{before} password{space}={space}'{quoted}' {after}"));
            prop_assert!(!text.contains(canary), "{}", text);
        }
    }

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
            ("Password = canary host=h", "Password = *** host=h"),
            (r"password='can a\'ry' host=h", "password=*** host=h"),
            ("password='canary", "password=***"),
            ("the password is wrong", "the password is wrong"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
