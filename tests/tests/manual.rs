//! The manual's page on failures names the tests that show what it says.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const PAGE: &str = "outbox/src/manual/failures.md";

/// What stands in backquotes and is the name of a test: its file, and its function.
fn tests_in(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::"))
}

#[test]
fn each_failure_has_a_test_that_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let page = fs::read_to_string(root.join(PAGE))?;
    let mut failures = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        if line.starts_with("| what fails") {
            continue;
        }
        failures += 1;
        ensure!(tests_in(line).count() > 0, "no test: {line}");
        for (file, function) in tests_in(line) {
            let source = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
            let plain = source.contains(&format!("fn {function}("));
            let for_each_database = source.contains(&format!("fn {function}<"));
            ensure!(plain || for_each_database, "{file} has no test {function}");
        }
    }
    ensure!(failures > 20, "only {failures} failures");
    Ok(())
}

#[test]
fn what_is_no_test_is_not_taken_for_one() {
    let line = "| `acks` | x | `a/b.rs::c`, `d.rs::e` |";
    let tests: Vec<_> = tests_in(line).collect();
    assert_eq!(tests, [("a/b.rs", "c"), ("d.rs", "e")]);
}
