//! `outbox run --http` and `--otlp`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::proxy::{Fault, Proxy};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::program::{Running, end, outbox, wait};
use crate::request::{Answer, Request};

pub(crate) const TOKEN: &str = "canary-token-0123456789";

/// A runner with a status page, and where that is.
pub(crate) struct Served {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(url: &str, brokers: &str, more: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = outbox(["run", "--http", "0", "--poll-interval", "50ms"]);
        command.args(["--brokers", brokers, "--runner-name", "night-shift"]);
        command.env("OUTBOX_DATABASE_URL", url);
        more(&mut command);
        let mut running = Running::start(command)?;
        const SAYS: &str = "the status page is at http://";
        running.wait_for(SAYS)?;
        let log = running.log()?;
        let address = log
            .split(SAYS)
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        let address = address.context("no address")?.parse()?;
        Ok(Self { running, address })
    }

    pub(crate) fn send(&self, request: &Request) -> Result<Answer> {
        request.send(self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.send(&Request::get(path))
    }

    pub(crate) fn wait_for(&self, path: &str, code: u16) -> Result<Answer> {
        wait(|| Ok(Some(self.get(path)?).filter(|answer| answer.code == code)))
    }

    fn operate(&self, what: &Value) -> Result<Answer> {
        self.send(&Request::post("/operate", what).token(TOKEN))
    }

    fn end(mut self) -> Result<String> {
        self.running.signal(Signal::TERM)?;
        assert_eq!(
            self.running.ended()?.code(),
            Some(0),
            "{}",
            self.running.log()?
        );
        self.running.log()
    }
}

/// Parks messages of one key (ids 1 and 2) and another one (id 3), none of which is due.
pub(crate) fn park(database: &Postgres, topic: &str) -> Result<()> {
    database.plain_sql(&format!(
        "INSERT INTO outbox_parked (id, lane, message_id, topic, key, payload, headers, created_at, \
            attempts, error) \
         SELECT p.id, (outbox_ordering_key('t', NULL, key, i) & 15)::smallint, i, '{topic}', key, \
            'canary', '[[\"h\", \"canary\"]]', now(), attempts, error \
         FROM (VALUES \
            (1, 'a'::bytea, 12, '<script>document.title = \"hacked\"</script>'), \
            (2, 'a', 0, NULL), \
            (3, 'b', 12, 'too large') \
         ) AS p (id, key, attempts, error), gen_random_uuid() AS i"
    ))
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn readiness_follows_an_outage_and_liveness_does_not() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], database.port()?)))?;
    let url = database.url_via(proxy.address())?;
    let url = url.replace("postgres@", "postgres:canary-password@");
    let served = Served::start(&url, kafka.bootstrap(), |_| {})?;
    served.wait_for("/readyz", 200)?;
    assert_eq!(served.get("/livez")?.code, 200);
    assert_eq!(served.get("/status.json")?.code, 200);
    assert!(
        served
            .get("/metrics")?
            .body
            .contains("\noutbox_store_up 1\n")
    );

    proxy.set(Fault::Down);
    let answer = served.wait_for("/readyz", 503)?;
    assert!(answer.body.contains("the store: "), "{answer:?}");
    assert_eq!(served.get("/livez")?.code, 200);
    let answer = served.wait_for("/status.json", 503)?;
    let status = answer.json()?;
    assert_eq!(status["outbox"], Value::Null);
    assert!(
        status["error"]
            .as_str()
            .is_some_and(|e| e.contains("unavailable")),
        "{status}"
    );
    assert!(
        served
            .get("/metrics")?
            .body
            .contains("\noutbox_store_up 0\n")
    );
    assert!(!answer.body.contains("canary"), "{answer:?}");

    proxy.set(Fault::None);
    served.wait_for("/readyz", 200)?;
    served.wait_for("/status.json", 200)?;
    kafka.set_down(true)?;
    database.plain_sql("INSERT INTO outbox (topic) VALUES ('t')")?;
    let answer = served.wait_for("/readyz", 503)?;
    assert!(answer.body.contains("the sink: "), "{answer:?}");
    let mut running = served.running;
    running.signal(Signal::KILL)?;
    running.ended()?;
    assert!(!running.log()?.contains("canary"));
    Ok(())
}

