//! What every store promises the runner, and what is about one database only.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use outbox::store::{
    LaneBatch, Lease, MysqlStore, Parking, PostgresStore, ReadRequest, Refusal, RunnerId, Store,
    StoreErrorKind,
};
use outbox::testing::MemoryStore;
use outbox::testing::contract::{self, StoreFixture};
use outbox::{Message, publish_all};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{Database, MariaDb, Postgres};
use outbox_tests::proxy::{Fault, Proxy};
use outbox_tests::servers;
use uuid::Uuid;

struct Fixture<D: Database> {
    database: D,
    store: D::Store,
}

impl<D: Database> StoreFixture for Fixture<D> {
    type Store = D::Store;

    fn store(&self) -> &D::Store {
        &self.store
    }

    async fn insert(&self, messages: &[Message]) {
        let mut connection = self.database.connect().unwrap();
        let published = connection.transaction(|c| publish_all(c, messages));
        published.unwrap();
    }
}

async fn the_store_keeps_its_contract<D: Database>() -> Result<()> {
    contract::store(async || {
        let database = D::create().unwrap();
        let store = database.store().unwrap();
        Fixture { database, store }
    })
    .await;
    Ok(())
}

/// An operator copied them back with their ids, and left the originals where they were.
async fn copies_that_were_put_back_are_no_errors<D: Database>() -> Result<()> {
    let database = D::create()?;
    let message = |payload| Message::new("t").with_key("k").with_payload(payload);
    let written = ["refused", "behind", "buried"].map(message);
    database
        .connect()?
        .transaction(|c| publish_all(c, written))?;
    let store = database.store()?;
    let runner = runner("owner");
    let leases = lease(&store, &runner, LONG).await?;
    let mut request = ReadRequest::default();
    request.lanes = leases.iter().map(|lease| (lease.lane, 10)).collect();
    request.max_bytes = usize::MAX;
    let read = store.read(&request).await?;
    let [first, second, third] = &read[..] else {
        anyhow::bail!("{} messages are read", read.len());
    };
    let refusal = Refusal {
        error: "no".into(),
        attempts: 1,
        retry_in: None,
    };
    let parkings = [(first, Some(refusal)), (second, None)].map(|(stored, refusal)| Parking {
        position: stored.position,
        refusal,
    });
    let set_aside = async || {
        store.park(&runner, &leases, &parkings).await?;
        store
            .bury(&runner, &leases, third.position, "never")
            .await?;
        let (waiting, parked) = database.left()?;
        anyhow::Ok((waiting, parked, database.dead_letters()?))
    };
    let put_back = |table: &str| {
        const COLUMNS: &str = "id, message_id, topic, \"key\", payload, created_at";
        database.plain_sql(&format!(
            "INSERT INTO outbox ({COLUMNS}) SELECT {COLUMNS} FROM {table}"
        ))
    };

    assert_eq!(set_aside().await?, (0, 2, 1));
    put_back("outbox_parked")?;
    put_back("outbox_dead_letters")?;
    assert_eq!(set_aside().await?, (0, 2, 1));
    put_back("outbox_parked")?;
    let unpark = store.unpark(&runner, &leases, first.position, false, 10);
    assert!(!unpark.await?.more);
    assert_eq!(database.left()?, (2, 0));
    assert_eq!(store.read(&request).await?, read[..2]);
    Ok(())
}

/// While the database's clock was days ahead, a runner renewed its leases; then it was killed.
async fn leases_of_a_clock_that_was_ahead_hold_nobody_up<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let (ghost, heir) = (runner("ghost"), runner("heir"));
    let lanes = lease(&store, &ghost, LONG).await?.len();
    assert!(lease(&store, &heir, LONG).await?.is_empty());
    let in_days = match D::MIGRATIONS.rsplit('/').next() {
        Some("postgres") => "clock_timestamp() + interval '2 days'",
        Some("mysql") => "utc_timestamp(6) + INTERVAL 2 DAY",
        _ => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+2 days')",
    };
    for table in ["outbox_lanes", "outbox_runners"] {
        let ghosts =
            format!("UPDATE {table} SET expires_at = {in_days} WHERE expires_at > '2000-01-01'");
        database.plain_sql(&ghosts)?;
    }
    let granted = store.lease(&heir, LONG).await?;
    assert_eq!((granted.leases.len(), granted.share), (lanes, lanes));
    // Where leases are as long as that, they are meant.
    let days = Duration::from_secs(2 * 86_400);
    store.lease(&heir, days).await?;
    assert!(lease(&store, &ghost, days).await?.is_empty());
    Ok(())
}

