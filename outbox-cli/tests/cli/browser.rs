//! The status page in a browser, as people see and use it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::process::{self, Orphaned};
use outbox_tests::topic::Kafka;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Served, TOKEN, park};
use crate::program::Running;

/// Long enough for anything on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(60);

/// What a width of a page is given in, and how it is named.
const DESKTOP: (u32, u32) = (1_200, 1_000);
const PHONE: (u32, u32) = (375, 812);

/// The page, in a browser of its own.
struct Page {
    client: Client,
    _profile: TempDir,
    _driver: Running,
}

impl Page {
    async fn open(served: &Served, (width, height): (u32, u32)) -> Result<Self> {
        const SAYS: &str = "started successfully on port ";
        let mut command = process::command("chromedriver", Orphaned::Kill);
        command.arg("--port=0");
        let mut driver = Running::start(command)?;
        driver.wait_for(SAYS)?;
        let log = driver.log()?;
        let port = log.split(SAYS).nth(1).context("a port")?;
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();

        let profile = tempfile::tempdir()?;
        let profile_flag = format!("--user-data-dir={}", profile.path().display());
        let options = json!({
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", profile_flag,
            ],
            // A window can't be as narrow as a phone.
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}},
        });
        let capabilities = json!({"goog:chromeOptions": options});
        let Value::Object(capabilities) = capabilities else {
            anyhow::bail!("an object");
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await?;
        client.goto(&format!("http://{}/", served.address)).await?;
        Ok(Self {
            client,
            _profile: profile,
            _driver: driver,
        })
    }

    /// What a script finds.
    async fn eval(&self, script: &str) -> Result<Value> {
        Ok(self
            .client
            .execute(&format!("return {script}"), vec![])
            .await?)
    }

    /// Waits until a condition holds on the page.
    async fn wait_until(&self, condition: &str) -> Result<()> {
        let held = tokio::time::timeout(LIMIT, async {
            loop {
                if self.eval(condition).await? == true {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match held.await {
            Ok(held) => held,
            Err(_) => Err(anyhow::anyhow!(
                "{condition} does not hold: {}",
                self.text().await?
            )),
        }
    }

    async fn text(&self) -> Result<String> {
        let text = self.eval("document.body.innerText").await?;
        Ok(text.as_str().context("a text")?.to_owned())
    }

    async fn press(&self, key: Key) -> Result<()> {
        self.type_in(&char::from(key).to_string()).await
    }

    /// Wherever the focus is, as a keyboard does it: the page may put another element in the place of the
    /// one that has it.
    async fn type_in(&self, text: &str) -> Result<()> {
        let keys = KeyActions::new("keyboard".to_owned());
        let typed = text.chars().fold(keys, |keys, value| {
            keys.then(KeyAction::Down { value })
                .then(KeyAction::Up { value })
        });
        Ok(self.client.perform_actions(typed).await?)
    }

    /// Goes from one thing to the next with the Tab key, until this one has the focus.
    async fn tab_to(&self, what: &str) -> Result<()> {
        const MOST: usize = 60;
        for _ in 0..MOST {
            let named = "(e => e.getAttribute('aria-label') || e.id || e.textContent)(document.activeElement)";
            if self.eval(named).await? == what {
                // And it shows.
                let outline = self
                    .eval("getComputedStyle(document.activeElement).outlineStyle")
                    .await?;
                assert_eq!(outline, "solid", "{what}");
                return Ok(());
            }
            self.press(Key::Tab).await?;
        }
        anyhow::bail!("{what:?} can't be reached by the keyboard")
    }

    /// A picture, for people: in `target/tmp`.
    async fn picture(&self, name: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        Ok(fs::write(path, self.client.screenshot().await?)?)
    }
}

/// Looks at the page, and closes the browser whatever was found.
fn on_page(
    served: &Served,
    size: (u32, u32),
    test: impl AsyncFnOnce(&Page) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let page = Page::open(served, size).await?;
        let tested = test(&page).await;
        page.client.clone().close().await?;
        tested
    })
}

fn no_token(_: &mut std::process::Command) {}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_page_shows_what_there_is_as_it_is() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, "<img src=x onerror=alert(1)>")?;
    database.plain_sql(
        "INSERT INTO outbox (topic, key, payload, created_at) \
            SELECT 'bills', i::text::bytea, 'canary', now() - interval '1 hour' \
            FROM generate_series(1, 1234) AS i; \
         INSERT INTO outbox_paused (topic) VALUES ('bills')",
    )?;
    let served = Served::start(database.url(), kafka.bootstrap(), no_token)?;
    on_page(&served, DESKTOP, async |page| {
        page.wait_until("document.querySelectorAll('#lanes li').length === 16")
            .await?;
        page.wait_until("!document.getElementById('lanes').innerText.includes('free')")
            .await?;
        page.wait_until("document.getElementById('waiting').textContent === '1,234'")
            .await?;
        let text = page.text().await?;
        for expected in [
            "<img src=x onerror=alert(1)>",
            "<script>document.title = \"hacked\"</script>",
            "night-shift",
            "bills",
            "too large",
            "operator",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert_eq!(page.client.title().await?, "Outbox");
        // Nobody has a token, so nothing can be changed.
        let buttons = page.eval(
            "[...document.querySelectorAll('button')].filter(b => b.checkVisibility()).length",
        );
        assert_eq!(buttons.await?, 0);
        let all = page.client.source().await?;
        assert!(!all.contains("canary"), "{all}");
        page.picture("status").await
    })
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn nothing_is_wider_than_a_phone() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, &"long-".repeat(49))?;
    database.plain_sql(&format!(
        "UPDATE outbox_parked SET error = repeat('x', 500) WHERE id = 3; \
         INSERT INTO outbox_paused (topic) VALUES ('{}'); \
         INSERT INTO outbox_runners (runner, name, expires_at) \
            VALUES (gen_random_uuid(), '{}', now() + interval '1 hour')",
        "paused_".repeat(35),
        "day-shift-".repeat(20)
    ))?;
    let served = Served::start(database.url(), kafka.bootstrap(), |command| {
        command.env("OUTBOX_HTTP_TOKEN", TOKEN);
    })?;
    on_page(&served, PHONE, async |page| {
        let narrow = "document.documentElement.scrollWidth <= 375 && innerWidth === 375";
        page.wait_until("document.getElementById('state').textContent === 'a token is needed'")
            .await?;
        page.wait_until(narrow).await?;
        page.picture("phone-without-token").await?;
        page.tab_to("sign").await?;
        page.press(Key::Enter).await?;
        page.type_in(TOKEN).await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.querySelectorAll('#lanes li').length === 16")
            .await?;
        page.wait_until("document.querySelectorAll('#keys tbody tr').length === 2")
            .await?;
        page.wait_until(narrow).await?;
        page.picture("phone").await?;
        page.eval("document.getElementById('keys').scrollIntoView()")
            .await?;
        page.picture("phone-keys").await
    })
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn an_operator_needs_a_token_and_no_mouse() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    park(&database, topic.name())?;
    // As a plain-SQL writer has them.
    database.plain_sql("UPDATE outbox_parked SET headers = NULL")?;
    let served = Served::start(database.url(), kafka.bootstrap(), |command| {
        command.env("OUTBOX_HTTP_TOKEN", TOKEN);
    })?;
    on_page(&served, DESKTOP, async |page| {
        page.wait_until("document.getElementById('state').textContent === 'a token is needed'")
            .await?;
        assert!(!page.text().await?.contains(topic.name()));
        // A wrong one is told from none.
        for (token, state) in [("canary-wrong", "a token is needed"), (TOKEN, "ready")] {
            page.tab_to("sign").await?;
            page.press(Key::Enter).await?;
            page.wait_until("document.getElementById('ask').open")
                .await?;
            page.type_in(token).await?;
            page.press(Key::Tab).await?;
            page.type_in("alice").await?;
            page.press(Key::Enter).await?;
            page.wait_until("!document.getElementById('ask').open")
                .await?;
            page.wait_until(&format!(
                "document.getElementById('state').textContent === '{state}'"
            ))
            .await?;
        }
        page.wait_until("document.querySelectorAll('#keys tbody tr').length === 2")
            .await?;

        page.tab_to("Retry message 3").await?;
        page.picture("keyboard").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.getElementById('ask').open")
            .await?;
        page.picture("dialog").await?;
        // Escape changes nothing.
        page.press(Key::Escape).await?;
        page.wait_until("!document.getElementById('ask').open")
            .await?;
        page.tab_to("Retry message 3").await?;
        page.press(Key::Enter).await?;
        page.tab_to("Go on").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.querySelectorAll('#keys tbody tr').length === 1")
            .await?;

        page.tab_to("Skip message 1").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.getElementById('ask').open")
            .await?;
        page.type_in("no such order").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.getElementById('keys').hidden")
            .await?;

        page.tab_to("pause-topic").await?;
        page.type_in("bills").await?;
        page.press(Key::Enter).await?;
        page.tab_to("Go on").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.getElementById('paused').innerText.includes('bills')")
            .await?;
        assert_eq!(database.counts("SELECT count(*) FROM outbox_paused")?, [1]);
        page.tab_to("Resume bills").await?;
        page.press(Key::Enter).await?;
        page.tab_to("Go on").await?;
        page.press(Key::Enter).await?;
        page.wait_until("document.getElementById('paused').innerText.includes('Nothing')")
            .await?;
        Ok(())
    })?;
    // The one that was tried again, and the one that waited behind the one that was given up.
    assert_eq!(topic.wait_for(2)?.len(), 2);
    assert_eq!((database.parked()?, database.dead_letters()?), (0, 1));
    let noted = database.counts(
        "SELECT count(*) FROM outbox_audit WHERE operator LIKE '%alice%' \
         GROUP BY action ORDER BY action",
    )?;
    assert_eq!(noted, [1, 1, 1, 1]);
    Ok(())
}
