//! Reading messages: the oldest ones, and the parked ones that are due.
//!
//! The oldest ones are found in two steps. The first looks which they are and how large, in all lanes by one
//! statement, and so in one snapshot; it is this one that decides. Of what it brings, the runner's own are
//! passed over here. The second fetches those that are taken.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use outbox_mysql_driver::mysql_async::{Conn, Value};
use serde_json::json;

use super::super::ALL_TOPICS;
use super::super::columns::{Columns, message_id};
use super::super::room::Room;
use super::{
    DueMessage, ParkedKey, Paused, Position, ReadRequest, StoreError, StoredMessage, TopicFilter,
    sql,
};

/// The columns of a message in a table `o`.
const MESSAGE: &str = "o.lane, o.id, timestampdiff(MICROSECOND, '1970-01-01', o.created_at), o.message_id, \
    o.topic, o.`partition`, o.`key`, o.payload, o.headers, o.event_type";

pub(super) async fn read(
    conn: &mut Conn,
    request: &ReadRequest,
) -> Result<Vec<StoredMessage>, StoreError> {
    let chosen = choose(conn, request).await?;
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let statement = format!(
        "SELECT {MESSAGE} FROM JSON_TABLE(?, '$[*]' COLUMNS (id bigint PATH '$')) AS d \
         STRAIGHT_JOIN outbox AS o ON o.id = d.id"
    );
    let rows = sql::query(conn, statement, vec![json!(chosen).to_string().into()]).await?;
    let mut read = rows
        .into_iter()
        .map(stored)
        .collect::<Result<Vec<_>, _>>()?;
    read.sort_unstable_by_key(|stored| stored.position);
    Ok(read)
}

/// The ids of the messages to read.
async fn choose(conn: &mut Conn, request: &ReadRequest) -> Result<Vec<i64>, StoreError> {
    let mut excluded: HashMap<i16, HashSet<i64>> = HashMap::new();
    for position in &request.exclude {
        excluded
            .entry(position.lane)
            .or_default()
            .insert(position.id);
    }
    let asked = request.lanes.iter().filter(|&&(_, most)| most > 0);
    let (mut lanes, mut parameters) = (Vec::new(), Vec::new());
    for &(lane, most) in asked {
        let passed_over = excluded.get(&lane).map_or(0, HashSet::len);
        lanes.push(oldest(&request.topics));
        parameters.push(Value::from(lane));
        parameters.extend(topics(&request.topics));
        parameters.push(sql::count(most.saturating_add(passed_over)).into());
    }
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sql::query(conn, lanes.join(" UNION ALL "), parameters).await?;

    let mut rooms: HashMap<i16, (usize, Room)> = request
        .lanes
        .iter()
        .map(|&(lane, most)| (lane, (most, Room::new(request.max_bytes))))
        .collect();
    let mut chosen = Vec::new();
    for mut row in rows {
        let (lane, id, bytes): (i16, i64, i64) = (row.next()?, row.next()?, row.next()?);
        if excluded.get(&lane).is_some_and(|ids| ids.contains(&id)) {
            continue;
        }
        if let Some((most, room)) = rooms.get_mut(&lane)
            && *most > 0
            && room.take(usize::try_from(bytes).unwrap_or(0))
        {
            *most -= 1;
            chosen.push(id);
        }
    }
    Ok(chosen)
}

/// The oldest messages of a lane: one range of the index, which ends at the limit; nothing is sorted.
fn oldest(filter: &TopicFilter) -> String {
    format!(
        "(SELECT lane, id, coalesce(octet_length(payload), 0) + coalesce(octet_length(`key`), 0) \
          FROM outbox FORCE INDEX (outbox_by_lane) WHERE lane = ?{} ORDER BY id LIMIT ?)",
        admitted(filter)
    )
}

/// The condition for the column `topic`, whose parameters are [`topics`].
fn admitted(filter: &TopicFilter) -> &'static str {
    match (filter.except.is_empty(), &filter.only) {
        (true, None) => "",
        (false, None) => " AND NOT json_contains(?, json_quote(topic))",
        (true, Some(_)) => " AND json_contains(?, json_quote(topic))",
        (false, Some(_)) => {
            " AND NOT json_contains(?, json_quote(topic)) AND json_contains(?, json_quote(topic))"
        }
    }
}

fn topics(filter: &TopicFilter) -> Vec<Value> {
    let array = |topics: &Vec<String>| Value::from(json!(topics).to_string());
    let except = (!filter.except.is_empty()).then(|| array(&filter.except));
    except
        .into_iter()
        .chain(filter.only.as_ref().map(array))
        .collect()
}

