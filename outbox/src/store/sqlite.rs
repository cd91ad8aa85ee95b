//! The store on SQLite.
//!
//! SQLite has one writer at a time, so one lane is enough, ids are committed in their order, and
//! every method is one short transaction on one connection, away from the async runtime.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use diesel::{Connection as _, OptionalExtension as _, QueryableByName, RunQueryDsl as _};
use diesel::{SqliteConnection, sql_query};

use super::row::MessageRow;
use super::{
    DueMessage, Granted, Lease, ParkedKey, Parking, Position, ReadRequest, Refusal, RunnerId,
    Store, StoreError, StoredMessage, TopicFilter, Unparked, longest_lease,
};

/// Now, in the form of the tables' times. A `%f` has milliseconds, and the text sorts by time.
macro_rules! now {
    () => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}

/// The one lane.
const LANE: i16 = 0;

/// What the tables of messages have in common, and what of it is not generated in `outbox`.
const COLUMNS: &str =
    "id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at";
const WRITTEN: &str =
    "id, message_id, topic, partition, key, payload, headers, event_type, created_at";

/// The columns of a [`Row`], but for its attempts. Plain SQL may have stored text where bytes are
/// meant.
const MESSAGE: &str = "id, message_id, topic, partition, CAST(key AS BLOB) AS key, \
    CAST(payload AS BLOB) AS payload, headers, event_type, \
    CAST((julianday(created_at) - 2440587.5) * 86400000 AS INTEGER) AS created_ms";

/// The first message of each parked key.
const FIRSTS: &str = "SELECT min(id) FROM outbox_parked GROUP BY ordering_key";

/// The outbox of a SQLite database, version 3.35 or later.
///
/// The file is put into WAL mode, so that the runner's reads never hold up the application's
/// writes. SQLite has one writer at a time: give the application's connections a `busy_timeout`, and
/// leave their `synchronous` at `FULL`, which is the default; with less, a power failure takes back
/// commits that the runner has published already. One runner at a time serves it; a second one takes over when the first is gone.
///
/// ```no_run
/// let store = outbox::store::SqliteStore::new("shop.sqlite");
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    path: String,
    connection: Arc<Mutex<Option<SqliteConnection>>>,
}

impl SqliteStore {
    /// A store on this file or `file:` URL, which is opened when it is needed.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            connection: Arc::default(),
        }
    }

    /// Runs `work`, which only reads, in a transaction that never holds up writers.
    async fn read_only<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    {
        self.run(|c| c.transaction(work)).await
    }

    /// Runs `work` in a transaction that takes the write lock at its start, so that it need not be
    /// repeated because of another writer.
    async fn transaction<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    {
        self.run(|c| c.immediate_transaction(work)).await
    }

    /// Runs `work` on a thread for blocking calls.
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    {
        let Self { path, connection } = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut slot = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = match &mut *slot {
                Some(connection) => connection,
                empty => empty.insert(open(&path)?),
            };
            let result = work(connection);
            if result.is_err() {
                // Whatever is wrong with it, a new connection is the way back.
                *slot = None;
            }
            result
        })
        .await
        .unwrap_or_else(|panic| Err(StoreError::unavailable(panic)))
    }
}

/// Without the URL, which may hold a key.
impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

fn open(path: &str) -> Result<SqliteConnection, StoreError> {
    if path == ":memory:" {
        return Err(StoreError::fatal(
            "`:memory:` is another database for each connection; the runner needs a file that the application \
             writes to",
        ));
    }
    // SQLite would make an empty one. A URL says itself whether it may; `sqlite://` is Diesel's name for `file:`.
    let is_url = path.starts_with("file:") || path.starts_with("sqlite://");
    if !is_url && !Path::new(path).exists() {
        return Err(StoreError::fatal(format!(
            "there is no file {path:?}; the application makes it, with its tables"
        )));
    }
    let mut connection = SqliteConnection::establish(path).map_err(|error| {
        // What follows in a URL may hold a key.
        let file = path.split('?').next().unwrap_or_default();
        StoreError::unavailable(format!("{file:?} can't be opened: {error}"))
    })?;
    // A settle that a power failure takes back only repeats messages: NORMAL is enough for it.
    connection.batch_execute(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
    )?;
    Ok(connection)
}