/// The names in the manual's table, as Prometheus calls them.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../../outbox/src/manual/metrics.md");
    let rows = page
        .lines()
        .filter(|row| row.starts_with("| `") && row.matches('|').count() == 6);
    let names = rows.filter_map(|row| row.split('`').nth(3));
    names.map(str::to_owned).collect()
}

/// The alerts are about metrics that exist, and the dashboard shows all of them.
#[test]
fn alerts_and_dashboard_are_about_what_is_measured() {
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours =
            |word: &&str| word.starts_with("outbox_") || word.starts_with("messaging_client_");
        let words = words
            .filter(ours)
            .map(|word| word.trim_end_matches("_bucket"));
        words.map(str::to_owned).collect()
    };
    let documented = documented();
    let dashboard = include_str!("../../../packaging/grafana/outbox.json");
    assert_eq!(names(dashboard), documented);
    assert!(serde_json::from_str::<Value>(dashboard).is_ok());
    let alerts = names(include_str!("../../../packaging/prometheus/alerts.yaml"));
    assert!(alerts.is_subset(&documented), "{alerts:?}");
    // What the manual recommends to alert on, there is an alert for.
    let page = include_str!("../../../outbox/src/manual/metrics.md");
    let (_, recommended) = page.split_once("## What to alert on").unwrap_or_default();
    let recommended: BTreeSet<_> = names(recommended);
    assert!(!recommended.is_empty());
    assert_eq!(recommended, alerts);
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_was_delivered_is_measured_and_shown() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    let name = topic.name();
    park(&database, name)?;
    // Parked for an operator, and so for as long as the test lasts.
    database.plain_sql("INSERT INTO outbox_paused (topic) VALUES ('other')")?;
    database.plain_sql(
        "INSERT INTO outbox (topic, created_at) VALUES ('other', now() - interval '1 hour')",
    )?;
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, created_at) \
            SELECT '{name}', now() - interval '20 s' FROM generate_series(1, 30)"
    ))?;
    let served = Served::start(database.url(), kafka.bootstrap(), |_| {})?;
    topic.wait_for(30)?;
    let metrics = |expected: &str| {
        wait(|| {
            let body = served.get("/metrics")?.body;
            Ok(body.contains(expected).then_some(body))
        })
        .with_context(|| {
            format!(
                "{expected}: {}",
                served
                    .get("/metrics")
                    .map_or_else(|e| e.to_string(), |a| a.body)
            )
        })
    };
    metrics(&format!(
        "outbox_messages_delivered_total{{messaging_destination_name=\"{name}\"}} 30\n"
    ))?;
    metrics("\noutbox_lanes_held 16\n")?;
    metrics("\noutbox_parked_keys 2\n")?;
    metrics("\noutbox_runners 1\n")?;
    let text = metrics("\noutbox_paused 1\n")?;
    // Whatever the age was when it was asked for, it was that of the oldest.
    let age = text
        .lines()
        .find_map(|line| line.strip_prefix("outbox_backlog_age_seconds "));
    let age: f64 = age.context("an age")?.parse()?;
    assert!((3_600.0..3_700.0).contains(&age), "{age}");
    let sum =
        format!("outbox_message_latency_seconds_sum{{messaging_destination_name=\"{name}\"}} ");
    let sum = text.lines().find_map(|line| line.strip_prefix(&sum));
    let sum: f64 = sum.context("a sum")?.parse()?;
    assert!((600.0..3_000.0).contains(&sum), "{sum}");

    let served_names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let served_names = served_names.filter_map(|line| line.split(' ').next());
    let documented = documented();
    assert!(documented.len() > 15, "{documented:?}");
    for name in served_names.filter(|name| *name != "target_info") {
        assert!(documented.contains(name), "{name} is not in the manual");
    }
    // The points come every five seconds.
    let status = wait(|| {
        let status = served.get("/status.json")?.json()?;
        let steps = status["runner"]["delivered"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let sum: u64 = steps.iter().filter_map(Value::as_u64).sum();
        Ok((sum == 30).then_some(status))
    })?;
    assert_eq!(status["outbox"]["runners"][0]["name"], json!("night-shift"));
    assert_eq!(
        status["outbox"]["lanes"][0]["owner_name"],
        json!("night-shift")
    );
    assert_eq!(
        status["outbox"]["paused"],
        json!({"all": false, "topics": ["other"]})
    );
    assert_eq!(status["operate"], json!(false));
    served.end()?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn whoever_has_the_token_operates_and_nobody_else() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, "orders")?;
    let served = Served::start(database.url(), kafka.bootstrap(), |command| {
        command.env("OUTBOX_HTTP_TOKEN", TOKEN);
    })?;
    served.wait_for("/readyz", 200)?;
    let pause = json!({"action": "pause", "topic": "orders", "reason": "broken", "by": "alice"});
    let nobodys = [
        Request::get("/status.json"),
        Request::get("/status.json").token("wrong"),
        Request::get("/status.json").header("cookie", &format!("token={TOKEN}")),
        Request::get(&format!("/status.json?token={TOKEN}")),
        Request::get("/status.json").header("authorization", &format!("Basic {TOKEN}")),
        Request::post("/operate", &pause),
        Request::post("/operate", &pause).token(&TOKEN.replace('c', "C")),
        Request::post("/operate", &pause).token(""),
    ];
    for request in nobodys {
        let answer = served.send(&request)?;
        assert_eq!(answer.code, 401, "{request:?}: {answer:?}");
        assert!(!answer.body.contains("orders"), "{answer:?}");
    }
    // Other sites can send forms, and let names of theirs stand for this machine.
    let form = Request::post("/operate", &pause).token(TOKEN);
    for (name, value, code) in [
        ("content-type", "text/plain", 415),
        ("content-type", "application/x-www-form-urlencoded", 415),
        ("host", "evil.example.com", 421),
        ("host", "localhost.evil.example.com:80", 421),
    ] {
        assert_eq!(
            served.send(&form.clone().header(name, value))?.code,
            code,
            "{value}"
        );
    }
    for (what, code) in [
        (json!({"action": "skip", "id": 1}), 422),
        (json!({"action": "skip", "id": 1, "reason": " "}), 400),
        (json!({"action": "skip", "id": 2, "reason": "gone"}), 409),
        (json!({"action": "retry", "id": 99}), 404),
        (json!({"action": "retry", "id": 1, "all": true}), 422),
        (json!({"action": "drop"}), 422),
        (json!({"action": "pause", "topic": "a b"}), 422),
        (json!({"action": "pause", "topic": "x".repeat(20_000)}), 413),
    ] {
        assert_eq!(served.operate(&what)?.code, code, "{what}");
    }
    assert_eq!(served.get("/operate")?.code, 405);
    assert_eq!(served.get("/missing")?.code, 404);
    let audited = "SELECT count(*) FROM outbox_audit";
    assert_eq!(
        (database.counts(audited)?, database.parked()?),
        (vec![0], 3)
    );

    let status = || {
        served
            .send(&Request::get("/status.json").token(TOKEN))?
            .json()
    };
    assert_eq!(status()?["operate"], json!(true));
    assert_eq!(served.operate(&pause)?.code, 200);
    assert_eq!(status()?["outbox"]["paused"]["topics"], json!(["orders"]));
    for what in [
        json!({"action": "pause"}),
        json!({"action": "resume"}),
        json!({"action": "retry", "id": 3, "by": "alice"}),
        json!({"action": "skip", "id": 1, "reason": "gone", "by": "alice"}),
        json!({"action": "resume", "topic": "orders", "by": "alice"}),
    ] {
        let answer = served.operate(&what)?;
        assert_eq!(answer.code, 200, "{what}: {answer:?}");
    }
    assert_eq!(
        status()?["outbox"]["paused"],
        json!({"all": false, "topics": []})
    );
    assert_eq!(database.dead_letters()?, 1);
    let noted = "SELECT count(*) FROM outbox_audit WHERE \
        (operator = 'alice' AND action IN ('retry', 'resume')) OR operator = 'status page' OR \
        (operator = 'alice' AND (action, reason) IN (('skip', 'gone'), ('pause', 'broken')))";
    assert_eq!(database.counts(noted)?, [6]);
    // Probes and metrics ask for nothing.
    for path in ["/livez", "/metrics", "/"] {
        let answer = served.get(path)?;
        assert_eq!(answer.code, 200, "{path}");
        assert!(!answer.body.contains("canary"), "{path}");
    }
    let log = served.end()?;
    assert!(!log.contains("canary"), "{log}");
    Ok(())
}

