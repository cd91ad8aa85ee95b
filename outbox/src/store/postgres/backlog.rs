//! How much waits, for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::read::{BEGIN, planned};
use super::{Backlog, StoreError};
use crate::operator::{COUNTED, duration};

/// How far parked keys are counted.
const COUNTED_KEYS: i64 = 1_000;

/// No further lane is looked at after this.
const ENOUGH: Duration = Duration::from_secs(4);

/// Where a lane is looked at.
const BEGIN_IN_TIME: &str = "; SET LOCAL statement_timeout = '8s'";

/// Counts what waits. It needs no more than the rights of a runner.
///
/// # Errors
///
/// Also when it takes long, since dead rows are walked. Each look is told by `starts` where the last one has come, so
/// the next one gets further.
pub(super) async fn backlog(
    client: &Client,
    starts: &Mutex<Starts>,
) -> Result<Backlog, StoreError> {
    let begin = Instant::now();
    let in_time = format!("{BEGIN}{BEGIN_IN_TIME}");
    let rows = planned(
        client,
        &in_time,
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
        &[(&COUNTED_KEYS, Type::INT8)],
    )
    .await?;
    let row = rows
        .first()
        .ok_or_else(|| StoreError::unavailable("what waits has no row"))?;
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
            return Err(StoreError::unavailable("it takes too long"));
        }
        // One at least, of which the age is told.
        let most = COUNTED.saturating_sub(backlog.waiting).max(1);
        let rows = planned(
            client,
            &in_time,
            "SELECT count(*), min(w.id), extract(epoch FROM clock_timestamp() - min(w.created_at))::float8 \
             FROM (SELECT id, created_at FROM outbox WHERE lane = $1 AND id >= $2 ORDER BY id LIMIT $3) AS w",
            &[
                (&lane, Type::INT2),
                (&start, Type::INT8),
                (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
            ],
        )
        .await?;
        for row in &rows {
            backlog.waiting = COUNTED.min(backlog.waiting + count(row.try_get(0)?));
            let oldest = row.try_get::<_, Option<f64>>(2)?.map(duration);
            backlog.oldest = backlog.oldest.max(oldest);
            lock(starts).learn(lane, row.try_get(1)?, look.settled_before);
        }
    }
    Ok(backlog)
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
    /// And from where.
    lanes: Vec<(i16, i64)>,
    /// Most transactions that drew ids up to this one have ended.
    settled_before: i64,
}

impl Starts {
    fn look(&mut self, lanes: &[i16], last_id: i64) -> Look {
        let next = |&lane: &i16| self.anew.is_none_or(|last| lane > last);
        self.anew = lanes.iter().copied().find(next).or(lanes.first().copied());
        let start = |&lane: &i16| match self.anew == Some(lane) {
            true => (lane, 0),
            false => (lane, self.lanes.get(&lane).copied().unwrap_or(0)),
        };
        Look {
            lanes: lanes.iter().map(start).collect(),
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
            for (&(lane, _), first) in look.lanes.iter().zip(firsts) {
                starts.learn(lane, first, look.settled_before);
            }
            look.lanes
                .iter()
                .map(|&(_, start)| start)
                .collect::<Vec<_>>()
        };
        assert_eq!(look(100, [None, Some(7), None]), [0, 0, 0]);
        assert_eq!(
            look(200, [None, Some(7), Some(150)]),
            [0, 0, 0],
            "ids of the last look may be late"
        );
        assert_eq!(look(300, [None, Some(7), Some(150)]), [100, 7, 0]);
        assert_eq!(look(400, [None, None, Some(150)]), [0, 7, 150]);
        assert_eq!(look(500, [None, None, None]), [300, 0, 150]);
    }
}