impl Store for SqliteStore {
    async fn check(&self) -> Result<(), StoreError> {
        #[derive(QueryableByName)]
        struct Tables {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        self.read_only(|c| {
            let tables: Tables = sql_query(
                "SELECT count(*) AS count FROM sqlite_master \
                 WHERE type = 'table' AND name IN ('outbox', 'outbox_lanes')",
            )
            .get_result(c)?;
            if tables.count == 2 {
                return Ok(());
            }
            Err(StoreError::fatal(
                "it has no table `outbox`; run the migrations: \
                 `run_pending_migrations(outbox::migrations::SQLITE)`",
            ))
        })
        .await
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        let id = runner.id.to_string();
        let name = runner.name.clone();
        let [ttl, longest] =
            [ttl, longest_lease(ttl)].map(|time| format!("+{:.3} seconds", time.as_secs_f64()));
        self.transaction(move |c| {
            sql_query(concat!(
                "DELETE FROM outbox_runners WHERE expires_at < ",
                now!(),
                " OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?)"
            ))
            .bind::<Text, _>(&longest)
            .execute(c)?;
            sql_query(
                "INSERT INTO outbox_runners (runner, name, expires_at) \
                 VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?)) \
                 ON CONFLICT (runner) DO UPDATE SET expires_at = excluded.expires_at",
            )
            .bind::<Text, _>(&id)
            .bind::<Text, _>(&name)
            .bind::<Text, _>(&ttl)
            .execute(c)?;
            sql_query(concat!(
                "UPDATE outbox_lanes SET \
                    epoch = epoch + (owner IS NOT ?1), \
                    owner = ?1, \
                    expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?2) \
                 WHERE owner IS NULL OR owner = ?1 OR expires_at <= ",
                now!(),
                " OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)"
            ))
            .bind::<Text, _>(&id)
            .bind::<Text, _>(&ttl)
            .bind::<Text, _>(&longest)
            .execute(c)?;
            let leases = held(c, &id)?;
            // There is one lane: who has it keeps it.
            Ok(Granted {
                share: leases.len(),
                leases,
            })
        })
        .await
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        let id = runner.id.to_string();
        let leases = leases.to_vec();
        self.transaction(move |c| {
            for lease in leases {
                sql_query(
                    "UPDATE outbox_lanes SET owner = NULL, expires_at = '0000-01-01T00:00:00.000Z' \
                     WHERE lane = ? AND owner = ? AND epoch = ?",
                )
                .bind::<Integer, _>(i32::from(lease.lane))
                .bind::<Text, _>(&id)
                .bind::<BigInt, _>(lease.epoch)
                .execute(c)?;
            }
            Ok(())
        })
        .await
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        let id = runner.id.to_string();
        self.transaction(move |c| {
            sql_query(
                "UPDATE outbox_lanes SET owner = NULL, expires_at = '0000-01-01T00:00:00.000Z' \
                 WHERE owner = ?",
            )
            .bind::<Text, _>(&id)
            .execute(c)?;
            sql_query("DELETE FROM outbox_runners WHERE runner = ?")
                .bind::<Text, _>(&id)
                .execute(c)?;
            Ok(())
        })
        .await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        let most = request.lanes.iter().map(|&(_, most)| most).sum::<usize>();
        let max_bytes = request.max_bytes;
        let exclude = ids(&request.exclude);
        let (except, only) = topics(&request.topics);
        self.read_only(move |c| {
            let rows = sql_query(format!(
                "SELECT {MESSAGE}, 0 AS attempts FROM ( \
                    SELECT *, sum(coalesce(length(payload), 0) + coalesce(length(key), 0)) \
                        OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
                    FROM outbox \
                    WHERE id NOT IN (SELECT value FROM json_each(?)) \
                        AND topic NOT IN (SELECT value FROM json_each(?)) \
                        AND (? IS NULL OR topic IN (SELECT value FROM json_each(?))) \
                    ORDER BY id LIMIT ? \
                 ) WHERE before IS NULL OR before < ? ORDER BY id"
            ))
            .bind::<Text, _>(exclude)
            .bind::<Text, _>(except)
            .bind::<Nullable<Text>, _>(only.clone())
            .bind::<Nullable<Text>, _>(only)
            .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
            .bind::<BigInt, _>(i64::try_from(max_bytes).unwrap_or(i64::MAX))
            .load::<Row>(c)?;
            Ok(rows.into_iter().map(Row::stored).collect())
        })
        .await
    }

