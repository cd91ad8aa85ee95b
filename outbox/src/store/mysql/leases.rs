//! Heartbeats, and taking, renewing and handing back lanes.
//!
//! Lanes are locked in their order everywhere, so that runners can't deadlock.

use std::time::Duration;

use outbox_mysql_driver::mysql_async::{Conn, Value};
use serde_json::json;

use super::super::longest_lease;
use super::{Granted, Lease, RunnerId, StoreError, sql};

/// How many lanes there are.
const LANES: usize = 16;

/// Whether anybody may take a lane. Its parameter is [`longest`].
const IS_FREE: &str = "owner IS NULL OR expires_at <= utc_timestamp(6) \
    OR expires_at > utc_timestamp(6) + INTERVAL ? MICROSECOND";

/// Whether a runner can be forgotten. Its parameter is [`longest`].
const IS_GONE: &str = "expires_at < utc_timestamp(6) - INTERVAL 1 HOUR \
    OR expires_at > utc_timestamp(6) + INTERVAL ? MICROSECOND";

/// What ends later than this was written while the clock was ahead.
fn longest(ttl: Duration) -> Value {
    sql::micros(longest_lease(ttl)).into()
}

/// Tells that the runner is alive, renews its lanes, and takes free ones up to its share. A free lane that
/// another runner is taking at this moment, or that one whose lease has ended is settling in, is left alone.
pub(super) async fn lease(
    conn: &mut Conn,
    runner: &RunnerId,
    ttl: Duration,
) -> Result<Granted, StoreError> {
    let id = runner.id.to_string();
    let (ttl, longest) = (Value::from(sql::micros(ttl)), longest(ttl));
    sql::execute(
        conn,
        "INSERT INTO outbox_runners (runner, name, expires_at) \
         VALUES (?, ?, utc_timestamp(6) + INTERVAL ? MICROSECOND) \
         ON DUPLICATE KEY UPDATE expires_at = utc_timestamp(6) + INTERVAL ? MICROSECOND",
        vec![
            (&id).into(),
            (&runner.name).into(),
            ttl.clone(),
            ttl.clone(),
        ],
    )
    .await?;
    let share = share(conn, &id, &longest).await?;

    let (mut held, mut free) = (Vec::new(), Vec::new());
    for mut row in sql::query(
        conn,
        format!("SELECT lane, coalesce(owner = ?, 0), {IS_FREE} FROM outbox_lanes ORDER BY lane"),
        vec![(&id).into(), longest.clone()],
    )
    .await?
    {
        let (lane, is_held, is_free): (i16, bool, bool) = (row.next()?, row.next()?, row.next()?);
        if is_held {
            held.push(Value::from(lane));
        } else if is_free {
            free.push(Value::from(lane));
        }
    }
    if !held.is_empty() {
        let statement = format!(
            "UPDATE outbox_lanes SET expires_at = utc_timestamp(6) + INTERVAL ? MICROSECOND \
             WHERE lane IN ({}) AND owner = ?",
            sql::placeholders(held.len())
        );
        let parameters = [vec![ttl.clone()], held.clone(), vec![(&id).into()]].concat();
        sql::execute(conn, statement, parameters).await?;
    }
    let room = share.saturating_sub(held.len());
    if room > 0 && !free.is_empty() {
        take(conn, &id, ttl, longest, free, room).await?;
    }

    let mut granted = Granted {
        share,
        leases: Vec::new(),
    };
    for mut row in sql::query(
        conn,
        "SELECT lane, epoch FROM outbox_lanes WHERE owner = ? ORDER BY lane",
        vec![id.into()],
    )
    .await?
    {
        granted.leases.push(Lease {
            lane: row.next()?,
            epoch: row.next()?,
        });
    }
    Ok(granted)
}

/// The runner's share of the lanes: 6, 5 and 5 for three, in the order of their ids, so that shares add up
/// to all lanes. Forgets runners that have been gone for long.
async fn share(conn: &mut Conn, id: &str, longest: &Value) -> Result<usize, StoreError> {
    let (mut alive, mut rank) = (0, 0);
    let mut gone = Vec::new();
    for mut row in sql::query(
        conn,
        format!("SELECT runner, expires_at > utc_timestamp(6), {IS_GONE} FROM outbox_runners"),
        vec![longest.clone()],
    )
    .await?
    {
        let (runner, is_alive, is_gone): (String, bool, bool) =
            (row.next()?, row.next()?, row.next()?);
        if is_gone {
            gone.push(Value::from(runner));
        } else {
            alive += usize::from(is_alive);
            rank += usize::from(is_alive && *runner < *id);
        }
    }
    if !gone.is_empty() {
        let statement = format!(
            "DELETE FROM outbox_runners WHERE runner IN ({}) AND ({IS_GONE})",
            sql::placeholders(gone.len())
        );
        gone.push(longest.clone());
        sql::execute(conn, statement, gone).await?;
    }
    let alive = alive.max(1);
    Ok(LANES / alive + usize::from(rank < LANES % alive))
}

/// Takes up to so many of these lanes.
async fn take(
    conn: &mut Conn,
    id: &str,
    ttl: Value,
    longest: Value,
    free: Vec<Value>,
    room: usize,
) -> Result<(), StoreError> {
    let statement = format!(
        "SELECT lane FROM outbox_lanes FORCE INDEX (PRIMARY) \
         WHERE lane IN ({}) AND ({IS_FREE}) \
         ORDER BY lane LIMIT ? FOR UPDATE SKIP LOCKED",
        sql::placeholders(free.len())
    );
    let parameters = [free, vec![longest, sql::count(room).into()]].concat();
    let mut taken = Vec::new();
    for mut row in sql::query(conn, statement, parameters).await? {
        taken.push(Value::from(row.next::<i16>()?));
    }
    if !taken.is_empty() {
        let statement = format!(
            "UPDATE outbox_lanes \
             SET owner = ?, epoch = epoch + 1, expires_at = utc_timestamp(6) + INTERVAL ? MICROSECOND \
             WHERE lane IN ({})",
            sql::placeholders(taken.len())
        );
        let parameters = [vec![id.into(), ttl], taken].concat();
        sql::execute(conn, statement, parameters).await?;
    }
    Ok(())
}

/// Hands lanes back.
pub(super) async fn release(
    conn: &mut Conn,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    let mut leases = leases.to_vec();
    leases.sort_unstable();
    let lease = |lease: &Lease| json!([lease.lane, lease.epoch]);
    let leases = json!(leases.iter().map(lease).collect::<Vec<_>>()).to_string();
    sql::execute(
        conn,
        "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (lane smallint PATH '$[0]', epoch bigint PATH '$[1]')) AS d \
         STRAIGHT_JOIN outbox_lanes AS l ON l.lane = d.lane AND l.epoch = d.epoch \
         SET l.owner = NULL, l.expires_at = '1970-01-01' \
         WHERE l.owner = ?",
        vec![leases.into(), runner.id.to_string().into()],
    )
    .await?;
    Ok(())
}

/// Takes a runner's leave: hands back all of its lanes, also one that it was granted without noticing.
pub(super) async fn leave(conn: &mut Conn, runner: &RunnerId) -> Result<(), StoreError> {
    let id = runner.id.to_string();
    sql::execute(
        conn,
        "UPDATE outbox_lanes SET owner = NULL, expires_at = '1970-01-01' WHERE owner = ?",
        vec![(&id).into()],
    )
    .await?;
    sql::execute(
        conn,
        "DELETE FROM outbox_runners WHERE runner = ?",
        vec![id.into()],
    )
    .await?;
    Ok(())
}
