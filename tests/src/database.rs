//! Databases of a test's own, with the outbox's tables.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow};
use diesel::connection::{LoadConnection, SimpleConnection as _};
use diesel::r2d2::R2D2Connection;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel::{
    Connection, MysqlConnection, PgConnection, QueryableByName, RunQueryDsl as _, SqliteConnection,
};
use diesel_migrations::MigrationHarness as _;
use outbox::OutboxBackend;
use outbox::store::{MysqlStore, PostgresStore, SqliteStore, Store};
use tempfile::TempDir;
use uuid::Uuid;

/// A database of a test's own: what the tests that hold for all databases need of one.
pub trait Database: Sized + Sync {
    /// Diesel's connection to it.
    type Connection: R2D2Connection + LoadConnection<Backend: OutboxBackend> + Send + 'static;

    /// The outbox's store on it.
    type Store: Store;

    /// The folder of its migrations, in the repository.
    const MIGRATIONS: &str;

    /// A new database without any tables.
    ///
    /// # Errors
    ///
    /// When the server can't be reached.
    fn empty() -> Result<Self>;

    /// A new database with the outbox's tables, and a table `counters (name, n)`.
    ///
    /// # Errors
    ///
    /// When the server can't be reached or refuses a statement.
    fn create() -> Result<Self>;

    /// What a connection is made from.
    fn url(&self) -> &str;

    /// The outbox's store.
    ///
    /// # Errors
    ///
    /// When there can be none.
    fn store(&self) -> Result<Self::Store>;

    /// Locks the counter of this name until the end of the transaction, and counts one up: how
    /// writers serialise on an aggregate.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn count_up(connection: &mut Self::Connection, name: &str) -> diesel::QueryResult<i64> {
        Self::count_up_by(connection, name, 1)
    }

    /// The same for so many at a time. Returns the last of them.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn count_up_by(
        connection: &mut Self::Connection,
        name: &str,
        by: i64,
    ) -> diesel::QueryResult<i64>;

    /// The rows of a query for one number each, called `count`.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn counts(&self, query: &str) -> Result<Vec<i64>>;

    /// How many rows a table has.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn count(&self, table: &str) -> Result<i64> {
        let counts = self.counts(&format!("SELECT count(*) AS count FROM {table}"))?;
        counts.into_iter().next().context("a count")
    }

    /// How many messages wait in the table `outbox`.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn waiting(&self) -> Result<i64> {
        self.count("outbox")
    }

    /// How many messages are parked.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn parked(&self) -> Result<i64> {
        self.count("outbox_parked")
    }

    /// How many messages wait and how many are parked, in one look: they move from one table to the other.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn left(&self) -> Result<(i64, i64)> {
        let counts = self.counts(
            "SELECT count FROM (SELECT 0 AS n, count(*) AS count FROM outbox \
             UNION ALL SELECT 1, count(*) FROM outbox_parked) AS counted ORDER BY n",
        )?;
        match counts[..] {
            [waiting, parked] => Ok((waiting, parked)),
            _ => Err(anyhow!("{counts:?} in place of two counts")),
        }
    }

    /// How many messages are in the archive.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn archived(&self) -> Result<i64> {
        self.count("outbox_archive")
    }

    /// How many messages are dead letters.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn dead_letters(&self) -> Result<i64> {
        self.count("outbox_dead_letters")
    }

    /// The message ids of all that waits, parked or not.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn waiting_ids(&self) -> Result<Vec<Uuid>>;

    /// Runs SQL as somebody without Diesel would. Names that are words of SQL are quoted by `"`.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn plain_sql(&self, sql: &str) -> Result<()>;

    /// A new connection.
    ///
    /// # Errors
    ///
    /// When the server can't be reached.
    fn connect(&self) -> Result<Self::Connection> {
        Ok(Self::Connection::establish(self.url())?)
    }
}

const COUNTERS: &str = "CREATE TABLE counters (name text PRIMARY KEY, n bigint NOT NULL)";
const COUNT_UP: &str = "INSERT INTO counters (name, n) VALUES ($1, $2) \
    ON CONFLICT (name) DO UPDATE SET n = counters.n + $2 RETURNING n AS count";

const WAITING_IDS: &str =
    "SELECT message_id FROM outbox UNION ALL SELECT message_id FROM outbox_parked";

/// Where ids are text.
#[derive(QueryableByName)]
struct TextId {
    #[diesel(sql_type = Text)]
    message_id: String,
}

