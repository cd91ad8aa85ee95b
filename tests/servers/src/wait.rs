//! Waiting for a condition, with a deadline.

use crate::interrupt;
use anyhow::Result;
use std::thread;
use std::time::{Duration, Instant};

/// Short against everything that is waited for, long against the cost of looking.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until there is something to see: `None` when there is nothing before `limit`.
pub(crate) fn poll<T>(
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe()? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(INTERVAL);
    }
}

/// As [`poll`], but an interruption ends it with an error.
pub(crate) fn poll_unless_interrupted<T>(
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    poll(limit, || {
        interrupt::check()?;
        probe()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_least_once_and_gives_up() {
        let mut looks = 0;
        let found = poll::<()>(Duration::ZERO, || {
            looks += 1;
            Ok(None)
        });
        assert!(matches!(found, Ok(None)));
        assert_eq!(looks, 1);
    }
}
