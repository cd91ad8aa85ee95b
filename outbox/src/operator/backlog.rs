//! How much waits, for the runner's metrics.

use tokio_postgres::types::Type;

use super::Operator;
use super::status::{COUNTED, duration};
use crate::store::{Backlog, StoreError};

/// How far parked keys are counted.
const COUNTED_KEYS: i64 = 1_000;

impl Operator {
    /// What a runner measures. It needs no more than the rights of one.
    pub(crate) async fn backlog(&self) -> Result<Backlog, StoreError> {
        let most = i64::try_from(COUNTED).unwrap_or(i64::MAX);
        self.read(async |client| {
            let row = client
                .query_typed_one(
                    // The recursion, which jumps from key to key, ends with the limit.
                    "WITH RECURSIVE keys AS ( \
                        (SELECT lane, ordering_key FROM outbox_parked \
                         ORDER BY lane, ordering_key LIMIT 1) \
                        UNION ALL \
                        SELECT n.lane, n.ordering_key FROM keys AS k CROSS JOIN LATERAL ( \
                            SELECT p.lane, p.ordering_key FROM outbox_parked AS p \
                            WHERE (p.lane, p.ordering_key) > (k.lane, k.ordering_key) \
                            ORDER BY p.lane, p.ordering_key LIMIT 1 \
                        ) AS n \
                     ) \
                     SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS w), \
                        (SELECT extract(epoch FROM clock_timestamp() - min(o.created_at))::float8 \
                         FROM outbox_lanes AS l CROSS JOIN LATERAL ( \
                            SELECT m.created_at FROM outbox AS m WHERE m.lane = l.lane \
                            ORDER BY m.id LIMIT 1 \
                         ) AS o), \
                        (SELECT count(*) FROM (SELECT FROM keys LIMIT $2) AS k), \
                        (SELECT count(*) FROM outbox_runners WHERE expires_at > clock_timestamp())",
                    &[(&most, Type::INT8), (&COUNTED_KEYS, Type::INT8)],
                )
                .await?;
            let count = |index| Ok(u64::try_from(row.try_get::<_, i64>(index)?).unwrap_or(0));
            Ok(Backlog {
                waiting: count(0)?,
                oldest: row.try_get::<_, Option<f64>>(1)?.map(duration),
                parked_keys: count(2)?,
                runners: count(3)?,
            })
        })
        .await
    }
}
