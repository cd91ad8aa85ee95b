//! Parked messages, and what may be done to them.
//!
//! Only a runner moves parked messages back: what it knows of the table depends on it. So an operator
//! changes nothing but the first message of a key, by making it due or by taking it away; the next one
//! then is the first, was never tried, and is due at once.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use super::status::{Count, duration};
use super::{LANES, Operator, json};
use crate::store::{Position, StoreError};

/// How far the messages behind a parked one are counted.
const COUNTED: u64 = 1_000;

/// A parked message. Its payload is only there if it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParkedMessage {
    /// Its lane and place there.
    #[serde(flatten, serialize_with = "position")]
    pub position: Position,
    /// The message id, which consumers see as `outbox-id`.
    #[serde(serialize_with = "json::id")]
    pub message_id: Uuid,
    /// The topic.
    pub topic: String,
    /// The partition, if it has one.
    pub partition: Option<i32>,
    /// The key, if it has one.
    #[serde(serialize_with = "json::bytes")]
    pub key: Option<Vec<u8>>,
    /// The headers, as they stand in the table: JSON.
    #[serde(serialize_with = "json::raw")]
    pub headers: Option<String>,
    /// The event type, if it has one.
    pub event_type: Option<String>,
    /// When it was written.
    #[serde(serialize_with = "json::time")]
    pub created_at: SystemTime,
    /// When it was parked.
    #[serde(serialize_with = "json::time")]
    pub parked_at: SystemTime,
    /// How long ago that was, by the database's clock.
    #[serde(rename = "parked_seconds", serialize_with = "json::seconds")]
    pub parked: Option<Duration>,
    /// How often it was tried. 0: it waits behind an earlier message of its key, or is due.
    pub attempts: u32,
    /// Why it was refused.
    pub error: Option<String>,
    /// In what time it is tried again. `None`: it waits for an operator, or behind another message.
    #[serde(rename = "retry_seconds", serialize_with = "json::seconds")]
    pub retry: Option<Duration>,
    /// How many messages of its key are parked behind it.
    pub behind: Count,
    /// The size of the payload. `None` is a tombstone.
    pub payload_bytes: Option<i64>,
    /// The payload, if it was asked for.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "json::bytes"
    )]
    pub payload: Option<Vec<u8>>,
}

fn position<S: serde::Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("id", &position.id)?;
    map.serialize_entry("lane", &position.lane)?;
    map.end()
}

/// Which parked keys are told of.
///
/// ```
/// use outbox::operator::ParkedFilter;
///
/// let filter = ParkedFilter {
///     topic: Some("orders".into()),
///     ..ParkedFilter::default()
/// };
/// assert_eq!(filter.most, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedFilter {
    /// Of this topic only.
    pub topic: Option<String>,
    /// So many at most.
    pub most: u32,
}

impl Default for ParkedFilter {
    /// Of all topics, 100 at most.
    fn default() -> Self {
        Self {
            topic: None,
            most: 100,
        }
    }
}

/// Who does something, and why: it is kept in the table `outbox_audit`.
///
/// ```
/// use outbox::operator::Note;
///
/// let note = Note::by("alice").because("the customer was deleted");
/// # let _ = note;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub(super) operator: String,
    pub(super) reason: Option<String>,
}

impl Note {
    /// It is done by this person.
    pub fn by(operator: impl Into<String>) -> Self {
        Self {
            operator: operator.into(),
            reason: None,
        }
    }

    /// It is done for this reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

/// What became of something that an operator wanted to do to a parked message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// It was done.
    Yes,
    /// Nothing was done: there is no such message, or it is not parked any more.
    NotParked,
    /// Nothing was done: the message waits behind this one, which is the first of its key.
    Behind(Position),
    /// Nothing was done: a runner may be trying it at this moment. If it is refused once more, it can be given
    /// up then; while the broker is away, pause its topic, and give it up a minute later.
    OnItsWay,
}

/// The columns of a parked message, of a table `p`. `$1`: whether the payload is one of them.
const COLUMNS: &str = "p.lane, p.id, p.message_id, p.topic, p.partition, p.key, p.headers::text, \
    p.event_type, p.created_at, p.parked_at, \
    extract(epoch FROM clock_timestamp() - p.parked_at)::float8, p.attempts, p.error, \
    extract(epoch FROM p.next_attempt_at - clock_timestamp())::float8, \
    octet_length(p.payload)::bigint, CASE WHEN $1 THEN p.payload END, \
    (SELECT count(*) FROM (SELECT FROM outbox_parked AS q WHERE q.lane = p.lane \
        AND q.ordering_key = p.ordering_key AND q.id > p.id LIMIT $2) AS behind)";

/// Whether a parked message `p` is the first of its key.
const IS_FIRST: &str = "NOT EXISTS (SELECT FROM outbox_parked AS q WHERE q.lane = p.lane \
    AND q.ordering_key = p.ordering_key AND q.id < p.id)";