/// The page holds nothing of the database, and what does can't be taken for a page.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_hostile_stays_text() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, "<img src=x onerror=alert(1)>")?;
    let served = Served::start(database.url(), kafka.bootstrap(), |command| {
        command.args(["--http-access", "read"]);
    })?;
    let page = served.get("/")?;
    assert!(
        page.head.contains("content-type: text/html"),
        "{}",
        page.head
    );
    let nonce = page
        .body
        .split("nonce=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let nonce = nonce.context("a nonce")?;
    assert!(
        page.head.contains(&format!("script-src 'nonce-{nonce}'")),
        "{}",
        page.head
    );
    assert!(
        page.head.contains("default-src 'none'") && page.head.contains("frame-ancestors 'none'")
    );
    assert!(
        !served.get("/")?.body.contains(nonce),
        "another one each time"
    );
    for never in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "onerror",
        "http://",
        "https://",
    ] {
        let allowed = page.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!allowed.contains(never), "{never}");
    }
    let answer = served.wait_for("/status.json", 200)?;
    assert!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    let first = &answer.json()?["outbox"]["parked_keys"][0];
    assert_eq!(first["topic"], json!("<img src=x onerror=alert(1)>"));
    // Neither payloads nor headers.
    assert!(!answer.body.contains("canary"), "{}", answer.body);
    for path in ["/", "/livez", "/metrics", "/status.json", "/missing"] {
        let head = served.get(path)?.head;
        for expected in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(head.contains(expected), "{path}: {expected}: {head}");
        }
    }
    let answer =
        served.send(&Request::post("/operate", &json!({"action": "pause"})).token(TOKEN))?;
    assert_eq!(answer.code, 403, "{answer:?}");
    served.end()?;
    Ok(())
}

