//! What changes messages, all behind the same fence.
//!
//! A message that moves from one table to another is locked while it is copied, so that a call that is
//! repeated while the first one still goes on does not copy it twice.

use std::time::Duration;

use outbox_mysql_driver::mysql_async::{Conn, Value};
use serde_json::json;

use super::{LaneBatch, Lease, Parking, Position, Refusal, RunnerId, StoreError, sql};

/// What the tables of messages have in common, and what of it is not generated in `outbox`.
const COLUMNS: &str =
    "id, lane, message_id, topic, `partition`, `key`, payload, headers, event_type, created_at";
const WRITTEN: &str =
    "id, message_id, topic, `partition`, `key`, payload, headers, event_type, created_at";

/// The same of a table `o`.
const MOVED: &str = "o.id, o.lane, o.message_id, o.topic, o.`partition`, o.`key`, o.payload, o.headers, \
    o.event_type, o.created_at";

/// Positions as a table `d`, and the messages there as `o`.
const AT_POSITIONS: &str = "JSON_TABLE(?, '$[*]' COLUMNS (lane smallint PATH '$[0]', id bigint PATH '$[1]')) AS d \
    STRAIGHT_JOIN outbox AS o ON o.id = d.id AND o.lane = d.lane";

/// How a lane's row is locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// So that it keeps its owner.
    Shared,
    /// So that nobody else looks at it either.
    Exclusive,
}

/// What becomes of messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    Settle {
        delivered: &'a [Position],
        archive: bool,
    },
    Park {
        messages: &'a [Parking],
    },
    Bury {
        position: Position,
        error: &'a str,
    },
    RefuseAgain {
        position: Position,
        refusal: &'a Refusal,
    },
    Unpark {
        position: Position,
        archive: bool,
        most: usize,
    },
}

impl Change<'_> {
    /// Makes it, of messages in lanes that are held. Whether a part of it is still to be made.
    pub(super) async fn make(self, conn: &mut Conn, held: &[Lease]) -> Result<bool, StoreError> {
        let holds = |position: Position| held.iter().any(|lease| lease.lane == position.lane);
        match self {
            Self::Settle { delivered, archive } => {
                let ours = delivered.iter().copied().filter(|p| holds(*p));
                settle(conn, ours, archive).await?;
            }
            Self::Park { messages } => {
                let ours = messages.iter().filter(|m| holds(m.position));
                park(conn, ours).await?;
            }
            Self::Bury { position, error } if holds(position) => {
                bury(conn, position, error).await?;
            }
            Self::RefuseAgain { position, refusal } if holds(position) => {
                refuse_again(conn, position, refusal).await?;
            }
            Self::Unpark {
                position,
                archive,
                most,
            } if holds(position) => return unpark(conn, position, archive, most).await,
            Self::Bury { .. } | Self::RefuseAgain { .. } | Self::Unpark { .. } => {}
        }
        Ok(false)
    }
}

/// Those of the leases that the runner holds and that have not ended. Their lanes keep their owners until
/// the end of the transaction.
pub(super) async fn hold(
    conn: &mut Conn,
    runner: &RunnerId,
    leases: &[Lease],
    lock: Lock,
) -> Result<Vec<Lease>, StoreError> {
    let lock = match lock {
        Lock::Shared => "LOCK IN SHARE MODE",
        Lock::Exclusive => "FOR UPDATE",
    };
    let mut held = Vec::new();
    for mut row in of_leases(conn, runner, leases, "epoch", lock).await? {
        let lease = Lease {
            lane: row.next()?,
            epoch: row.next()?,
        };
        if leases.contains(&lease) {
            held.push(lease);
        }
    }
    Ok(held)
}

/// The rows of lanes whose lease, in any epoch, the runner holds: the lane, and these columns.
async fn of_leases(
    conn: &mut Conn,
    runner: &RunnerId,
    leases: &[Lease],
    columns: &str,
    lock: &str,
) -> Result<Vec<sql::Columns>, StoreError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let statement = format!(
        "SELECT lane, {columns} FROM outbox_lanes FORCE INDEX (PRIMARY) \
         WHERE lane IN ({}) AND owner = ? AND expires_at > utc_timestamp(6) ORDER BY lane {lock}",
        sql::placeholders(leases.len())
    );
    let mut parameters: Vec<Value> = leases.iter().map(|lease| lease.lane.into()).collect();
    parameters.push(runner.id.to_string().into());
    sql::query(conn, statement, parameters).await
}

