//! What a program wrote, for an error message.

use std::fs;
use std::path::Path;

const LINES: usize = 30;

/// The last lines of a log file, with the file's name.
pub(crate) fn tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(LINES)..];
            format!("the end of {}:\n{}", path.display(), end.join("\n"))
        }
        Err(error) => format!("{} cannot be read: {error}", path.display()),
    }
}
