//! The database.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outbox::store::Paused;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::Finding;
use crate::failure::Failure;
use crate::{Database, show};

/// The oldest version that has all that the migration uses.
const OLDEST: i32 = 130_000;

/// Ten times as many as make autovacuum look at the table.
const DEAD_ROWS: i64 = 100_000;

/// What clocks may differ by.
const CLOCKS: Duration = Duration::from_secs(2);

/// How many waiting messages are looked at for their topics.
const LOOKED_AT: i64 = 10_000;

/// What the runner needs, as `grants.sql` gives it.
const RIGHTS: [(&str, &str); 9] = [
    ("outbox", "SELECT, INSERT, DELETE"),
    ("outbox_archive", "SELECT, INSERT, DELETE"),
    ("outbox_parked", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_runners", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_dead_letters", "INSERT"),
    ("outbox_lanes", "SELECT, UPDATE"),
    ("outbox_doorbell", "SELECT, UPDATE"),
    ("outbox_paused", "SELECT"),
    ("outbox_audit", ""),
];

/// What there is to say about the database, and the topics for which messages wait.
pub(super) async fn examine(database: &Database, old: Duration) -> (Vec<Finding>, Vec<String>) {
    let mut findings = Vec::new();
    let client = match connect(database).await {
        Ok(client) => client,
        Err(finding) => return (vec![finding], Vec::new()),
    };
    let topics = match look(&client, old, &mut findings).await {
        Ok(true) => {
            findings.extend(backlog(database).await);
            topics(&client).await.unwrap_or_else(|error| {
                findings.push(unseen(&Failure::from(error)));
                Vec::new()
            })
        }
        Ok(false) => Vec::new(),
        Err(error) => {
            findings.push(Finding::error(
                format!("the database fails: {}", Failure::from(error)),
                "See its log.",
            ));
            Vec::new()
        }
    };
    (findings, topics)
}

async fn connect(database: &Database) -> Result<Client, Finding> {
    database.connect().await.map_err(|error| {
        Finding::error(
            error.to_string(),
            "Check the URL, the network, pg_hba.conf, the password and the certificate. A runner \
             waits until it can connect.",
        )
    })
}

/// Looks at everything; false if there are no tables to look into.
async fn look(client: &Client, old: Duration, findings: &mut Vec<Finding>) -> Result<bool, Error> {
    findings.push(version(client).await?);
    findings.push(writable(client).await?);
    let missing = missing_tables(client).await?;
    let (schema, others) = schemas(client).await?;
    if !missing.is_empty() {
        let remedy = match others.is_empty() {
            true => "Make the tables: `outbox migrate up`.".to_owned(),
            false => format!(
                "Name the schema: `--schema` with one of {}; or make the tables: `outbox migrate up`.",
                others.join(", ")
            ),
        };
        let text = format!("there is no table {}", missing.join(", "));
        findings.push(Finding::error(text, remedy));
        return Ok(false);
    }
    findings.push(Finding::ok(format!("the tables are there, in {schema}")));
    if !others.is_empty() {
        findings.push(Finding::ok(format!(
            "there are other outboxes in this database, which need runners of their own: {}",
            others.join(", ")
        )));
    }
    findings.push(rights(client).await?);
    findings.push(sequence(client).await?);
    findings.extend(old_transactions(client, old).await?);
    findings.extend(vacuum(client).await?);
    findings.push(clock(client).await?);
    Ok(true)
}

async fn version(client: &Client) -> Result<Finding, Error> {
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num')::integer, \
                current_setting('server_version')",
            &[],
        )
        .await?;
    let (number, text): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match number >= OLDEST {
        true => Finding::ok(format!("PostgreSQL {text}")),
        false => Finding::error(
            format!("PostgreSQL {text} is too old"),
            "Use version 13 or later.",
        ),
    })
}

async fn writable(client: &Client) -> Result<Finding, Error> {
    let row = client
        .query_typed_one(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean",
            &[],
        )
        .await?;
    Ok(match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => Finding::error(
            "this server is a standby",
            "Give the runner the URL of the primary, or several hosts and \
             target_session_attrs=read-write.",
        ),
        (false, true) => Finding::error(
            "transactions on this server are read-only",
            "Unset default_transaction_read_only for the runner's role.",
        ),
        (false, false) => Finding::ok("it can be written to"),
    })
}

