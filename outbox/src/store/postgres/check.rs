//! Whether the database can serve a runner at all.

use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl as _;

use super::{Connection, StoreError};

#[derive(diesel::QueryableByName)]
struct Facts {
    #[diesel(sql_type = Bool)]
    migrated: bool,
    #[diesel(sql_type = Bool)]
    standby: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
}

pub(super) async fn check(connection: &mut Connection) -> Result<(), StoreError> {
    let facts: Facts = diesel::sql_query(
        "SELECT to_regclass('outbox') IS NOT NULL AND to_regclass('outbox_lanes') IS NOT NULL AS migrated, \
                pg_is_in_recovery() AS standby, \
                current_setting('transaction_read_only')::boolean AS read_only",
    )
    .get_result(connection)
    .await?;
    if facts.standby {
        return Err(StoreError::fatal(
            "this server is a standby; give the runner the URL of the primary",
        ));
    }
    if facts.read_only {
        return Err(StoreError::fatal(
            "transactions on this server are read-only (default_transaction_read_only); give the \
             runner a server and a role that can write",
        ));
    }
    if !facts.migrated {
        return Err(StoreError::fatal(
            "it has no table `outbox`; run the migrations: `diesel migration run`, or \
             `run_pending_migrations(outbox::migrations::POSTGRES)`",
        ));
    }
    Ok(())
}