outbox_tests::on_each_database!(async fn: the_store_keeps_its_contract, leases_of_a_clock_that_was_ahead_hold_nobody_up, copies_that_were_put_back_are_no_errors);

/// Nobody listens on these ports.
#[tokio::test]
async fn who_does_not_answer_is_named_without_a_password() -> Result<()> {
    async fn names(store: impl Store, place: &str) {
        let error = store.paused().await.unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    for (url, place) in [
        (
            "postgres://shop:secret@127.0.0.1:1/orders",
            ": 127.0.0.1:1/orders: ",
        ),
        (
            "postgres://shop:secret@127.0.0.1:1,127.0.0.1:2/a",
            ": 127.0.0.1:1,127.0.0.1:2/a: ",
        ),
        (
            "hostaddr=127.0.0.1 port=1 user=shop password=secret",
            ": 127.0.0.1:1: ",
        ),
        (
            "user=shop host=/nowhere password=secret",
            ": /nowhere:5432: ",
        ),
    ] {
        names(PostgresStore::new(url)?, place).await;
    }
    let url = "mysql://shop:secret@127.0.0.1:1/orders";
    names(MysqlStore::new(url)?, ": 127.0.0.1:1/orders: ").await;
    Ok(())
}

async fn without_its_tables_it_is_refused(store: impl Store) {
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("run the migrations"), "{error}");
}

#[tokio::test]
async fn sqlite_without_tables_is_refused() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("a path")?;
    without_its_tables_it_is_refused(outbox::store::SqliteStore::new(path)).await;

    // Each of the runner's connections would have an empty one of its own.
    let error = outbox::store::SqliteStore::new(":memory:").check().await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the runner needs a file"), "{error}");

    let keyed = "file:/nowhere/shop.db?mode=rw&hexkey=secret";
    let error = outbox::store::SqliteStore::new(keyed).check().await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("\"file:/nowhere/shop.db\" can't be opened"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_without_tables_is_refused() -> Result<()> {
    without_its_tables_it_is_refused(Postgres::empty()?.store()?).await;
    Ok(())
}

/// The application may have one of its own, of the same name.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_with_the_tables_of_another_outbox_is_refused() -> Result<()> {
    let database = Postgres::empty()?;
    let own = "CREATE TABLE outbox (id bigserial PRIMARY KEY, topic text)";
    database.connect()?.batch_execute(own)?;
    let error = database.store()?.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    let text = error.to_string();
    assert!(text.contains("outbox migrate up --schema"), "{text}");
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn mariadb_without_tables_is_refused() -> Result<()> {
    without_its_tables_it_is_refused(MariaDb::empty()?.store()?).await;
    Ok(())
}

/// Without transactions, or with commits that can be lost, promises would be broken in silence.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_mariadb_that_would_break_a_promise_is_refused() -> Result<()> {
    let server = servers::MariaDb::start(&[("log-bin", "binlog"), ("binlog-format", "ROW")])?;
    let database = MariaDb::create_on(&server.url())?;
    let refused = async |named: &str| -> Result<()> {
        let error = database.store()?.check().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Fatal);
        assert!(error.to_string().contains(named), "{error}");
        Ok(())
    };
    refused("sync_binlog is 0").await?;
    let relaxed = MysqlStore::builder(database.url()).relaxed_durability(true);
    relaxed.build()?.check().await?;
    database.plain_sql("SET GLOBAL sync_binlog = 1")?;
    database.store()?.check().await?;
    for (set, named, back) in [
        (
            "SET GLOBAL innodb_flush_log_at_trx_commit = 2",
            "innodb_flush_log_at_trx_commit is 2",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
        ),
        (
            "SET GLOBAL binlog_format = STATEMENT",
            "binlog_format = ROW",
            "SET GLOBAL binlog_format = ROW",
        ),
        (
            "SET GLOBAL read_only = 1",
            "read-only",
            "SET GLOBAL read_only = 0",
        ),
        (
            "ALTER TABLE outbox_parked ENGINE = MyISAM",
            "`outbox_parked` is of the engine MyISAM",
            "ALTER TABLE outbox_parked ENGINE = InnoDB",
        ),
    ] {
        database.plain_sql(set)?;
        refused(named).await?;
        database.plain_sql(back)?;
    }
    database.store()?.check().await?;
    Ok(())
}

/// Sessions that can't write would only fail later, and without a remedy.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_read_only_postgres_is_refused() -> Result<()> {
    use diesel::connection::SimpleConnection as _;

    let database = Postgres::create()?;
    let name = database.url().rsplit('/').next().unwrap_or_default();
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    database.connect()?.batch_execute(&set)?;
    let error = database.store()?.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("read-only"), "{error}");
    Ok(())
}