    async fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let delivered = ids(delivered);
        self.fenced(runner, leases, move |c| {
            if archive {
                sql_query(format!(
                    "INSERT INTO outbox_archive ({COLUMNS}) SELECT {COLUMNS} FROM outbox \
                     WHERE id IN (SELECT value FROM json_each(?))"
                ))
                .bind::<Text, _>(&delivered)
                .execute(c)?;
            }
            sql_query("DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?))")
                .bind::<Text, _>(&delivered)
                .execute(c)?;
            Ok(())
        })
        .await
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        let messages = messages.to_vec();
        self.fenced(runner, leases, move |c| {
            for Parking { position, refusal } in messages {
                let error = refusal.as_ref().map(|refusal| refusal.error.as_str());
                let attempts = refusal.as_ref().map_or(0, |refusal| refusal.attempts);
                sql_query(format!(
                    "INSERT INTO outbox_parked ({COLUMNS}, error, attempts, next_attempt_at) \
                     SELECT {COLUMNS}, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?) \
                     FROM outbox WHERE id = ? ON CONFLICT DO NOTHING"
                ))
                .bind::<Nullable<Text>, _>(error)
                .bind::<Integer, _>(i32::try_from(attempts).unwrap_or(i32::MAX))
                .bind::<Nullable<Text>, _>(refusal.as_ref().and_then(retry_in))
                .bind::<BigInt, _>(position.id)
                .execute(c)?;
                sql_query("DELETE FROM outbox WHERE id = ?")
                    .bind::<BigInt, _>(position.id)
                    .execute(c)?;
            }
            Ok(())
        })
        .await
    }

    async fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        let error = error.to_owned();
        self.fenced(runner, leases, move |c| {
            sql_query(format!(
                "INSERT INTO outbox_dead_letters ({COLUMNS}, error) \
                 SELECT {COLUMNS}, ? FROM outbox WHERE id = ? ON CONFLICT DO NOTHING"
            ))
            .bind::<Text, _>(error)
            .bind::<BigInt, _>(position.id)
            .execute(c)?;
            sql_query("DELETE FROM outbox WHERE id = ?")
                .bind::<BigInt, _>(position.id)
                .execute(c)?;
            Ok(())
        })
        .await
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        if !lanes.contains(&LANE) {
            return Ok(Vec::new());
        }
        #[derive(QueryableByName)]
        struct Key {
            #[diesel(sql_type = Text)]
            topic: String,
            #[diesel(sql_type = Nullable<Integer>)]
            partition: Option<i32>,
            #[diesel(sql_type = Nullable<Binary>)]
            key: Option<Vec<u8>>,
        }
        self.read_only(|c| {
            let keys = sql_query(format!(
                "SELECT topic, partition, CAST(key AS BLOB) AS key FROM outbox_parked WHERE id IN ({FIRSTS})"
            ))
            .load::<Key>(c)?;
            let parked = |key: Key| ParkedKey {
                lane: LANE,
                topic: key.topic,
                partition: key.partition,
                key: key.key,
            };
            Ok(keys.into_iter().map(parked).collect())
        })
        .await
    }

    async fn due(
        &self,
        lanes: &[i16],
        filter: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueMessage>, StoreError> {
        if !lanes.contains(&LANE) {
            return Ok(Vec::new());
        }
        let (except, only) = topics(filter);
        self.read_only(move |c| {
            let rows = sql_query(format!(
                "SELECT {MESSAGE}, attempts FROM outbox_parked WHERE id IN ( \
                    SELECT id FROM ( \
                        SELECT id, sum(bytes) OVER ( \
                            ORDER BY next_attempt_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING \
                        ) AS before \
                        FROM ( \
                            SELECT id, next_attempt_at, \
                                coalesce(length(payload), 0) + coalesce(length(key), 0) AS bytes \
                            FROM outbox_parked \
                            WHERE id IN ({FIRSTS}) AND (attempts = 0 OR next_attempt_at <= {}) \
                                AND topic NOT IN (SELECT value FROM json_each(?)) \
                                AND (? IS NULL OR topic IN (SELECT value FROM json_each(?))) \
                            ORDER BY next_attempt_at, id LIMIT ? \
                        ) \
                    ) WHERE before IS NULL OR before < ? \
                 ) ORDER BY next_attempt_at, id",
                now!()
            ))
            .bind::<Text, _>(except)
            .bind::<Nullable<Text>, _>(only.clone())
            .bind::<Nullable<Text>, _>(only)
            .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
            .bind::<BigInt, _>(i64::try_from(max_bytes).unwrap_or(i64::MAX))
            .load::<Row>(c)?;
            let due = |row: Row| DueMessage {
                attempts: u32::try_from(row.attempts).unwrap_or(0),
                stored: row.stored(),
            };
            Ok(rows.into_iter().map(due).collect())
        })
        .await
    }

    async fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        let refusal = refusal.clone();
        self.fenced(runner, leases, move |c| {
            sql_query(
                "UPDATE outbox_parked SET error = ?, attempts = ?, \
                    next_attempt_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?) \
                 WHERE id = ?",
            )
            .bind::<Text, _>(&refusal.error)
            .bind::<Integer, _>(i32::try_from(refusal.attempts).unwrap_or(i32::MAX))
            .bind::<Nullable<Text>, _>(retry_in(&refusal))
            .bind::<BigInt, _>(position.id)
            .execute(c)?;
            Ok(())
        })
        .await
    }

    async fn unpark(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        most: usize,
    ) -> Result<Unparked, StoreError> {
        let id = runner.id.to_string();
        let leases = leases.to_vec();
        self.transaction(move |c| {
            let leases = held_of(c, &id, &leases)?;
            let more = !leases.is_empty() && unpark(c, position, archive, most)?;
            Ok(Unparked { leases, more })
        })
        .await
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        let retention = format!("-{:.3} seconds", retention.as_secs_f64());
        self.transaction(move |c| {
            let query = sql_query(
                "DELETE FROM outbox_archive WHERE (delivered_at, lane, id) IN ( \
                    SELECT delivered_at, lane, id FROM outbox_archive \
                    WHERE delivered_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?) \
                    ORDER BY delivered_at, lane, id LIMIT ?)",
            );
            let query = query.bind::<Text, _>(retention);
            let query = query.bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX));
            Ok(query.execute(c)?)
        })
        .await
    }
}

