//! Whether a server can serve a runner.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::StoreError;

const TABLES: [&str; 8] = [
    "outbox",
    "outbox_archive",
    "outbox_dead_letters",
    "outbox_doorbell",
    "outbox_lanes",
    "outbox_parked",
    "outbox_paused",
    "outbox_runners",
];

/// All that runners call, as the migrations make it: a version of the library that calls another function needs
/// newer tables.
const FUNCTIONS: [&str; 13] = [
    "outbox_archive_delivered(smallint[], bigint[], uuid, smallint[], bigint[])",
    "outbox_bury(smallint[], bigint[], uuid, smallint, bigint, text)",
    "outbox_horizon()",
    "outbox_lease(uuid, text, bigint)",
    "outbox_leave(uuid)",
    "outbox_note_batches(smallint[], bigint[], uuid, smallint[], bigint[], boolean[], smallint[], bigint[])",
    "outbox_park(smallint[], bigint[], uuid, smallint[], bigint[], text[], integer[], bigint[])",
    "outbox_parked_firsts(smallint[])",
    "outbox_read(smallint[], bigint[], bigint[], bigint, bigint[], text[], text[], smallint[], bigint[], bigint[])",
    "outbox_refuse_again(smallint[], bigint[], uuid, smallint, bigint, text, integer, bigint)",
    "outbox_release(smallint[], bigint[], uuid)",
    "outbox_settle(smallint[], bigint[], uuid, smallint[], bigint[])",
    "outbox_unpark(smallint[], bigint[], uuid, smallint, bigint, boolean)",
];

const REMEDY: &str = "run the migrations: `outbox migrate up`, `diesel migration run`, or \
    `run_pending_migrations(outbox::migrations::POSTGRES)`";

pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    let row = client
        .query_typed_one(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, \
                to_regclass('outbox') IS NOT NULL, \
                (SELECT string_agg(name, ', ') FROM ( \
                    SELECT name FROM unnest($1) AS name WHERE to_regclass(name) IS NULL \
                    UNION ALL \
                    SELECT name FROM unnest($2) AS name WHERE to_regprocedure(name) IS NULL \
                 ) AS missing)",
            &[
                (&TABLES.as_slice(), Type::TEXT_ARRAY),
                (&FUNCTIONS.as_slice(), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    if row.try_get(0)? {
        return Err(StoreError::fatal(
            "this server is a standby; give the runner the URL of the primary, or several hosts and \
             `target_session_attrs=read-write`",
        ));
    }
    if row.try_get(1)? {
        return Err(StoreError::fatal(
            "transactions on this server are read-only (default_transaction_read_only); give \
             the runner a server and a role that can write",
        ));
    }
    let has_messages: bool = row.try_get(2)?;
    match row.try_get::<_, Option<String>>(3)? {
        None => Ok(()),
        Some(_) if !has_messages => Err(StoreError::fatal(format!(
            "it has no table `outbox`; {REMEDY}"
        ))),
        Some(missing) => Err(StoreError::fatal(format!(
            "its tables are of an older version, and lack `{missing}`; {REMEDY}"
        ))),
    }
}
