//! The doorbell: writers notify only while a runner sleeps.
//!
//! All outboxes of a database share the channel, so that `NOTIFY outbox` by hand wakes all. Whose lane it
//! is that a writer rings for, tells the table of its doorbell.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};
use uuid::Uuid;

use super::connect::Connector;
use super::{StoreError, millis};

/// How often the listening connection is asked whether it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// For how long it may fail to answer, or to hear.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens on a connection of its own until that fails. `probe` notifies with this text on another
/// connection, and tells which doorbell is this outbox's: the listening connection may see another one.
pub(super) async fn listen(
    connector: &Connector,
    probe: impl AsyncFnOnce(&str) -> Result<u32, StoreError>,
    ring: impl Fn(Option<i16>),
) -> Result<(), StoreError> {
    let (client, mut messages) = in_time(connector.connect()).await?;
    let (heard, mut notifications) = tokio::sync::mpsc::unbounded_channel();
    // The stream of messages drives the connection, so it is polled beside whatever else goes on.
    let drive = async {
        while let Some(message) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message? {
                // Its receiver lives as long as this future.
                let _ = heard.send(notification.payload().to_owned());
            }
        }
        Err(StoreError::unavailable(
            "the listening connection was closed",
        ))
    };
    let answer = async {
        in_time(async { Ok(client.batch_execute("LISTEN outbox").await?) }).await?;
        // A pooler takes LISTEN, and never passes a notification on.
        let token = Uuid::new_v4().to_string();
        let ours = probe(&token).await?;
        in_time(async {
            while let Some(payload) = notifications.recv().await {
                if payload == token {
                    return Ok(());
                }
            }
            Err(StoreError::unavailable(
                "the listening connection was closed",
            ))
        })
        .await
        .map_err(|_| {
            StoreError::unavailable(
                "notifications don't get through, as behind a pooler: give the store a direct \
                 `listen_url`",
            )
        })?;
        // What was written before this may have found nobody listening.
        ring(None);
        loop {
            match tokio::time::timeout(HEARTBEAT, notifications.recv()).await {
                Ok(Some(payload)) => match Ring::parse(&payload) {
                    Ring::Lane { doorbell, lane } if doorbell == ours => ring(Some(lane)),
                    Ring::Lane { .. } | Ring::Probe => {}
                    Ring::Anybody => ring(None),
                },
                Ok(None) => return Ok(()),
                Err(_) => in_time(async { Ok(client.simple_query("").await?) })
                    .await
                    .map(drop)?,
            }
        }
    };
    tokio::select! {
        result = drive => result,
        result = answer => result,
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::unavailable(format!(
            "no answer in {PATIENCE:?}"
        ))),
    }
}

/// What a notification says.
#[derive(Debug, PartialEq, Eq)]
enum Ring {
    /// A writer wrote to this lane of the outbox whose doorbell is the table of this oid.
    Lane { doorbell: u32, lane: i16 },
    /// A runner finds out whether it hears.
    Probe,
    /// Whatever else it is may be for any.
    Anybody,
}

impl Ring {
    fn parse(payload: &str) -> Self {
        if Uuid::parse_str(payload).is_ok() {
            return Self::Probe;
        }
        let parse = |(doorbell, lane): (&str, &str)| {
            Some(Self::Lane {
                doorbell: doorbell.parse().ok()?,
                lane: lane.parse().ok()?,
            })
        };
        let lane = payload.split_once('/').and_then(parse);
        lane.unwrap_or(Self::Anybody)
    }
}

/// Notifies with this text, and tells which doorbell is this outbox's.
pub(super) async fn probe(client: &Client, token: &str) -> Result<u32, StoreError> {
    let row = client
        .query_typed_one(
            "SELECT 'outbox_doorbell'::regclass::oid, pg_notify('outbox', $1)",
            &[(&token, Type::TEXT)],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// It is only a hint, so nobody waits for the disk.
pub(super) async fn expect_ring(
    client: &Client,
    lanes: &[i16],
    within: Duration,
) -> Result<(), StoreError> {
    client
        .query_typed(
            "UPDATE outbox_doorbell \
             SET asleep_until = clock_timestamp() + $2 * interval '1 millisecond' \
             WHERE lane = ANY ($1) AND set_config('synchronous_commit', 'off', true) IS NOT NULL",
            &[(&lanes, Type::INT2_ARRAY), (&millis(within), Type::INT8)],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_for_somebody_or_for_all() {
        let lane = Ring::Lane {
            doorbell: 16_411,
            lane: 7,
        };
        assert_eq!(Ring::parse("16411/7"), lane);
        assert_eq!(Ring::parse(&Uuid::new_v4().to_string()), Ring::Probe);
        for text in ["", "7", "wake up", "16411/", "/7", "16411/7/1", "-1/7"] {
            assert_eq!(Ring::parse(text), Ring::Anybody, "{text}");
        }
    }
}