impl SqliteStore {
    /// Does `work` if the runner holds one of the leases, and returns that one.
    async fn fenced(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        work: impl FnOnce(&mut SqliteConnection) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Vec<Lease>, StoreError> {
        let id = runner.id.to_string();
        let leases = leases.to_vec();
        self.transaction(move |c| {
            let held = held_of(c, &id, &leases)?;
            if !held.is_empty() {
                work(c)?;
            }
            Ok(held)
        })
        .await
    }
}

/// When a refused message is tried again, as a modifier of SQLite's functions for time.
fn retry_in(refusal: &Refusal) -> Option<String> {
    let seconds = refusal.retry_in?.as_secs_f64();
    Some(format!("+{seconds:.3} seconds"))
}

/// Moves others of the key back, up to so many (one may be there already: somebody has put a copy back), and takes out the message itself when none is left. Whether there
/// may be more.
fn unpark(
    c: &mut SqliteConnection,
    position: Position,
    archive: bool,
    most: usize,
) -> Result<bool, StoreError> {
    const LAST: &str = "SELECT id FROM outbox_parked \
        WHERE id <> ?1 AND ordering_key = (SELECT ordering_key FROM outbox_parked WHERE id = ?1) \
        ORDER BY id DESC LIMIT ?2";
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let back = format!(
        "INSERT INTO outbox ({WRITTEN}) SELECT {WRITTEN} FROM outbox_parked WHERE id IN ({LAST}) \
         ON CONFLICT DO NOTHING"
    );
    sql_query(back)
        .bind::<BigInt, _>(position.id)
        .bind::<BigInt, _>(limit)
        .execute(c)?;
    let moved = sql_query(format!("DELETE FROM outbox_parked WHERE id IN ({LAST})"))
        .bind::<BigInt, _>(position.id)
        .bind::<BigInt, _>(limit)
        .execute(c)?;
    if moved >= most {
        return Ok(true);
    }
    if archive {
        sql_query(format!(
            "INSERT INTO outbox_archive ({COLUMNS}) SELECT {COLUMNS} FROM outbox_parked WHERE id = ?"
        ))
        .bind::<BigInt, _>(position.id)
        .execute(c)?;
    }
    sql_query("DELETE FROM outbox_parked WHERE id = ?")
        .bind::<BigInt, _>(position.id)
        .execute(c)?;
    Ok(false)
}

/// Those of these leases that this runner holds.
fn held_of(
    c: &mut SqliteConnection,
    runner: &str,
    leases: &[Lease],
) -> Result<Vec<Lease>, StoreError> {
    let mut held = held(c, runner)?;
    held.retain(|lease| leases.contains(lease));
    Ok(held)
}

/// The lease of this runner on the one lane, if it holds it and it has not ended.
fn held(c: &mut SqliteConnection, runner: &str) -> Result<Vec<Lease>, StoreError> {
    #[derive(QueryableByName)]
    struct Epoch {
        #[diesel(sql_type = BigInt)]
        epoch: i64,
    }
    let row = sql_query(concat!(
        "SELECT epoch FROM outbox_lanes WHERE lane = 0 AND owner = ? AND expires_at > ",
        now!()
    ))
    .bind::<Text, _>(runner)
    .get_result::<Epoch>(c)
    .optional()?;
    Ok(row
        .map(|row| Lease {
            lane: LANE,
            epoch: row.epoch,
        })
        .into_iter()
        .collect())
}

/// SQLite has no arrays; `json_each` takes its place.
fn ids(positions: &[Position]) -> String {
    let ids = positions.iter().map(|position| position.id.to_string());
    format!("[{}]", ids.collect::<Vec<_>>().join(","))
}

/// The topics to pass over, and those to which it is restricted, if it is.
fn topics(filter: &TopicFilter) -> (String, Option<String>) {
    let array = |topics: &Vec<String>| serde_json::Value::from(topics.clone()).to_string();
    (array(&filter.except), filter.only.as_ref().map(array))
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(embed)]
    message: MessageRow,
    #[diesel(sql_type = Nullable<BigInt>)]
    created_ms: Option<i64>,
    #[diesel(sql_type = Integer)]
    attempts: i32,
}

impl Row {
    fn stored(self) -> StoredMessage {
        let position = Position {
            lane: LANE,
            id: self.message.id,
        };
        // A time that plain SQL wrote in another form is of no consequence: it is for people.
        let created_ms = self.created_ms.and_then(|ms| u64::try_from(ms).ok());
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_millis(created_ms.unwrap_or(0));
        StoredMessage::new(position, created_at, self.message.columns())
    }
}