/// Whether a parked message `p` may be on its way at this moment: it is due, or will be before this has
/// committed, and its lane has a runner. What was paused a minute ago is not.
const MAY_BE_ON_ITS_WAY: &str = "((coalesce(p.next_attempt_at <= clock_timestamp() + interval '5 seconds', false) OR p.attempts = 0) \
    AND EXISTS (SELECT FROM outbox_lanes AS l WHERE l.lane = p.lane AND l.owner IS NOT NULL \
        AND l.expires_at > clock_timestamp()) \
    AND NOT EXISTS (SELECT FROM outbox_paused AS s WHERE s.topic IN (p.topic, '*') \
        AND s.paused_at < clock_timestamp() - interval '1 minute'))";

impl Operator {
    /// The first messages of parked keys, those first that have been parked for longest.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn parked(&self, filter: &ParkedFilter) -> Result<Vec<ParkedMessage>, StoreError> {
        self.read(async |client| firsts(client, filter).await).await
    }

    /// A parked message, whether it is the first of its key or not; its payload only on demand.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn parked_message(
        &self,
        id: i64,
        payload: bool,
    ) -> Result<Option<ParkedMessage>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM outbox_parked AS p WHERE p.lane = ANY ($3) AND p.id = $4"
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&payload, Type::BOOL),
            (&limit(COUNTED), Type::INT8),
            (&LANES.as_slice(), Type::INT2_ARRAY),
            (&id, Type::INT8),
        ];
        self.read(async |client| {
            let rows = client.query_typed(&query, &parameters).await?;
            rows.first().map(parked_message).transpose()
        })
        .await
    }

    /// All parked messages after this one, up to so many, in the order of lanes and places: to read
    /// all of them, page by page. Payloads only on demand.
    ///
    /// ```no_run
    /// # async fn example(operator: outbox::operator::Operator) -> Result<(), outbox::store::StoreError> {
    /// let mut last = None;
    /// loop {
    ///     let page = operator.parked_after(last, 500, false).await?;
    ///     let Some(message) = page.last() else { break };
    ///     last = Some(message.position);
    ///     println!("{} more", page.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn parked_after(
        &self,
        after: Option<Position>,
        most: u32,
        payload: bool,
    ) -> Result<Vec<ParkedMessage>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM outbox_parked AS p WHERE (p.lane, p.id) > ($3, $4) \
             ORDER BY p.lane, p.id LIMIT $5"
        );
        let Position { lane, id } = after.unwrap_or(Position { lane: -1, id: 0 });
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&payload, Type::BOOL),
            (&limit(COUNTED), Type::INT8),
            (&lane, Type::INT2),
            (&id, Type::INT8),
            (&i64::from(most), Type::INT8),
        ];
        self.read(async |client| {
            let rows = client.query_typed(&query, &parameters).await?;
            rows.iter().map(parked_message).collect()
        })
        .await
    }

    /// Lets a runner try a parked message again now, also one that waits for an operator. Only the
    /// first message of a key can be tried.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn retry(&self, id: i64, note: &Note) -> Result<Done, StoreError> {
        let query = format!(
            "WITH changed AS ( \
                UPDATE outbox_parked AS p SET next_attempt_at = clock_timestamp() \
                WHERE p.lane = ANY ($1) AND p.id = $2 AND {IS_FIRST} RETURNING p.* \
             ), {} SELECT count(*) FROM changed",
            audit("retry", 3)
        );
        self.change(id, &query, note).await
    }

    /// As [`retry`](Self::retry), with the first messages of all parked keys, or of those of one topic.
    /// Returns how many there are.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn retry_all(&self, topic: Option<&str>, note: &Note) -> Result<u64, StoreError> {
        let query = format!(
            "WITH changed AS ( \
                UPDATE outbox_parked AS p SET next_attempt_at = clock_timestamp() \
                FROM outbox_parked_firsts($1) AS f \
                WHERE p.lane = f.lane AND p.id = f.id AND ($2 IS NULL OR p.topic = $2) \
                RETURNING p.* \
             ), {} SELECT count(*) FROM changed",
            audit("retry", 3)
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&LANES.as_slice(), Type::INT2_ARRAY),
            (&topic, Type::TEXT),
            (&note.operator, Type::TEXT),
            (&note.reason, Type::TEXT),
        ];
        let changed = self
            .act(async |client| {
                let row = client.query_typed_one(&query, &parameters).await?;
                row.try_get::<_, i64>(0)
            })
            .await?;
        Ok(u64::try_from(changed).unwrap_or(0))
    }

    /// Gives up a parked message: moves it to the table `outbox_dead_letters`, and lets the next one of
    /// its key be tried. Only the first message of a key can be given up, and not while a runner may be trying
    /// it: if it arrived after all, those behind it would be passed.
    ///
    /// ```no_run
    /// use outbox::operator::{Done, Note};
    ///
    /// # async fn example(operator: outbox::operator::Operator) -> Result<(), outbox::store::StoreError> {
    /// let note = Note::by("alice").because("its order was deleted");
    /// match operator.skip(17, &note).await? {
    ///     Done::Yes => println!("it is among the dead letters"),
    ///     Done::Behind(first) => println!("see to {} first", first.id),
    ///     _ => println!("it is not parked any more"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn skip(&self, id: i64, note: &Note) -> Result<Done, StoreError> {
        let query = format!(
            "WITH changed AS ( \
                DELETE FROM outbox_parked AS p \
                WHERE p.lane = ANY ($1) AND p.id = $2 AND {IS_FIRST} \
                    AND NOT {MAY_BE_ON_ITS_WAY} RETURNING p.* \
             ), dead AS ( \
                INSERT INTO outbox_dead_letters (id, lane, message_id, topic, partition, key, payload, \
                    headers, event_type, created_at, error) \
                SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, \
                    created_at, coalesce(error, 'given up before it was tried') \
                FROM changed \
                ON CONFLICT DO NOTHING \
             ), {} SELECT count(*) FROM changed",
            audit("skip", 3)
        );
        self.change(id, &query, note).await
    }

    /// Changes the first message of a key, or says why not.
    async fn change(&self, id: i64, query: &str, note: &Note) -> Result<Done, StoreError> {
        let lanes = LANES.as_slice();
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&lanes, Type::INT2_ARRAY),
            (&id, Type::INT8),
            (&note.operator, Type::TEXT),
            (&note.reason, Type::TEXT),
        ];
        self.act(async |client| {
            let row = client.query_typed_one(query, &parameters).await?;
            if row.try_get::<_, i64>(0)? > 0 {
                return Ok(Done::Yes);
            }
            let first = client
                .query_typed(
                    "SELECT q.lane, q.id FROM outbox_parked AS p \
                     JOIN outbox_parked AS q \
                        ON q.lane = p.lane AND q.ordering_key = p.ordering_key AND q.id <= p.id \
                     WHERE p.lane = ANY ($1) AND p.id = $2 \
                     ORDER BY q.id LIMIT 1",
                    &[(&lanes, Type::INT2_ARRAY), (&id, Type::INT8)],
                )
                .await?;
            match first.first() {
                None => Ok(Done::NotParked),
                Some(row) if row.try_get::<_, i64>(1)? == id => Ok(Done::OnItsWay),
                Some(row) => Ok(Done::Behind(Position {
                    lane: row.try_get(0)?,
                    id: row.try_get(1)?,
                })),
            }
        })
        .await
    }
}

