//! Heartbeats, and taking, renewing and handing back lanes.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Granted, Lease, RunnerId, StoreError, arrays, millis};

pub(super) async fn lease(
    client: &Client,
    runner: &RunnerId,
    ttl: Duration,
) -> Result<Granted, StoreError> {
    let rows = client
        .query_typed(
            "SELECT share, lane, epoch FROM outbox_lease($1, $2, $3)",
            &[
                (&runner.id, Type::UUID),
                (&runner.name, Type::TEXT),
                (&millis(ttl), Type::INT8),
            ],
        )
        .await?;
    let mut granted = Granted::default();
    for row in rows {
        let share: i64 = row.try_get(0)?;
        granted.share = usize::try_from(share).unwrap_or(0);
        // Without any lane there is one row with the share alone.
        if let (Some(lane), Some(epoch)) = (row.try_get(1)?, row.try_get(2)?) {
            granted.leases.push(Lease { lane, epoch });
        }
    }
    granted.leases.sort_unstable();
    Ok(granted)
}

pub(super) async fn release(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    let (lanes, epochs) = arrays(leases);
    client
        .query_typed(
            "SELECT outbox_release($1, $2, $3)",
            &[
                (&lanes, Type::INT2_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&runner.id, Type::UUID),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn leave(client: &Client, runner: &RunnerId) -> Result<(), StoreError> {
    client
        .query_typed("SELECT outbox_leave($1)", &[(&runner.id, Type::UUID)])
        .await?;
    Ok(())
}
