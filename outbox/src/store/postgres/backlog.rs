//! How much waits, for metrics.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::super::{COUNTED, COUNTED_KEYS};
use super::read::{BEGIN, planned};
use super::{Backlog, StoreError};
use crate::operator::duration;

/// No further lane is looked at after this.
const ENOUGH: Duration = Duration::from_secs(4);

/// And a look at one takes no longer than this.
const IN_TIME: &str = "; SET LOCAL statement_timeout = '8s'";

/// Counts what waits. It needs no more than the rights of a runner. `None` if that takes long, since dead rows are
/// walked: the next look goes on from where this one has found something.
pub(super) async fn backlog(
    client: &Client,
    starts: &Mutex<Starts>,
) -> Result<Option<Backlog>, StoreError> {
    let begin = Instant::now();
    let rows = planned(
        client,
        BEGIN,
        // The recursion, which jumps from key to key, ends with the limit.
        "WITH RECURSIVE keys AS ( \
            (SELECT lane, ordering_key FROM outbox_parked ORDER BY lane, ordering_key LIMIT 1) \
            UNION ALL \
            SELECT n.lane, n.ordering_key FROM keys AS k CROSS JOIN LATERAL ( \
                SELECT p.lane, p.ordering_key FROM outbox_parked AS p \
                WHERE (p.lane, p.ordering_key) > (k.lane, k.ordering_key) \
                ORDER BY p.lane, p.ordering_key LIMIT 1 \
            ) AS n \
         ) \
         SELECT (SELECT count(*) FROM (SELECT FROM keys LIMIT $1) AS k), \
            (SELECT count(*) FROM outbox_runners WHERE expires_at > clock_timestamp()), \
            (SELECT last_value FROM outbox_id_seq), \
            ARRAY(SELECT lane FROM outbox_lanes ORDER BY lane)",
        &[(&i64::from(COUNTED_KEYS), Type::INT8)],
    )
    .await?;
    let row = rows.first().ok_or_else(no_row)?;
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    let mut backlog = Backlog {
        parked_keys: count(row.try_get(0)?),
        runners: count(row.try_get(1)?),
        ..Backlog::default()
    };
    let lanes: Vec<i16> = row.try_get(3)?;
    let look = lock(starts).look(&lanes, row.try_get(2)?);
    for (lane, start) in look.lanes {
        if begin.elapsed() > ENOUGH {
            return Ok(None);
        }
        // One at least, of which the age is told.
        let most = u64::from(COUNTED).saturating_sub(backlog.waiting).max(1);
        let Some(waiting) = waiting(client, lane, start..i64::MAX, most).await? else {
            return Ok(None);
        };
        lock(starts).learn(lane, waiting.first, look.settled_before);
        waiting.add_to(&mut backlog);
    }
    // What this finds is seldom anything, so it may as well wait.
    if let Some((lane, start)) = look.anew
        && begin.elapsed() < ENOUGH
        && let Some(waiting) = waiting(client, lane, 0..start, COUNTED.into()).await?
        && waiting.first.is_some()
    {
        lock(starts).learn(lane, waiting.first, look.settled_before);
        waiting.add_to(&mut backlog);
    }
    Ok(Some(backlog))
}

/// What waits in a lane.
struct Waiting {
    count: i64,
    first: Option<i64>,
    oldest: Option<f64>,
}

impl Waiting {
    fn add_to(&self, backlog: &mut Backlog) {
        let count = u64::try_from(self.count).unwrap_or(0);
        backlog.waiting = u64::from(COUNTED).min(backlog.waiting + count);
        backlog.oldest = backlog.oldest.max(self.oldest.map(duration));
    }
}