async fn missing_tables(client: &Client) -> Result<Vec<String>, Error> {
    let tables = RIGHTS.map(|(table, _)| table);
    let rows = client
        .query_typed(
            "SELECT name FROM unnest($1) AS name WHERE to_regclass(name) IS NULL ORDER BY name",
            &[(&tables.as_slice(), Type::TEXT_ARRAY)],
        )
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// In which schema the outbox is that this connection sees, and in which there are others.
async fn schemas(client: &Client) -> Result<(String, Vec<String>), Error> {
    let rows = client
        .query_typed(
            "SELECT relnamespace::regnamespace::text, (oid = to_regclass('outbox_lanes')) IS TRUE \
             FROM pg_class WHERE relname = 'outbox_lanes' AND relkind = 'r' ORDER BY 1",
            &[],
        )
        .await?;
    let (mut ours, mut others) = (String::new(), Vec::new());
    for row in rows {
        match row.try_get(1)? {
            true => ours = row.try_get(0)?,
            false => others.push(row.try_get(0)?),
        }
    }
    Ok((ours, others))
}

async fn rights(client: &Client) -> Result<Finding, Error> {
    let needed = RIGHTS.iter().flat_map(|(table, rights)| {
        let rights = rights.split(", ").filter(|right| !right.is_empty());
        rights.map(move |right| (*table, right))
    });
    let (tables, rights): (Vec<_>, Vec<_>) = needed.unzip();
    let row = client
        .query_typed_one(
            "SELECT current_user::text, ARRAY( \
                SELECT needed.right || ' on ' || needed.name \
                FROM unnest($1, $2) AS needed (name, \"right\") \
                WHERE NOT has_table_privilege(needed.name, needed.right) \
                UNION ALL \
                SELECT 'SELECT on outbox_id_seq' \
                WHERE NOT has_sequence_privilege('outbox_id_seq', 'SELECT'))",
            &[(&tables, Type::TEXT_ARRAY), (&rights, Type::TEXT_ARRAY)],
        )
        .await?;
    let (role, missing): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match missing.is_empty() {
        true => Finding::ok(format!("the role {role} may do what a runner does")),
        false => Finding::error(
            format!(
                "the role {role} lacks rights of a runner: {}",
                missing.join(", ")
            ),
            format!("Run migrations/postgres/grants.sql, and: GRANT outbox_runner TO {role}."),
        ),
    })
}

