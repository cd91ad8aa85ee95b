//! A database and a topic for one run.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{Array, BigInt, SmallInt};
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, sql_query};
use diesel_migrations::MigrationHarness as _;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// The servers that all runs share.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: String,
    pub(crate) brokers: String,
}

/// Messages that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    pub(crate) messages: usize,
    pub(crate) keys: usize,
    /// Of the payload of each.
    pub(crate) bytes: usize,
}

impl Backlog {
    /// So many messages of the usual kind.
    pub(crate) fn of(messages: usize) -> Self {
        Self {
            messages,
            keys: 1_000,
            bytes: 256,
        }
    }
}

#[derive(QueryableByName)]
struct WalPosition {
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// A new database with the outbox's tables. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Database {
    admin: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) fn create(servers: &Servers) -> Result<Self> {
        let name = format!("bench_{}", Uuid::new_v4().simple());
        let admin = servers.postgres.clone();
        PgConnection::establish(&admin)?.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let (server, _) = admin
            .rsplit_once('/')
            .ok_or_else(|| anyhow!("a URL with a database"))?;
        let url = format!("{server}/{name}");
        PgConnection::establish(&url)?
            .run_pending_migrations(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        Ok(Self { admin, name, url })
    }

    pub(crate) fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::establish(&self.url)?)
    }

    /// Fills a table with messages over so many keys, whose payloads can't be compressed.
    ///
    /// Begins with a checkpoint, so that none comes in the midst of what follows: after one, the first
    /// change of each page is logged with the page. Messages are young in general when they are delivered.
    pub(crate) fn fill(&self, table: &str, topic: &str, backlog: &Backlog) -> Result<()> {
        let Backlog {
            messages,
            keys,
            bytes,
        } = backlog;
        let digests = bytes.div_ceil(64);
        self.connect()?.batch_execute(&format!(
            "CHECKPOINT; \
             INSERT INTO {table} (topic, key, payload) \
             SELECT '{topic}', convert_to('key-' || n % {keys}, 'UTF8'), \
                substring((SELECT string_agg(sha512(int8send(n) || int4send(d)), '') \
                    FROM generate_series(1, {digests}) AS d) FROM 1 FOR {bytes}) \
             FROM generate_series(1, {messages}) AS n; \
             ANALYZE {table}"
        ))?;
        Ok(())
    }

    /// How many bytes of write-ahead log the server has written until now.
    pub(crate) fn wal_bytes(&self) -> Result<i64> {
        let position = sql_query("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS bytes");
        let position: WalPosition = position.get_result(&mut self.connect()?)?;
        Ok(position.bytes)
    }
}

/// What the loops that are written by hand run on.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

#[derive(QueryableByName)]
struct Tail {
    #[diesel(sql_type = SmallInt)]
    lane: i16,
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// Waits until nothing waits in this database, and tells since when.
pub(crate) fn wait_until_empty(url: &str) -> Result<Instant> {
    let mut connection = PgConnection::establish(url)?;
    loop {
        // Whether the last message of a lane is there is asked by its id, so that it costs next to nothing.
        // Whether any is there walks all rows that were deleted, so it is asked when the rest is over.
        let tails: Vec<Tail> = sql_query(
            "SELECT l.lane, o.id FROM outbox_lanes AS l CROSS JOIN LATERAL ( \
                 SELECT id FROM outbox WHERE lane = l.lane ORDER BY id DESC LIMIT 1 \
             ) AS o",
        )
        .load(&mut connection)?;
        let (lanes, ids): (Vec<_>, Vec<_>) = tails.iter().map(|tail| (tail.lane, tail.id)).unzip();
        let tails = sql_query(
            "SELECT 1 FROM unnest($1, $2) AS tail (lane, id) JOIN outbox USING (lane, id) LIMIT 1",
        )
        .bind::<Array<SmallInt>, _>(lanes)
        .bind::<Array<BigInt>, _>(ids);
        while tails.clone().execute(&mut connection)? > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let since = Instant::now();
        if sql_query("SELECT 1 FROM outbox LIMIT 1").execute(&mut connection)? == 0 {
            return Ok(since);
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut admin) = PgConnection::establish(&self.admin) {
            // What is left over is removed with the server.
            let _ = admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}
