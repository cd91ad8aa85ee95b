//! Tests that are tables.

use std::fmt::Debug;

use anyhow::{Result, ensure};

/// Runs each case on a thread of its own, since most of them wait, and names those that fail.
///
/// # Errors
///
/// When any of them fails.
pub fn each<T: Copy + Send + Debug>(
    cases: impl IntoIterator<Item = T>,
    test: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let test = &test;
    std::thread::scope(|scope| {
        let start = |case| (case, scope.spawn(move || test(case)));
        let threads: Vec<_> = cases.into_iter().map(start).collect();
        let mut failed = String::new();
        for (case, thread) in threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push_str(&format!("\n{case:?}: {error:#}")),
                Err(_) => failed.push_str(&format!("\n{case:?}: it panicked")),
            }
        }
        ensure!(failed.is_empty(), "{failed}");
        Ok(())
    })
}