async fn settle(
    conn: &mut Conn,
    delivered: impl Iterator<Item = Position>,
    archive: bool,
) -> Result<(), StoreError> {
    let positions: Vec<_> = delivered.map(|p| json!([p.lane, p.id])).collect();
    let positions = json!(positions).to_string();
    if archive {
        let statement = format!(
            "INSERT INTO outbox_archive ({COLUMNS}) SELECT {MOVED} FROM {AT_POSITIONS} FOR UPDATE"
        );
        sql::execute(conn, statement, vec![(&positions).into()]).await?;
    }
    delete(conn, positions).await
}

async fn delete(conn: &mut Conn, positions: String) -> Result<(), StoreError> {
    let statement = format!("DELETE o FROM {AT_POSITIONS}");
    sql::execute(conn, statement, vec![positions.into()]).await?;
    Ok(())
}

async fn park(conn: &mut Conn, messages: impl Iterator<Item = &Parking>) -> Result<(), StoreError> {
    let rows: Vec<_> = messages
        .map(|Parking { position, refusal }| {
            let error = refusal.as_ref().map(|refusal| &refusal.error);
            let attempts = refusal.as_ref().map_or(0, attempts);
            let retry = refusal.as_ref().and_then(retry_micros);
            json!([position.lane, position.id, error, attempts, retry])
        })
        .collect();
    let rows = json!(rows).to_string();
    // It may be there still: somebody has put a copy back.
    let statement = format!(
        "INSERT INTO outbox_parked ({COLUMNS}, error, attempts, next_attempt_at) \
         SELECT {MOVED}, d.error, d.attempts, utc_timestamp(6) + INTERVAL d.retry MICROSECOND \
         FROM JSON_TABLE(?, '$[*]' COLUMNS ( \
                lane smallint PATH '$[0]', id bigint PATH '$[1]', error longtext PATH '$[2]', \
                attempts int PATH '$[3]', retry bigint PATH '$[4]' \
            )) AS d \
         STRAIGHT_JOIN outbox AS o ON o.id = d.id AND o.lane = d.lane FOR UPDATE \
         ON DUPLICATE KEY UPDATE attempts = outbox_parked.attempts"
    );
    sql::execute(conn, statement, vec![(&rows).into()]).await?;
    delete(conn, rows).await
}

async fn bury(conn: &mut Conn, position: Position, error: &str) -> Result<(), StoreError> {
    // It may be there already: somebody has put a copy back.
    let statement = format!(
        "INSERT INTO outbox_dead_letters ({COLUMNS}, error) \
         SELECT {MOVED}, ? FROM outbox AS o WHERE o.id = ? AND o.lane = ? FOR UPDATE \
         ON DUPLICATE KEY UPDATE error = outbox_dead_letters.error"
    );
    let parameters = vec![error.into(), position.id.into(), position.lane.into()];
    sql::execute(conn, statement, parameters).await?;
    sql::execute(
        conn,
        "DELETE FROM outbox WHERE id = ? AND lane = ?",
        vec![position.id.into(), position.lane.into()],
    )
    .await?;
    Ok(())
}

async fn refuse_again(
    conn: &mut Conn,
    position: Position,
    refusal: &Refusal,
) -> Result<(), StoreError> {
    sql::execute(
        conn,
        "UPDATE outbox_parked SET error = ?, attempts = ?, \
            next_attempt_at = utc_timestamp(6) + INTERVAL ? MICROSECOND \
         WHERE id = ? AND lane = ?",
        vec![
            (&refusal.error).into(),
            attempts(refusal).into(),
            retry_micros(refusal).into(),
            position.id.into(),
            position.lane.into(),
        ],
    )
    .await?;
    Ok(())
}