/// The first message of each parked key, found by skipping from key to key in the index: the cost is by
/// keys, however much is parked of each.
fn firsts(lanes: &[i16]) -> String {
    format!(
        "(SELECT min(id) AS id FROM outbox_parked FORCE INDEX (outbox_parked_by_key) \
          WHERE lane IN ({}) GROUP BY lane, ordering_key) AS f \
         STRAIGHT_JOIN outbox_parked AS o ON o.id = f.id",
        sql::placeholders(lanes.len())
    )
}

fn values(lanes: &[i16]) -> Vec<Value> {
    lanes.iter().map(|&lane| lane.into()).collect()
}

pub(super) async fn parked_keys(
    conn: &mut Conn,
    lanes: &[i16],
) -> Result<Vec<ParkedKey>, StoreError> {
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let statement = format!(
        "SELECT o.lane, o.topic, o.`partition`, o.`key` FROM {}",
        firsts(lanes)
    );
    let mut keys = Vec::new();
    for mut row in sql::query(conn, statement, values(lanes)).await? {
        keys.push(ParkedKey {
            lane: row.next()?,
            topic: row.next()?,
            partition: row.next()?,
            key: row.next()?,
        });
    }
    Ok(keys)
}

pub(super) async fn due(
    conn: &mut Conn,
    lanes: &[i16],
    filter: &TopicFilter,
    most: usize,
    max_bytes: usize,
) -> Result<Vec<DueMessage>, StoreError> {
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    // One that was never tried is the first of its key because what was before it was taken away.
    let statement = format!(
        "SELECT o.attempts, {MESSAGE} FROM ( \
            SELECT id, sum(bytes) OVER ( \
                ORDER BY next_attempt_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING \
            ) AS earlier \
            FROM ( \
                SELECT o.id, o.next_attempt_at, \
                    coalesce(octet_length(o.payload), 0) + coalesce(octet_length(o.`key`), 0) AS bytes \
                FROM {} WHERE (o.next_attempt_at <= utc_timestamp(6) OR o.attempts = 0){} \
                ORDER BY o.next_attempt_at, o.id LIMIT ? \
            ) AS l \
         ) AS d \
         STRAIGHT_JOIN outbox_parked AS o ON o.id = d.id \
         WHERE d.earlier IS NULL OR d.earlier < ? \
         ORDER BY o.next_attempt_at, o.id",
        firsts(lanes),
        admitted(filter)
    );
    let limits = [most, max_bytes].map(|limit| sql::count(limit).into());
    let parameters = [values(lanes), topics(filter), limits.to_vec()];
    let mut due = Vec::new();
    for mut row in sql::query(conn, statement, parameters.concat()).await? {
        let attempts: i32 = row.next()?;
        due.push(DueMessage {
            stored: stored(row)?,
            attempts: u32::try_from(attempts).unwrap_or(0),
        });
    }
    Ok(due)
}

/// What operators have paused, sorted.
pub(super) async fn paused(conn: &mut Conn) -> Result<Paused, StoreError> {
    let statement = "SELECT topic FROM outbox_paused ORDER BY topic";
    let mut paused = Paused::default();
    for mut row in sql::query(conn, statement, Vec::new()).await? {
        let topic: String = row.next()?;
        match topic == ALL_TOPICS {
            true => paused.all = true,
            false => paused.topics.push(topic),
        }
    }
    Ok(paused)
}

pub(super) async fn clock(conn: &mut Conn) -> Result<SystemTime, StoreError> {
    let statement = "SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6))";
    let mut rows = sql::query(conn, statement, Vec::new()).await?;
    let row = rows.first_mut();
    let row = row.ok_or_else(|| StoreError::unavailable("no answer"))?;
    Ok(time(row.next()?))
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn stored(mut row: sql::Columns) -> Result<StoredMessage, StoreError> {
    let position = Position {
        lane: row.next()?,
        id: row.next()?,
    };
    // A session that is not strict can write a date that is none.
    let created_at = time(row.next::<Option<i64>>()?.unwrap_or(0));
    let columns = Columns {
        id: message_id(&row.next::<String>()?),
        topic: row.next()?,
        partition: row.next()?,
        key: row.next()?,
        payload: row.next()?,
        headers: row.next()?,
        event_type: row.next()?,
    };
    Ok(StoredMessage::new(position, created_at, columns))
}
