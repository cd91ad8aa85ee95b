//! Asking before something is done that can't be undone.

use std::io::{IsTerminal as _, Write as _};

use crate::failure::Failure;

/// Returns if `yes`, or if somebody at the terminal says so.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text = format!("{what} Nobody is there to be asked, so say `--yes`.");
        return Err(Failure::Usage(text));
    }
    eprint!("{what} Go on? [y/N] ");
    let mut answer = String::new();
    let heard = std::io::stderr()
        .flush()
        .and_then(|()| stdin.read_line(&mut answer));
    match heard {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::Failed("nothing was done".into())),
    }
}