fn text_ids(rows: Vec<TextId>) -> Result<Vec<Uuid>> {
    rows.iter()
        .map(|row| Ok(Uuid::parse_str(&row.message_id)?))
        .collect()
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

fn numbers(rows: Vec<Count>) -> Vec<i64> {
    rows.into_iter().map(|row| row.count).collect()
}

/// A database on the PostgreSQL server that `cargo xtask test` started. It goes away with that
/// server.
#[derive(Debug)]
pub struct Postgres {
    url: String,
}

impl Postgres {
    fn empty_on(admin: &str) -> Result<Self> {
        let name = format!("test_{}", Uuid::new_v4().simple());
        PgConnection::establish(admin)?.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let (server, _) = admin.rsplit_once('/').context("a URL with a database")?;
        Ok(Self::at(&format!("{server}/{name}")))
    }
}

impl Postgres {
    /// The database of this URL, as it is.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
        }
    }

    /// A new database with the outbox's tables on the server of this URL.
    ///
    /// # Errors
    ///
    /// When the server can't be reached or refuses a statement.
    pub fn create_on(admin: &str) -> Result<Self> {
        Self::empty_on(admin)?.with_tables()
    }

    /// The same database, by connections whose `search_path` is this schema, which is made if it is not there.
    /// Its tables are made by [`with_tables`](Self::with_tables).
    ///
    /// # Errors
    ///
    /// When the server can't be reached or refuses a statement.
    pub fn in_schema(&self, schema: &str) -> Result<Self> {
        let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        self.connect()?.batch_execute(&make)?;
        let option = format!("options=-csearch_path%3D{schema}");
        Ok(Self::at(&with_parameter(&self.url, &option)))
    }

    /// Makes the outbox's tables, and a table `counters`.
    ///
    /// # Errors
    ///
    /// When the server refuses a statement.
    pub fn with_tables(self) -> Result<Self> {
        let mut connection = self.connect()?;
        connection
            .run_pending_migrations(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        connection.batch_execute(COUNTERS)?;
        Ok(self)
    }

    /// The port of its server.
    ///
    /// # Errors
    ///
    /// When the URL is not one that this type makes.
    pub fn port(&self) -> Result<u16> {
        let (_, rest) = self.url.rsplit_once(':').context("a URL with a port")?;
        let (port, _) = rest.split_once('/').context("a URL with a database")?;
        Ok(port.parse()?)
    }

    /// The same database by another way: the address of a proxy or a pooler.
    ///
    /// # Errors
    ///
    /// When the URL is not one that this type makes.
    pub fn url_via(&self, address: SocketAddr) -> Result<String> {
        let (user, rest) = self.url.split_once('@').context("a URL with a user")?;
        let (_, name) = rest.split_once('/').context("a URL with a database")?;
        Ok(format!("{user}@{address}/{name}"))
    }
}

/// A URL with one more parameter.
pub(crate) fn with_parameter(url: &str, parameter: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}{parameter}")
}

impl Database for Postgres {
    type Connection = PgConnection;
    type Store = PostgresStore;

    const MIGRATIONS: &str = "migrations/postgres";

    fn empty() -> Result<Self> {
        Self::empty_on(&crate::postgres_url()?)
    }

    fn create() -> Result<Self> {
        Self::empty()?.with_tables()
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn store(&self) -> Result<PostgresStore> {
        Ok(PostgresStore::new(&self.url)?)
    }

    fn count_up_by(connection: &mut PgConnection, name: &str, by: i64) -> diesel::QueryResult<i64> {
        let row: Count = sql_query(COUNT_UP)
            .bind::<Text, _>(name)
            .bind::<BigInt, _>(by)
            .get_result(connection)?;
        Ok(row.count)
    }

    fn counts(&self, query: &str) -> Result<Vec<i64>> {
        Ok(numbers(sql_query(query).load(&mut self.connect()?)?))
    }

    fn waiting_ids(&self) -> Result<Vec<Uuid>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Uuid)]
            message_id: Uuid,
        }
        let rows: Vec<Row> = sql_query(WAITING_IDS).load(&mut self.connect()?)?;
        Ok(rows.into_iter().map(|row| row.message_id).collect())
    }

    fn plain_sql(&self, sql: &str) -> Result<()> {
        let output = std::process::Command::new("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--dbname",
            ])
            .args([&self.url, "--command", sql])
            .output()
            .context("psql")?;
        anyhow::ensure!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// A database on the MariaDB server that `cargo xtask test` started. It goes away with that server.
#[derive(Debug)]
pub struct MariaDb {
    url: String,
}

impl MariaDb {
    fn empty_on(admin: &str) -> Result<Self> {
        let name = format!("test_{}", Uuid::new_v4().simple());
        MysqlConnection::establish(admin)?.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let (server, _) = admin.rsplit_once('/').context("a URL with a database")?;
        Ok(Self::at(&format!("{server}/{name}")))
    }