/// Settles need not be durable, and a crash may take back the last ones. What is there again is read at once also by a
/// runner that was not asking for anything while its server was away.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_back_after_a_crash_is_read_on_a_new_connection() -> Result<()> {
    let database = Postgres::create()?;
    let proxy = Proxy::to(([127, 0, 0, 1], database.port()?).into())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(what_is_back_is_read(&database, &proxy))
}

async fn what_is_back_is_read(database: &Postgres, proxy: &Proxy) -> Result<()> {
    use diesel::connection::SimpleConnection as _;

    // As many as make it worthwhile for the store to move its floors.
    const MANY: usize = 1_000;
    const ATTEMPTS: usize = 20;
    const LIMIT: Duration = Duration::from_secs(30);
    let runner = RunnerId {
        id: Uuid::new_v4(),
        name: "runner".into(),
    };
    let mut connection = database.connect()?;
    for attempt in 1..=ATTEMPTS {
        let store = PostgresStore::new(database.url_via(proxy.address())?)?;
        let leases = store.lease(&runner, Duration::from_secs(60)).await?.leases;
        let mut request = ReadRequest::default();
        request.lanes = leases.iter().map(|lease| (lease.lane, MANY)).collect();
        request.max_bytes = usize::MAX;
        connection.batch_execute(&format!(
            "INSERT INTO outbox (topic, key) SELECT 't', 'k' FROM generate_series(1, {MANY})"
        ))?;
        let read = store.read(&request).await?;
        let positions: Vec<_> = read.iter().map(|stored| stored.position).collect();
        store.settle(&runner, &leases, &positions, false).await?;
        let first = positions.first().context("a message")?;
        let is_back = format!(
            "INSERT INTO outbox (id, topic, key) VALUES ({}, 't', 'k')",
            first.id
        );
        let deadline = Instant::now() + LIMIT;
        // Until the floor has risen above it, it is found.
        loop {
            connection.batch_execute(&is_back)?;
            if store.read(&request).await?.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "the floor does not rise");
            connection.batch_execute("DELETE FROM outbox")?;
            store.read(&request).await?;
        }

        // As a server does that crashes and is there again before anybody asks for anything.
        proxy.set(Fault::Reset);
        let connections = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'outbox'";
        loop {
            // Meanwhile the store hears of it, too, as a rule.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if database.counts(connections)? == [0] {
                break;
            }
            ensure!(Instant::now() < deadline, "connections are not reset");
        }
        proxy.set(Fault::None);
        match store.read(&request).await {
            Ok(read) => {
                let ids: Vec<_> = read.iter().map(|stored| stored.position.id).collect();
                assert_eq!(ids, [first.id]);
                return Ok(());
            }
            // It had not heard of it yet.
            Err(error) => println!("attempt {attempt}: {error}"),
        }
        connection.batch_execute("DELETE FROM outbox")?;
    }
    anyhow::bail!("the reset was never heard of before the read")
}

/// With TLS where it is asked for: to a server that proves who it is, and to no other.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn mariadb_is_believed_by_its_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // The server runs as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let own = authority.issue("mariadb", &["127.0.0.1"])?;
    let server = servers::MariaDb::start(&[
        ("ssl-cert", &file("server.pem", &own.certificate)?),
        ("ssl-key", &file("server.key", &own.key)?),
    ])?;
    let database = MariaDb::create_on(&server.url())?;
    // From now on, who comes without TLS is turned away.
    database.plain_sql(
        "CREATE USER shop@'%' REQUIRE SSL; GRANT ALL ON *.* TO shop@'%'; \
         CREATE USER plain@'%'; GRANT ALL ON *.* TO plain@'%'",
    )?;
    let as_user = |user: &str| database.url().replace("//root@", &format!("//{user}@"));
    let trusted = file("ca.pem", authority.certificate())?;
    let strange = file("stranger.pem", stranger.certificate())?;

    let with = |url: &str, root: &str| MysqlStore::builder(url).root_certificate(root).build();
    with(&as_user("shop"), &trusted)?.check().await?;
    MysqlStore::new(as_user("plain"))?.check().await?;
    let required = format!("{}?require_ssl=true", as_user("plain"));
    let elsewhere = as_user("plain").replace("127.0.0.1", "localhost");
    for (what, store) in [
        ("without TLS", MysqlStore::new(as_user("shop"))?),
        (
            "an authority that nobody knows",
            MysqlStore::new(&required)?,
        ),
        ("another authority", with(&as_user("plain"), &strange)?),
        ("another name", with(&elsewhere, &trusted)?),
    ] {
        let error = store.check().await.err().with_context(|| what)?;
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{what}: {error}");
        println!("{what}: {error}");
    }
    Ok(())
}

