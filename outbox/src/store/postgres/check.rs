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

/// All that runners and writers call, as the migrations make it: a version of the library that calls another
/// function needs newer tables.
const FUNCTIONS: [&str; 15] = [
    "outbox_archive_delivered(smallint[], bigint[], uuid, smallint[], bigint[], bigint[], bigint[])",
    "outbox_bury(smallint[], bigint[], uuid, smallint, bigint, text)",
    "outbox_horizon()",
    "outbox_lease(uuid, text, bigint)",
    "outbox_leave(uuid)",
    "outbox_note_batches(smallint[], bigint[], uuid, smallint[], bigint[], boolean[], smallint[], bigint[])",
    "outbox_park(smallint[], bigint[], uuid, smallint[], bigint[], text[], integer[], bigint[])",
    "outbox_parked_firsts(smallint[])",
    "outbox_read(smallint[], bigint[], bigint[], bigint, bigint[], text[], text[], smallint[], bigint[], bigint[])",
    "outbox_read_few(smallint[], bigint[], bigint[], bigint, bigint[], text[], text[], smallint[], bigint[], bigint[])",
    "outbox_refuse_again(smallint[], bigint[], uuid, smallint, bigint, text, integer, bigint)",
    "outbox_release(smallint[], bigint[], uuid)",
    "outbox_ring(oid, smallint)",
    "outbox_settle(smallint[], bigint[], uuid, smallint[], bigint[], bigint[], bigint[])",
    "outbox_unpark(smallint[], bigint[], uuid, smallint, bigint, boolean, bigint)",
];

/// Whether it is there, all of it, in this schema if one is named, and can be written to.
pub(super) async fn check(client: &Client, schema: Option<&str>) -> Result<(), StoreError> {
    let row = client
        .query_typed_one(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, \
                (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                 WHERE c.oid = to_regclass('outbox')), \
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
    let found: Option<String> = row.try_get(2)?;
    match (found, schema) {
        (Some(found), Some(schema)) if found != schema => {
            return Err(StoreError::fatal(format!(
                "it finds the outbox in the schema {found:?}, and should work on that in {schema:?}: a pooler \
                 in between keeps `search_path` to itself. Set it for the role: ALTER ROLE … SET search_path"
            )));
        }
        (Some(_), _) => {}
        (None, Some(schema)) => {
            return Err(StoreError::fatal(format!(
                "it has no table `outbox` in the schema {schema:?}, or the role may not use that schema; run \
                 the migrations there, as `outbox migrate up --schema {schema}` does, and grants.sql"
            )));
        }
        (None, None) => {
            return Err(StoreError::fatal(format!(
                "it has no table `outbox`; {REMEDY}. If it is in a schema that is not in the `search_path`, \
                 name the schema"
            )));
        }
    }
    match row.try_get::<_, Option<String>>(3)? {
        None => Ok(()),
        // All versions have it.
        Some(missing) if missing.contains("outbox_lanes") => Err(StoreError::fatal(
            "its table `outbox` is none of this outbox's; put the tables into a schema of their own, by \
             `outbox migrate up --schema …`, and name the schema",
        )),
        Some(missing) => Err(StoreError::fatal(format!(
            "its tables are of an older version, and lack `{missing}`; {REMEDY}"
        ))),
    }
}

const REMEDY: &str = "run the migrations: `outbox migrate up`, `diesel migration run`, or \
    `run_pending_migrations(outbox::migrations::POSTGRES)`";