async fn sequence(client: &Client) -> Result<Finding, Error> {
    let row = client
        .query_typed_one(
            "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence \
             WHERE seqrelid = 'outbox_id_seq'::regclass",
            &[],
        )
        .await?;
    let (cache, increment, cycle): (i64, i64, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(match (cache, increment > 0 && !cycle) {
        (1, true) => Finding::ok("ids are drawn one by one"),
        (1, false) => Finding::error(
            "ids don't grow: the sequence counts down, or begins anew",
            "ALTER SEQUENCE outbox_id_seq INCREMENT 1 NO CYCLE.",
        ),
        (cache, _) => Finding::error(
            format!(
                "each writer draws {cache} ids at once, so messages of a key can change places"
            ),
            "ALTER SEQUENCE outbox_id_seq CACHE 1.",
        ),
    })
}

/// Whoever keeps dead rows from being removed: as long as he does, reads get slower.
async fn old_transactions(client: &Client, old: Duration) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query_typed(
            "SELECT 'the session ' || pid || ' (' || coalesce(usename::text, '?') || ', ' \
                    || coalesce(nullif(application_name, ''), '?') || ', ' || coalesce(state, '?') \
                    || ') has an open transaction for', \
                extract(epoch FROM clock_timestamp() - xact_start)::float8, \
                'End it: SELECT pg_terminate_backend(' || pid || ').' \
             FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
                AND xact_start < clock_timestamp() - $1 * interval '1 second' \
             UNION ALL \
             SELECT 'the prepared transaction ' || quote_literal(gid) || ' is open for', \
                extract(epoch FROM clock_timestamp() - prepared)::float8, \
                'Finish it: COMMIT PREPARED or ROLLBACK PREPARED ' || quote_literal(gid) || '.' \
             FROM pg_prepared_xacts \
             WHERE database = current_database() \
                AND prepared < clock_timestamp() - $1 * interval '1 second' \
             ORDER BY 2 DESC LIMIT 10",
            &[(&old.as_secs_f64(), Type::FLOAT8)],
        )
        .await?;
    if rows.is_empty() {
        let age = show::duration(old);
        return Ok(vec![Finding::ok(format!(
            "no transaction is older than {age}"
        ))]);
    }
    let finding = |row: &tokio_postgres::Row| {
        let (what, age, remedy): (String, f64, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let age = show::duration(Duration::try_from_secs_f64(age).unwrap_or_default());
        Ok(Finding::warning(
            format!("{what} {age}; until it ends, no dead row can be removed"),
            remedy,
        ))
    };
    rows.iter().map(finding).collect()
}

async fn vacuum(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_typed_one(
            "SELECT coalesce(s.n_dead_tup, 0), \
                current_setting('autovacuum')::boolean \
                    AND NOT coalesce('autovacuum_enabled=false' = ANY (c.reloptions) \
                        OR 'autovacuum_enabled=off' = ANY (c.reloptions), false) \
             FROM pg_class AS c LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid \
             WHERE c.oid = 'outbox'::regclass",
            &[],
        )
        .await?;
    let (dead, automatic): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let mut findings = vec![match dead > DEAD_ROWS {
        false => Finding::ok(format!("{dead} dead rows in the table outbox")),
        true => Finding::warning(
            format!("{dead} dead rows in the table outbox"),
            "See to transactions that are old, and then: VACUUM outbox.",
        ),
    }];
    if !automatic {
        findings.push(Finding::warning(
            "autovacuum is off",
            "Turn it on, at least for the table outbox: ALTER TABLE outbox RESET \
             (autovacuum_enabled).",
        ));
    }
    Ok(findings)
}

async fn clock(client: &Client) -> Result<Finding, Error> {
    let (asked, before) = (Instant::now(), SystemTime::now());
    let row = client
        .query_typed_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[])
        .await?;
    let round_trip = asked.elapsed().as_secs_f64();
    let theirs: f64 = row.try_get(0)?;
    let ours = before
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |ours| ours.as_secs_f64());
    // It was read at some time between question and answer.
    let apart = (theirs - ours - round_trip / 2.0).abs() - round_trip / 2.0;
    let shown = Duration::try_from_secs_f64(apart.max(0.0)).unwrap_or_default();
    Ok(match shown > CLOCKS {
        false => Finding::ok("its clock is this machine's"),
        true => Finding::warning(
            format!(
                "its clock and this machine's are {} apart",
                show::duration(shown)
            ),
            "Synchronise both. Delivery goes by the database's clock alone; but logs mislead, and \
             Kafka's retention goes by the runner's.",
        ),
    })
}

async fn backlog(database: &Database) -> Vec<Finding> {
    let status = match database.operator() {
        Ok(operator) => operator.status().await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let status = match status {
        Ok(status) => status,
        Err(failure) => return vec![unseen(&failure)],
    };
    let mut findings = Vec::from_iter(paused(&status.paused));
    if status.is_deserted() {
        findings.push(Finding::error(
            format!(
                "no runner is alive; messages waiting: {}; parked: {}",
                status.waiting, status.parked
            ),
            "Start one: `outbox run`.",
        ));
        return findings;
    }
    let found = format!(
        "messages waiting: {}; parked: {}; runners alive: {}",
        status.waiting,
        status.parked,
        status.runners.len()
    );
    findings.push(match status.parked.at_least {
        0 => Finding::ok(found),
        _ => Finding::warning(found, "See to the parked ones: `outbox parked list`."),
    });
    findings
}

fn paused(paused: &Paused) -> Option<Finding> {
    match (paused.all, paused.topics.as_slice()) {
        (true, _) => Some(Finding::warning(
            "everything is paused",
            "To let it go on: `outbox resume --all`.",
        )),
        (false, []) => None,
        (false, topics) => Some(Finding::warning(
            format!("these topics are paused: {}", topics.join(", ")),
            "To let one go on: `outbox resume` and its name.",
        )),
    }
}

fn unseen(error: &Failure) -> Finding {
    Finding::warning(
        format!("what waits can't be seen: {error}"),
        "If the role may not, look again with one that has `outbox_operator` or `outbox_runner`; else see \
         the database's log.",
    )
}

async fn topics(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client
        .query_typed(
            "SELECT DISTINCT topic FROM (SELECT topic FROM outbox LIMIT $1) AS first ORDER BY topic",
            &[(&LOOKED_AT, Type::INT8)],
        )
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
