//! One switch that ends all waiting: for a program that runs, for a server that starts.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Makes everything that waits stop waiting and return an error. Stopping a server is not waiting:
/// it goes on to its end.
pub fn request() {
    REQUESTED.store(true, Ordering::SeqCst);
}

/// Whether [`request`] was called.
#[must_use]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// An error once [`request`] was called.
///
/// # Errors
///
/// When it was.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}