/// Moves others of the key of a parked message that was delivered back to their places: just those that are seen
/// at the beginning, since another may be queued up meanwhile. Takes out the message itself when none is left.
async fn unpark(
    conn: &mut Conn,
    position: Position,
    archive: bool,
    most: usize,
) -> Result<bool, StoreError> {
    let mut delivered = sql::query(
        conn,
        "SELECT ordering_key FROM outbox_parked WHERE id = ? AND lane = ? FOR UPDATE",
        vec![position.id.into(), position.lane.into()],
    )
    .await?;
    let Some(delivered) = delivered.first_mut() else {
        return Ok(false);
    };
    let key: Vec<u8> = delivered.next()?;
    let mut ids = Vec::new();
    for mut row in sql::query(
        conn,
        "SELECT id FROM outbox_parked FORCE INDEX (outbox_parked_by_key) \
         WHERE lane = ? AND ordering_key = ? AND id <> ? ORDER BY id DESC LIMIT ? FOR UPDATE",
        vec![
            position.lane.into(),
            key.into(),
            position.id.into(),
            sql::count(most).into(),
        ],
    )
    .await?
    {
        ids.push(row.next::<i64>()?);
    }
    let more = ids.len() >= most;
    let behind = json!(ids).to_string();
    const AT_IDS: &str = "JSON_TABLE(?, '$[*]' COLUMNS (parked bigint PATH '$')) AS d \
        STRAIGHT_JOIN outbox_parked AS o ON o.id = d.parked";
    // One may be there already: somebody has put a copy back.
    let statement = format!(
        "INSERT INTO outbox ({WRITTEN}) SELECT {WRITTEN} FROM {AT_IDS} \
         WHERE NOT EXISTS (SELECT 1 FROM outbox AS there WHERE there.id = d.parked)"
    );
    sql::execute(conn, statement, vec![(&behind).into()]).await?;
    sql::execute(conn, format!("DELETE o FROM {AT_IDS}"), vec![behind.into()]).await?;
    if more {
        return Ok(true);
    }
    if archive {
        let statement = format!(
            "INSERT INTO outbox_archive ({COLUMNS}) SELECT {COLUMNS} FROM outbox_parked WHERE id = ?"
        );
        sql::execute(conn, statement, vec![position.id.into()]).await?;
    }
    sql::execute(
        conn,
        "DELETE FROM outbox_parked WHERE id = ? AND lane = ?",
        vec![position.id.into(), position.lane.into()],
    )
    .await?;
    Ok(false)
}

/// The oldest ones, in their order.
pub(super) async fn clean_archive(
    conn: &mut Conn,
    retention: Duration,
    most: usize,
) -> Result<usize, StoreError> {
    let removed = sql::execute(
        conn,
        "DELETE FROM outbox_archive WHERE delivered_at < utc_timestamp(6) - INTERVAL ? MICROSECOND \
         ORDER BY delivered_at, lane, id LIMIT ?",
        vec![sql::micros(retention).into(), sql::count(most).into()],
    )
    .await?;
    Ok(usize::try_from(removed).unwrap_or(usize::MAX))
}

/// A statement that comes late does not take the place of a later batch.
pub(super) async fn note_batches(
    conn: &mut Conn,
    held: Vec<Lease>,
    batches: &[LaneBatch],
) -> Result<Vec<Lease>, StoreError> {
    let mut noted = Vec::new();
    for lease in held {
        let Some(batch) = batches.iter().find(|batch| batch.lane == lease.lane) else {
            continue;
        };
        let changed = sql::execute(
            conn,
            "UPDATE outbox_lanes SET batch = ?, manifest = ?, manifest_parked = ? \
             WHERE lane = ? AND batch < ?",
            vec![
                batch.number.into(),
                json!(batch.ids).to_string().into(),
                batch.parked.into(),
                batch.lane.into(),
                batch.number.into(),
            ],
        )
        .await?;
        if changed > 0 {
            noted.push(lease);
        }
    }
    Ok(noted)
}

pub(super) async fn noted_batches(
    conn: &mut Conn,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<Vec<LaneBatch>, StoreError> {
    let columns = "epoch, batch, manifest, manifest_parked";
    let mut noted = Vec::new();
    for mut row in of_leases(conn, runner, leases, columns, "").await? {
        let (lane, epoch): (i16, i64) = (row.next()?, row.next()?);
        if !leases.contains(&Lease { lane, epoch }) {
            continue;
        }
        let (number, manifest): (i64, String) = (row.next()?, row.next()?);
        noted.push(LaneBatch {
            lane,
            number,
            ids: serde_json::from_str(&manifest).map_err(|error| {
                StoreError::fatal(format!(
                    "the manifest of lane {lane} can't be read: {error}"
                ))
            })?,
            parked: row.next()?,
        });
    }
    Ok(noted)
}

fn attempts(refusal: &Refusal) -> i32 {
    i32::try_from(refusal.attempts).unwrap_or(i32::MAX)
}

fn retry_micros(refusal: &Refusal) -> Option<i64> {
    refusal.retry_in.map(sql::micros)
}