/// What it does besides needs no more rights than the runner has; what operators do needs theirs.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_runners_role_is_enough_to_measure_and_to_show() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    park(&database, "orders")?;
    database.plain_sql(outbox::migrations::POSTGRES_GRANTS)?;
    let role = format!("runner_{}", Uuid::new_v4().simple());
    database.plain_sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT outbox_runner TO {role}"
    ))?;
    let (_, place) = database.url().split_once('@').context("a user")?;
    let served = Served::start(
        &format!("postgres://{role}@{place}"),
        kafka.bootstrap(),
        |command| {
            command.env("OUTBOX_HTTP_TOKEN", TOKEN);
        },
    )?;
    wait(|| {
        let text = served.get("/metrics")?.body;
        Ok(text.contains("\noutbox_parked_keys 2\n").then_some(()))
    })?;
    let answer = served.send(&Request::get("/status.json").token(TOKEN))?;
    assert_eq!(answer.code, 200, "{answer:?}");
    let answer = served.operate(&json!({"action": "retry", "id": 1}))?;
    assert_eq!(answer.code, 422, "{answer:?}");
    assert!(
        answer.body.contains("grant the role `outbox_operator`"),
        "{answer:?}"
    );
    served.end()?;
    Ok(())
}

fn refused(more: impl FnOnce(&mut Command)) -> Result<String> {
    let mut command = outbox(["run", "--brokers", "127.0.0.1:1"]);
    command.env("DATABASE_URL", "postgres://shop@127.0.0.1:1/shop");
    more(&mut command);
    end(command)?.failure(2)
}

#[test]
fn what_would_be_open_to_everybody_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    fs::write(&file, "canary\n")?;
    for address in ["9090", "0.0.0.0:9090"] {
        let text = refused(|c| {
            c.args(["--http", address, "--http-access", "operate"]);
        })?;
        assert!(text.contains("OUTBOX_HTTP_TOKEN"), "{text}");
    }
    let text = refused(|c| {
        c.args(["--http", "9090"])
            .env("OUTBOX_HTTP_TOKEN", "canary");
    })?;
    assert!(
        text.contains("at least 16 characters") && !text.contains("canary"),
        "{text}"
    );
    let text = refused(|c| {
        c.args(["--http", "9090", "--http-token-file"]).arg(&file);
    })?;
    assert!(
        text.contains("at least 16 characters") && !text.contains("canary"),
        "{text}"
    );
    let text = refused(|c| {
        c.args(["--http", "9090"])
            .env("OUTBOX_HTTP_TOKEN", TOKEN)
            .env("OUTBOX_HTTP_TOKEN_FILE", &file);
    })?;
    assert!(
        text.contains("which one is meant?") && !text.contains("canary"),
        "{text}"
    );
    let text = refused(|c| {
        c.env("OUTBOX_HTTP_TOKEN", TOKEN);
    })?;
    assert!(text.contains("no effect unless `http` is"), "{text}");
    let text = refused(|c| {
        c.args(["--otlp", "collector:4317"]);
    })?;
    assert!(text.contains("http://localhost:4318"), "{text}");
    Ok(())
}

