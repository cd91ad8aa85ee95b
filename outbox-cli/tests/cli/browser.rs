//! The status page in a browser, where there is one.

use std::process::Command;

use anyhow::Result;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::topic::Kafka;

use crate::http::{Served, park};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Not a part of what has to hold on every machine: it says so where it does nothing.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn hostile_names_are_shown_as_they_are() -> Result<()> {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = BROWSERS.iter().find(is_there) else {
        eprintln!("skipped: none of {BROWSERS:?} is there; on Debian, install `chromium`");
        return Ok(());
    };
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, "<img src=x onerror=alert(1)>")?;
    let served = Served::start(database.url(), kafka.bootstrap(), |_| {})?;
    served.wait_for("/readyz", 200)?;
    let profile = tempfile::tempdir()?;
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/", served.address))
        .output()?;
    let shown = String::from_utf8(output.stdout)?;
    for expected in [
        "<td data-title=\"Topic\" role=\"cell\">&lt;img src=x onerror=alert(1)&gt;</td>",
        "&lt;script&gt;document.title = \"hacked\"&lt;/script&gt;",
        "<title>Outbox</title>",
        "night-shift",
        "ready</span>",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(!shown.contains("canary"), "{shown}");
    Ok(())
}