/// `None` if it takes too long.
async fn waiting(
    client: &Client,
    lane: i16,
    ids: Range<i64>,
    most: u64,
) -> Result<Option<Waiting>, StoreError> {
    let rows = planned(
        client,
        &format!("{BEGIN}{IN_TIME}"),
        "SELECT count(*), min(w.id), extract(epoch FROM clock_timestamp() - min(w.created_at))::float8 \
         FROM ( \
            SELECT id, created_at FROM outbox \
            WHERE lane = $1 AND id >= $2 AND id < $3 ORDER BY id LIMIT $4 \
         ) AS w",
        &[
            (&lane, Type::INT2),
            (&ids.start, Type::INT8),
            (&ids.end, Type::INT8),
            (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
        ],
    )
    .await;
    let rows = match rows {
        // The connection is in good order: what follows ends the transaction.
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(None),
        rows => rows?,
    };
    let row = rows.first().ok_or_else(no_row)?;
    Ok(Some(Waiting {
        count: row.try_get(0)?,
        first: row.try_get(1)?,
        oldest: row.try_get(2)?,
    }))
}

fn no_row() -> StoreError {
    StoreError::unavailable("a count has no row")
}

fn lock(starts: &Mutex<Starts>) -> MutexGuard<'_, Starts> {
    starts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From which id each lane is looked at: where its oldest message was the last time, so that the dead rows before it
/// are not walked each time. What commits late, or comes back, below that is missed until it is the lane's turn to be
/// looked at from its beginning.
#[derive(Debug, Default)]
pub(super) struct Starts {
    lanes: BTreeMap<i16, i64>,
    /// The last id that was drawn when it was last looked.
    last_id: i64,
    /// The lane that was last looked at from its beginning.
    anew: Option<i16>,
}

/// One look at all lanes.
struct Look {
    /// And from where. They take turns to be the first.
    lanes: Vec<(i16, i64)>,
    /// Which one is also looked at from its beginning, and until where.
    anew: Option<(i16, i64)>,
    /// Most transactions that drew ids up to this one have ended.
    settled_before: i64,
}

impl Starts {
    fn look(&mut self, lanes: &[i16], last_id: i64) -> Look {
        let start = |&lane: &i16| (lane, self.lanes.get(&lane).copied().unwrap_or(0));
        let (before, after): (Vec<_>, Vec<_>) = lanes
            .iter()
            .map(start)
            .partition(|&(lane, _)| self.anew.is_some_and(|last| lane <= last));
        let lanes = [after, before].concat();
        let anew = lanes.first().copied();
        self.anew = anew.map(|(lane, _)| lane);
        Look {
            lanes,
            anew,
            settled_before: std::mem::replace(&mut self.last_id, last_id),
        }
    }

    /// The first message that waits in a lane was this one.
    fn learn(&mut self, lane: i16, first: Option<i64>, settled_before: i64) {
        let start = first.unwrap_or(i64::MAX).min(settled_before);
        self.lanes.insert(lane, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_looked_at_from_their_oldest_message_and_in_turns_from_the_beginning() {
        let mut starts = Starts::default();
        let mut look = |last_id, firsts: [Option<i64>; 3]| {
            let look = starts.look(&[0, 1, 2], last_id);
            for &(lane, _) in &look.lanes {
                starts.learn(
                    lane,
                    firsts[usize::from(lane.unsigned_abs())],
                    look.settled_before,
                );
            }
            (look.lanes, look.anew)
        };
        let waiting = [None, Some(7), Some(150)];
        let (lanes, anew) = look(100, waiting);
        assert_eq!(lanes, [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(anew, Some((0, 0)));
        // Ids of the last look may be late.
        let (lanes, _) = look(200, waiting);
        assert_eq!(lanes, [(1, 0), (2, 0), (0, 0)]);
        let (lanes, anew) = look(300, waiting);
        assert_eq!(lanes, [(2, 100), (0, 100), (1, 7)]);
        assert_eq!(anew, Some((2, 100)));
        let (lanes, anew) = look(400, [None; 3]);
        assert_eq!(lanes, [(0, 200), (1, 7), (2, 150)]);
        assert_eq!(anew, Some((0, 200)));
    }
}