#[test]
fn flags_come_before_variables_and_these_before_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    fs::write(&file, "http = 'in the file'\n")?;
    let config = file.display().to_string();
    let text = refused(|c| {
        c.args(["--config", &config]);
    })?;
    assert!(text.contains("\"in the file\""), "{text}");
    let text = refused(|c| {
        c.args(["--config", &config])
            .env("OUTBOX_HTTP", "in a variable");
    })?;
    assert!(
        text.contains("`OUTBOX_HTTP` is \"in a variable\"") && !text.contains("in the file"),
        "{text}"
    );
    let text = refused(|c| {
        c.args(["--config", &config, "--http", "in a flag"])
            .env("OUTBOX_HTTP", "in a variable");
    })?;
    assert!(
        text.contains("`--http` is \"in a flag\"") && !text.contains("in a variable"),
        "{text}"
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn an_address_that_is_taken_is_told() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let mut command = outbox(["run", "--brokers", "127.0.0.1:1", "--http"]);
    command.arg(taken.local_addr()?.port().to_string());
    command.env("DATABASE_URL", "postgres://shop@127.0.0.1:1/shop");
    let text = end(command)?.failure(1)?;
    assert!(text.contains("can't be listened at"), "{text}");
    Ok(())
}

/// Paths, and what was sent there.
type Pushed = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that takes everything, and remembers where it came in.
fn collector() -> Result<(String, Pushed)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let seen = Pushed::default();
    let sees = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sees = sees.clone();
            thread::spawn(move || -> Result<()> {
                let mut reader = BufReader::new(stream.try_clone()?);
                let mut stream = stream;
                loop {
                    let (mut line, mut length) = (String::new(), 0);
                    if reader.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    while line.trim() != "" {
                        line.clear();
                        reader.read_line(&mut line)?;
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse()?;
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body)?;
                    sees.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((path, body));
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
                }
            });
        }
    });
    Ok((url, seen))
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn metrics_and_traces_are_pushed_at_the_latest_at_the_end() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    let (url, seen) = collector()?;
    // As `publish` writes it, in letters so that it is found as it is.
    let parent = format!("00-{}-{}-01", hex(b"trace-0123456789"), hex(b"span-789"));
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, headers) \
            VALUES ('{}', '[{{\"key\": \"traceparent\", \"value\": \"{parent}\"}}]')",
        topic.name()
    ))?;
    let mut command = outbox(["run", "--poll-interval", "50ms", "--otlp", &url]);
    command
        .args(["--brokers", kafka.bootstrap()])
        .env("OUTBOX_DATABASE_URL", database.url());
    let mut running = Running::start(command)?;
    topic.wait_for(1)?;
    wait(|| Ok((database.left()? == (0, 0)).then_some(())))?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let has = |path: &str, text: &str| {
        let holds = |body: &[u8]| body.windows(text.len()).any(|part| part == text.as_bytes());
        seen.iter().any(|(at, body)| at == path && holds(body))
    };
    assert!(
        has("/v1/metrics", "outbox.messages.delivered"),
        "{}",
        running.log()?
    );
    assert!(has("/v1/metrics", topic.name()));
    assert!(has("/v1/traces", "settle"), "{}", running.log()?);
    assert!(has("/v1/traces", "trace-0123456789") && has("/v1/traces", "span-789"));
    Ok(())
}

/// One that is away costs a warning at most.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_collector_that_is_away_holds_nothing_up() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic) VALUES ('{}')",
        topic.name()
    ))?;
    let served = Served::start(database.url(), kafka.bootstrap(), |command| {
        command.args(["--otlp", "http://127.0.0.1:1"]);
    })?;
    topic.wait_for(1)?;
    served.end()?;
    Ok(())
}
