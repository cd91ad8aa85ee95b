//! How things are shown to people.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::failure::Failure;

/// Prints a text.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::Unread),
        written => written.map_err(|e| Failure::Failed(format!("nothing can be printed: {e}"))),
    }
}

/// Whether whoever read what is printed has gone: the reader of a pipe, or a terminal.
pub(crate) fn is_unread() -> bool {
    let stdout = std::io::stdout();
    let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut stdout, Some(&Timespec::default()));
    let gone = PollFlags::ERR | PollFlags::HUP;
    polled.is_ok() && stdout[0].revents().intersects(gone)
}

/// A value as a line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(value);
    let json = json.map_err(|e| Failure::Failed(format!("it makes no JSON: {e}")))?;
    Ok(json + "\n")
}

/// Rows below their titles, each column as wide as it has to be.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = titles.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths);
        let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let titles = titles.map(str::to_owned);
    std::iter::once(&titles).chain(rows).map(line).collect()
}

/// Text that somebody else wrote, on one line and without what a terminal would act on.
pub(crate) fn text(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Text that is there or not.
pub(crate) fn maybe(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// Bytes: as text where they are text, else in hexadecimal digits.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(utf8) => text(utf8),
        Err(_) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

/// Bytes as JSON: as text where they are text, else as `{"base64": …}`.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'b>(pub(crate) &'b [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(self.0))?;
        map.end()
    }
}

/// A duration by its two greatest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{:.1}s", duration.as_secs_f64()),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["1", "long"], ["22", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["A", "B"], &rows), "A   B\n1   long\n22  x\n");
    }

    #[test]
    fn nothing_reaches_a_terminal_that_it_would_act_on() {
        assert_eq!(text("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(bytes(b"k\xc3\xa4se"), "k\u{e4}se");
        assert_eq!(bytes(&[0xff, 0x00]), "0xff00");
    }

    #[test]
    fn durations_are_shown_by_their_greatest_units() {
        for (seconds, expected) in [
            (0.25, "0.2s"),
            (59.0, "59.0s"),
            (61.0, "1m 1s"),
            (3_660.0, "1h 1m"),
            (90_000.0, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), expected);
        }
    }
}