/// On a connection that is the only one, calls are given up at any moment. Whoever has it next finds no answer
/// of theirs on it, and no transaction.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn calls_that_are_given_up_leave_nothing_behind_on_mariadb() -> Result<()> {
    const MESSAGES: usize = 400;
    let database = MariaDb::create()?;
    let messages: Vec<_> = (0..MESSAGES)
        .map(|n| Message::new("t").with_payload(vec![7; n * 50]))
        .collect();
    database
        .connect()?
        .transaction(|c| publish_all(c, &messages))?;
    let store = MysqlStore::builder(database.url())
        .max_connections(1)
        .build()?;
    let runner = runner("impatient");
    let leases = lease(&store, &runner, LONG).await?;
    let mut request = ReadRequest::default();
    request.lanes = leases.iter().map(|l| (l.lane, MESSAGES)).collect();
    request.max_bytes = usize::MAX;
    let all = store.read(&request).await?;
    assert_eq!(all.len(), MESSAGES);
    let (mut given_up, mut done) = (0, 0);
    // How long a call takes, which depends on what else the machine does.
    let mut usual = Duration::from_millis(10);
    let mut left = all.clone();
    while let Some(first) = left.first().cloned() {
        // From nothing to more than a call takes.
        let patience = usual.mul_f64(2.0 * fastrand::f64());
        let begin = Instant::now();
        let settle = async {
            store.read(&request).await?;
            let positions = [first.position];
            store.settle(&runner, &leases, &positions, false).await
        };
        match tokio::time::timeout(patience, settle).await {
            Ok(held) => {
                assert_eq!(held?, leases);
                usual = begin.elapsed();
                done += 1;
            }
            Err(_) => {
                usual = usual.mul_f64(1.1);
                given_up += 1;
            }
        }
        let found = store.read(&request).await?;
        assert!(found == left || found == left[1..], "{} left", found.len());
        left = found;
        if given_up + done > 300 {
            break;
        }
    }
    assert!(
        given_up > 20 && done > 20,
        "{given_up} given up, {done} done"
    );
    Ok(())
}

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(200);

fn runner(name: &str) -> RunnerId {
    RunnerId {
        id: Uuid::new_v4(),
        name: name.to_owned(),
    }
}

async fn lease<S: Store>(store: &S, runner: &RunnerId, ttl: Duration) -> Result<Vec<Lease>> {
    Ok(store.lease(runner, ttl).await?.leases)
}

/// Asks until another runner's leases have ended.
async fn lease_when_free<S: Store>(store: &S, runner: &RunnerId) -> Result<Vec<Lease>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let leases = lease(store, runner, LONG).await?;
        if !leases.is_empty() {
            return Ok(leases);
        }
        ensure!(Instant::now() < deadline, "no lane became free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_notes_batches() -> Result<()> {
    batches_are_noted(Postgres::create()?.store()?).await
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn mariadb_notes_batches() -> Result<()> {
    batches_are_noted(MariaDb::create()?.store()?).await
}

#[tokio::test]
async fn the_model_of_a_store_notes_batches_too() -> Result<()> {
    batches_are_noted(MemoryStore::new()).await
}

/// What exactly-once delivery rests on, by who holds the lane and in the order of their numbers.
async fn batches_are_noted(store: impl Store) -> Result<()> {
    let batch = |number: i64| LaneBatch {
        lane: 3,
        number,
        ids: vec![number, number + 1],
        parked: number == 2,
    };
    let (zombie, heir) = (runner("zombie"), runner("heir"));
    let old = lease(&store, &zombie, SHORT).await?;
    let of = |leases: &[Lease]| {
        leases
            .iter()
            .filter(|l| l.lane == 3)
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        store.note_batches(&zombie, &old, &[batch(1)]).await?,
        of(&old)
    );
    let new = lease_when_free(&store, &heir).await?;

    assert_eq!(store.note_batches(&zombie, &old, &[batch(2)]).await?, []);
    assert_eq!(store.noted_batches(&zombie, &of(&old)).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(1)]);
    assert_eq!(
        store.note_batches(&heir, &new, &[batch(2)]).await?,
        of(&new)
    );
    // As if an answer had been given up, and the statement came late.
    assert_eq!(store.note_batches(&heir, &new, &[batch(1)]).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(2)]);
    Ok(())
}