    /// The database of this URL, as it is.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
        }
    }

    /// A new database with the outbox's tables on the server of this URL.
    ///
    /// # Errors
    ///
    /// When the server can't be reached or refuses a statement.
    pub fn create_on(admin: &str) -> Result<Self> {
        Self::empty_on(admin)?.with_tables()
    }

    fn with_tables(self) -> Result<Self> {
        let mut connection = self.connect()?;
        connection
            .run_pending_migrations(outbox::migrations::MYSQL)
            .map_err(|error| anyhow!(error))?;
        // With the keys of writers in it: where they insert one and roll back, InnoDB gives those who waited
        // for it the gap, and then each is in the other's way.
        connection.batch_execute(
            "CREATE TABLE counters (name varchar(250) PRIMARY KEY, n bigint NOT NULL); \
             INSERT INTO counters (name, n) SELECT concat('k', seq), 0 FROM seq_0_to_99",
        )?;
        Ok(self)
    }

    /// What the server's own client shows for this SQL.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let (server, name) = self.url.rsplit_once('/').context("a URL with a database")?;
        let (_, port) = server.rsplit_once(':').context("a URL with a port")?;
        let output = std::process::Command::new("mariadb")
            .args(["--no-defaults", "--host=127.0.0.1", "--user=root", "--port"])
            .args([port, name])
            .arg("--init-command=SET sql_mode = concat(@@sql_mode, ',ANSI_QUOTES')")
            .args(["--raw", "--execute", sql])
            .output()
            .context("mariadb")?;
        anyhow::ensure!(
            output.status.success(),
            "mariadb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Database for MariaDb {
    type Connection = MysqlConnection;
    type Store = MysqlStore;

    const MIGRATIONS: &str = "migrations/mysql";

    fn empty() -> Result<Self> {
        Self::empty_on(&crate::mariadb_url()?)
    }

    fn create() -> Result<Self> {
        Self::empty()?.with_tables()
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn store(&self) -> Result<MysqlStore> {
        Ok(MysqlStore::new(&self.url)?)
    }

    fn count_up_by(
        connection: &mut MysqlConnection,
        name: &str,
        by: i64,
    ) -> diesel::QueryResult<i64> {
        sql_query("INSERT INTO counters (name, n) VALUES (?, ?) ON DUPLICATE KEY UPDATE n = n + ?")
            .bind::<Text, _>(name)
            .bind::<BigInt, _>(by)
            .bind::<BigInt, _>(by)
            .execute(connection)?;
        let row: Count = sql_query("SELECT n AS count FROM counters WHERE name = ?")
            .bind::<Text, _>(name)
            .get_result(connection)?;
        Ok(row.count)
    }

    fn counts(&self, query: &str) -> Result<Vec<i64>> {
        Ok(numbers(sql_query(query).load(&mut self.connect()?)?))
    }

    fn waiting_ids(&self) -> Result<Vec<Uuid>> {
        text_ids(sql_query(WAITING_IDS).load(&mut self.connect()?)?)
    }

    fn plain_sql(&self, sql: &str) -> Result<()> {
        self.ask(sql).map(drop)
    }
}

/// A SQLite file in a temporary folder.
#[derive(Debug)]
pub struct SqliteFile {
    url: String,
    _folder: TempDir,
}

impl Database for SqliteFile {
    type Connection = SqliteConnection;
    type Store = SqliteStore;

    const MIGRATIONS: &str = "migrations/sqlite";

    fn empty() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("test.sqlite");
        Ok(Self {
            url: path.to_str().context("a path in UTF-8")?.to_owned(),
            _folder: folder,
        })
    }

    fn create() -> Result<Self> {
        let database = Self::empty()?;
        let mut connection = database.connect()?;
        connection
            .run_pending_migrations(outbox::migrations::SQLITE)
            .map_err(|error| anyhow!(error))?;
        connection.batch_execute(COUNTERS)?;
        Ok(database)
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn store(&self) -> Result<SqliteStore> {
        Ok(SqliteStore::new(&self.url))
    }

    fn connect(&self) -> Result<SqliteConnection> {
        let mut connection = SqliteConnection::establish(&self.url)?;
        connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL")?;
        Ok(connection)
    }

    fn count_up_by(
        connection: &mut SqliteConnection,
        name: &str,
        by: i64,
    ) -> diesel::QueryResult<i64> {
        let row: Count = sql_query(COUNT_UP)
            .bind::<Text, _>(name)
            .bind::<BigInt, _>(by)
            .get_result(connection)?;
        Ok(row.count)
    }

    fn counts(&self, query: &str) -> Result<Vec<i64>> {
        Ok(numbers(sql_query(query).load(&mut self.connect()?)?))
    }

    fn waiting_ids(&self) -> Result<Vec<Uuid>> {
        text_ids(sql_query(WAITING_IDS).load(&mut self.connect()?)?)
    }

    fn plain_sql(&self, sql: &str) -> Result<()> {
        Ok(self.connect()?.batch_execute(sql)?)
    }
}
