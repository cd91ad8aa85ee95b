//! How an outbox is.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::parked::{ParkedFilter, ParkedMessage, firsts};
use super::{Operator, json};
use crate::store::{COUNTED, Paused, StoreError, paused};

/// How many parked keys a status tells of.
const PARKED_KEYS: u32 = 20;

/// How an outbox is, all at one moment.
///
/// ```
/// use outbox::operator::Status;
///
/// fn alarm(status: &Status) -> Option<String> {
///     let waited = status.oldest?.as_secs();
///     match (status.is_deserted(), waited) {
///         (true, _) => Some(format!("{} messages wait, and there is no runner", status.waiting)),
///         (false, 300..) => Some(format!("a message has waited for {waited} s")),
///         (false, _) => None,
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// How many messages wait to be delivered.
    pub waiting: Count,
    /// How long the oldest of them has waited.
    #[serde(rename = "oldest_seconds", serialize_with = "json::seconds")]
    pub oldest: Option<Duration>,
    /// How many messages are parked.
    pub parked: Count,
    /// The runners that are alive.
    pub runners: Vec<RunnerStatus>,
    /// The lanes.
    pub lanes: Vec<LaneStatus>,
    /// What is paused.
    pub paused: Paused,
    /// The first messages of the keys that have been parked for longest: 20 at most.
    pub parked_keys: Vec<ParkedMessage>,
}

impl Status {
    /// Whether messages wait, parked or not, and nobody is there to deliver them.
    pub fn is_deserted(&self) -> bool {
        self.runners.is_empty() && (self.waiting.at_least > 0 || self.parked.at_least > 0)
    }
}

/// A number that is not counted to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Count {
    /// How many there are at least.
    pub at_least: u64,
    /// Whether there are more.
    pub more: bool,
}

impl Count {
    /// What was counted up to one more than `most`.
    pub(super) fn new(counted: i64, most: u64) -> Self {
        let counted = u64::try_from(counted).unwrap_or(0);
        Self {
            at_least: counted.min(most),
            more: counted > most,
        }
    }
}

/// As `17`, or `10000+`.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.more { "+" } else { "" };
        write!(f, "{}{more}", self.at_least)
    }
}

/// A runner that is alive.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunnerStatus {
    /// Its id, new at every start.
    #[serde(serialize_with = "json::id")]
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// How long ago it was started.
    #[serde(rename = "up_seconds", serialize_with = "json::seconds")]
    pub up: Option<Duration>,
    /// How many lanes it holds.
    pub lanes: i64,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Its number.
    pub lane: i16,
    /// The id of the runner that holds it, or held it last without handing it back.
    #[serde(serialize_with = "json::maybe_id")]
    pub owner: Option<Uuid>,
    /// The runner's name.
    pub owner_name: Option<String>,
    /// In what time its lease ends, unless it is renewed. `None`: the lane is free.
    #[serde(rename = "lease_seconds", serialize_with = "json::seconds")]
    pub lease: Option<Duration>,
    /// How long its oldest message has waited.
    #[serde(rename = "oldest_seconds", serialize_with = "json::seconds")]
    pub oldest: Option<Duration>,
}

impl Operator {
    /// How the outbox is.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn status(&self) -> Result<Status, StoreError> {
        self.read(async |client| {
            let (waiting, parked) = counts(client).await?;
            let lanes = lanes(client).await?;
            let filter = ParkedFilter {
                most: PARKED_KEYS,
                ..ParkedFilter::default()
            };
            Ok(Status {
                waiting,
                oldest: lanes.iter().filter_map(|lane| lane.oldest).max(),
                parked,
                runners: runners(client).await?,
                lanes,
                paused: paused(client).await?,
                parked_keys: match parked.at_least {
                    0 => Vec::new(),
                    _ => firsts(client, &filter).await?,
                },
            })
        })
        .await
    }
}

async fn counts(client: &Client) -> Result<(Count, Count), Error> {
    let most = i64::from(COUNTED) + 1;
    let row = client
        .query_typed_one(
            "SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS w), \
                (SELECT count(*) FROM (SELECT FROM outbox_parked LIMIT $1) AS p)",
            &[(&most, Type::INT8)],
        )
        .await?;
    Ok((
        Count::new(row.try_get(0)?, COUNTED.into()),
        Count::new(row.try_get(1)?, COUNTED.into()),
    ))
}

async fn lanes(client: &Client) -> Result<Vec<LaneStatus>, Error> {
    let rows = client
        .query_typed(
            "SELECT l.lane, l.owner, r.name, \
                CASE WHEN l.owner IS NOT NULL AND l.expires_at > clock_timestamp() \
                    THEN extract(epoch FROM l.expires_at - clock_timestamp())::float8 END, \
                extract(epoch FROM clock_timestamp() - o.created_at)::float8 \
             FROM outbox_lanes AS l \
             LEFT JOIN outbox_runners AS r ON r.runner = l.owner \
             LEFT JOIN LATERAL ( \
                SELECT m.created_at FROM outbox AS m WHERE m.lane = l.lane ORDER BY m.id LIMIT 1 \
             ) AS o ON true \
             ORDER BY l.lane",
            &[],
        )
        .await?;
    let lane = |row: &tokio_postgres::Row| {
        Ok(LaneStatus {
            lane: row.try_get(0)?,
            owner: row.try_get(1)?,
            owner_name: row.try_get(2)?,
            lease: row.try_get::<_, Option<f64>>(3)?.map(duration),
            oldest: row.try_get::<_, Option<f64>>(4)?.map(duration),
        })
    };
    rows.iter().map(lane).collect()
}

async fn runners(client: &Client) -> Result<Vec<RunnerStatus>, Error> {
    let rows = client
        .query_typed(
            "SELECT r.runner, r.name, \
                extract(epoch FROM clock_timestamp() - r.started_at)::float8, \
                (SELECT count(*) FROM outbox_lanes AS l \
                 WHERE l.owner = r.runner AND l.expires_at > clock_timestamp()) \
             FROM outbox_runners AS r \
             WHERE r.expires_at > clock_timestamp() \
             ORDER BY r.name",
            &[],
        )
        .await?;
    let runner = |row: &tokio_postgres::Row| {
        Ok(RunnerStatus {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            up: row.try_get::<_, Option<f64>>(2)?.map(duration),
            lanes: row.try_get(3)?,
        })
    };
    rows.iter().map(runner).collect()
}

/// Clocks can be set back: what lies in the future counts as now.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_end_somewhere() {
        let shown = |counted| Count::new(counted, 10).to_string();
        assert_eq!(shown(0), "0");
        assert_eq!(shown(10), "10");
        assert_eq!(shown(11), "10+");
    }

    #[test]
    fn what_lies_in_the_future_counts_as_now() {
        assert_eq!(duration(1.5), Duration::from_millis(1_500));
        assert_eq!(duration(-3.0), Duration::ZERO);
        assert_eq!(duration(f64::INFINITY), Duration::ZERO);
    }
}
