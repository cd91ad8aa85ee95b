//! Ctrl-C and its like: the first one ends the task in order, the second one at once.

use anyhow::{Context, Result};
use outbox_test_servers::{interrupt, process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

/// The first signal, or zero.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// From now on a signal makes everything that waits return an error, so that the task ends as it
/// does on any other error.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot watch signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let first = RECEIVED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
            if first.is_err() {
                process::kill_all();
                std::process::exit(exit_code(signal).into());
            }
            interrupt::request();
            // Unlike `eprintln!`, it does not panic when the terminal is gone.
            let _ = writeln!(io::stderr(), "\nstopping; once more to stop at once");
        }
    });
    Ok(())
}

/// The signal that ended the task.
pub(crate) fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// The status by which a shell knows that a signal ended a program.
pub(crate) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}
