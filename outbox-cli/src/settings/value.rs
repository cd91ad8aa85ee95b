//! Values, and how they are read from text.

use std::time::Duration;
use std::{fs, io};

use jiff::{Span, SpanRelativeTo};

use super::did_you_mean;

/// The text of a setting, and where it was given. Not `Debug`: it may be secret.
pub(crate) struct Value {
    pub(super) text: String,
    pub(super) origin: String,
}

impl Value {
    pub(super) fn new(text: &str, origin: String) -> Self {
        Self {
            text: text.to_owned(),
            origin,
        }
    }
}

/// What a file holds that is named in place of a secret. Editors end a file with a new line.
pub(super) fn read_secret(path: &str) -> io::Result<String> {
    let content = fs::read_to_string(path)?;
    Ok(content.trim_end_matches(['\r', '\n']).to_owned())
}

/// A duration, as `15s`, `500ms`, `72h`, `1m 30s` or `7d`. A day has 24 hours.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read = || {
        let span: Span = text.parse().ok()?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        Duration::try_from(duration).ok()
    };
    read().ok_or_else(|| "a duration is expected, such as 500ms, 15s, 72h or 7d".to_owned())
}

/// A whole number that is not 0.
pub(crate) fn number<T: std::str::FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    match text.parse() {
        Ok(number) if number != T::default() => Ok(number),
        _ => Err("a whole number is expected, at least 1".to_owned()),
    }
}

/// Words between commas. That there are any, and what they may be, others know.
pub(crate) fn list(text: &str) -> Result<Vec<String>, String> {
    let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
    Ok(words.map(str::to_owned).collect())
}

/// One of some words.
pub(crate) fn one_of<T: Copy>(words: &[(&'static str, T)], text: &str) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let hint = did_you_mean(text, names.iter().map(|name| (*name).to_owned()));
    Err(format!("one of {} is expected{hint}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is set, it is read or refused.
        #[test]
        fn any_value_is_read_or_refused(text in r"([0-9]{1,20}(ms|s|m|h|d|w|y|us|ns)? ?|[-+.PT]|.){0,5}") {
            let _ = (duration(&text), number::<usize>(&text), list(&text));
        }

        #[test]
        fn durations_are_read_as_they_are_meant(hours in 0..100_000_u64, seconds in 0..100_000_u64, millis in 0..1_000_u64) {
            let meant = Duration::from_millis((hours * 3600 + seconds) * 1000 + millis);
            prop_assert_eq!(duration(&format!("{hours}h {seconds}s {millis}ms")), Ok(meant));
            prop_assert_eq!(duration(&format!("{hours}h{seconds}s{millis}ms")), Ok(meant));
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("500ms", 0.5),
            ("15s", 15.0),
            ("1m 30s", 90.0),
            ("72h", 259_200.0),
            ("7d", 604_800.0),
            ("0s", 0.0),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for text in ["", "15", "-5s", "soon", "1mo", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_at_least_one() {
        assert_eq!(number("7"), Ok(7_usize));
        for text in ["0", "-1", "1.5", "", "many"] {
            assert!(number::<usize>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_word_is_told() {
        let words = [("delete", 1), ("archive", 2)];
        assert_eq!(one_of(&words, "archive"), Ok(2));
        let error = one_of(&words, "archiv").unwrap_err();
        assert_eq!(
            error,
            "one of delete, archive is expected; did you mean `archive`?"
        );
    }
}