/// Takes note of what was `changed`. The parameters from this one on: who does it, and why.
fn audit(action: &str, parameter: usize) -> String {
    format!(
        "audited AS ( \
            INSERT INTO outbox_audit (action, operator, reason, lane, id, message_id, topic) \
            SELECT '{action}', ${parameter}, ${}, c.lane, c.id, c.message_id, c.topic \
            FROM changed AS c)",
        parameter + 1
    )
}

pub(super) async fn firsts(
    client: &Client,
    filter: &ParkedFilter,
) -> Result<Vec<ParkedMessage>, Error> {
    let query = format!(
        "SELECT {COLUMNS} FROM outbox_parked_firsts($3) AS f \
         CROSS JOIN LATERAL ( \
            SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
         ) AS p \
         WHERE $4 IS NULL OR p.topic = $4 \
         ORDER BY p.parked_at, p.id LIMIT $5"
    );
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&false, Type::BOOL),
        (&limit(COUNTED), Type::INT8),
        (&LANES.as_slice(), Type::INT2_ARRAY),
        (&filter.topic, Type::TEXT),
        (&i64::from(filter.most), Type::INT8),
    ];
    let rows = client.query_typed(&query, &parameters).await?;
    rows.iter().map(parked_message).collect()
}

/// One more than is counted, to know whether there are more.
fn limit(counted: u64) -> i64 {
    i64::try_from(counted + 1).unwrap_or(i64::MAX)
}

fn parked_message(row: &Row) -> Result<ParkedMessage, Error> {
    let attempts: i32 = row.try_get(11)?;
    Ok(ParkedMessage {
        position: Position {
            lane: row.try_get(0)?,
            id: row.try_get(1)?,
        },
        message_id: row.try_get(2)?,
        topic: row.try_get(3)?,
        partition: row.try_get(4)?,
        key: row.try_get(5)?,
        headers: row.try_get(6)?,
        event_type: row.try_get(7)?,
        created_at: row.try_get(8)?,
        parked_at: row.try_get(9)?,
        parked: row.try_get::<_, Option<f64>>(10)?.map(duration),
        attempts: u32::try_from(attempts).unwrap_or(0),
        error: row.try_get(12)?,
        retry: row.try_get::<_, Option<f64>>(13)?.map(duration),
        payload_bytes: row.try_get(14)?,
        payload: row.try_get(15)?,
        behind: Count::new(row.try_get(16)?, COUNTED),
    })
}
