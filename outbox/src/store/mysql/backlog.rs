//! How much waits, for the runner's metrics.

use std::time::Duration;

use outbox_mysql_driver::mysql_async::Conn;

use super::super::{COUNTED, COUNTED_KEYS};
use super::{Backlog, StoreError, sql};

pub(super) async fn backlog(conn: &mut Conn) -> Result<Backlog, StoreError> {
    let mut rows = sql::query(
        conn,
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT ?) AS w), \
            (SELECT timestampdiff(MICROSECOND, o.created_at, utc_timestamp(6)) \
             FROM outbox AS o ORDER BY o.id LIMIT 1), \
            (SELECT count(*) FROM ( \
                SELECT 1 FROM outbox_parked FORCE INDEX (outbox_parked_by_key) \
                GROUP BY lane, ordering_key LIMIT ? \
             ) AS k), \
            (SELECT count(*) FROM outbox_runners WHERE expires_at > utc_timestamp(6))",
        vec![COUNTED.into(), COUNTED_KEYS.into()],
    )
    .await?;
    let row = rows.first_mut();
    let row = row.ok_or_else(|| StoreError::unavailable("no answer"))?;
    let micros = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    Ok(Backlog {
        waiting: row.next()?,
        oldest: row.next::<Option<i64>>()?.map(micros),
        parked_keys: row.next()?,
        runners: row.next()?,
    })
}
