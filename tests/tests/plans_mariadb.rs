//! The statements of the runner on MariaDB are searches in indexes, whatever the optimizer believes. What is
//! explained is what the server has been sent, from its own log.

use std::time::Duration;

use anyhow::{Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{Nullable, Text};
use diesel::{MysqlConnection, QueryableByName, RunQueryDsl as _, sql_query};
use outbox::store::{Lease, Parking, ReadRequest, Refusal, RunnerId, Store, TopicFilter};
use outbox_tests::database::{Database as _, MariaDb};
use outbox_tests::servers;
use uuid::Uuid;

/// A line of a plan.
#[derive(Debug, QueryableByName)]
struct Line {
    #[diesel(sql_type = Nullable<Text>)]
    table: Option<String>,
    /// How the table is accessed.
    #[diesel(sql_type = Nullable<Text>, column_name = "type")]
    access: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
    #[diesel(sql_type = Nullable<Text>, column_name = "Extra")]
    extra: Option<String>,
}

fn refusal() -> Refusal {
    Refusal {
        error: "it's \"refused\"".into(),
        attempts: 1,
        retry_in: Some(Duration::ZERO),
    }
}

/// Does all that a runner does to messages.
async fn work(store: &impl Store, runner: &RunnerId, leases: &[Lease]) -> Result<()> {
    let mut request = ReadRequest::default();
    request.lanes = leases.iter().map(|lease| (lease.lane, 64)).collect();
    request.max_bytes = usize::MAX;
    let read = store.read(&request).await?;
    ensure!(read.len() == 16 * 64, "{} were read", read.len());
    let positions: Vec<_> = read.iter().map(|stored| stored.position).collect();
    request.exclude = positions[..512].to_vec();
    request.topics = TopicFilter {
        only: Some(vec!["t".into(), "u".into()]),
        except: vec!["x".into()],
    };
    ensure!(store.read(&request).await?.len() == 16 * 64);
    store
        .settle(runner, leases, &positions[..256], false)
        .await?;
    store
        .settle(runner, leases, &positions[256..512], true)
        .await?;
    store
        .bury(runner, leases, positions[512], "refused")
        .await?;
    let parking = |&position| Parking {
        position,
        refusal: Some(refusal()),
    };
    let parked: Vec<_> = positions[513..].iter().map(parking).collect();
    store.park(runner, leases, &parked).await?;
    let lanes: Vec<_> = leases.iter().map(|lease| lease.lane).collect();
    let keys = store.parked_keys(&lanes).await?;
    ensure!(!keys.is_empty(), "nothing is parked");
    let topics = TopicFilter::default();
    let due = store.due(&lanes, &topics, 10, 1_000_000).await?;
    ensure!(due.len() == 10, "{} are due", due.len());
    let first = due[0].stored.position;
    store
        .refuse_again(runner, leases, first, &refusal())
        .await?;
    store.unpark(runner, leases, first, true, 1_000).await?;
    Ok(())
}

/// What the server was sent since the log was emptied, with the values of the parameters.
fn sent(connection: &mut MysqlConnection) -> Result<Vec<String>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        argument: String,
    }
    let rows: Vec<Row> = sql_query(
        "SELECT DISTINCT CONVERT(argument USING utf8mb4) AS argument FROM mysql.general_log \
         WHERE command_type = 'Execute' AND user_host LIKE 'runner%'",
    )
    .load(connection)?;
    Ok(rows.into_iter().map(|row| row.argument).collect())
}

fn assert_indexed(connection: &mut MysqlConnection, statement: &str) -> Result<()> {
    let plan: Vec<Line> = sql_query(format!("EXPLAIN {statement}")).load(connection)?;
    for line in &plan {
        let table = line.table.as_deref().unwrap_or_default();
        let (access, extra) = (
            line.access.as_deref().unwrap_or_default(),
            line.extra.as_deref().unwrap_or_default(),
        );
        // Lists of parameters, what was found of parked keys, the result of a UNION.
        if table.is_empty() || extra.contains("json_table") || table.starts_with('<') {
            continue;
        }
        let searched = ["const", "eq_ref", "ref", "range"].contains(&access);
        ensure!(searched && line.key.is_some(), "{line:?} of {statement}");
        // Where nothing says what comes first but the time when it is due.
        let sorted = extra.contains("filesort") && !statement.contains("next_attempt_at <=");
        ensure!(!sorted, "{line:?} of {statement}");
    }
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn hot_statements_use_an_index_whatever_the_statistics() -> Result<()> {
    // Of its own, since the log is the server's.
    let server = servers::MariaDb::start(&[
        ("innodb-stats-auto-recalc", "OFF"),
        ("log-output", "TABLE"),
        ("general-log", "ON"),
    ])?;
    let database = MariaDb::create_on(&server.url())?;
    let mut connection = database.connect()?;
    // Statistics of an empty table, which is what an outbox mostly is; then those of a full one.
    connection.batch_execute(
        "CREATE USER runner@'%'; GRANT ALL ON *.* TO runner@'%'; \
         ANALYZE TABLE outbox, outbox_parked; \
         INSERT INTO outbox (topic, `key`, payload) SELECT 't', seq % 1000, seq FROM seq_1_to_100000",
    )?;
    let url = database.url().replace("//root@", "//runner@");
    let store = MariaDb::at(&url).store()?;
    let runner = RunnerId {
        id: Uuid::new_v4(),
        name: "explained".into(),
    };
    let leases = store.lease(&runner, Duration::from_secs(600)).await?.leases;
    for _ in 0..2 {
        connection.batch_execute("TRUNCATE mysql.general_log")?;
        work(&store, &runner, &leases).await?;
        let sent = sent(&mut connection)?;
        let explained = ["SELECT", "(SELECT", "INSERT", "DELETE", "UPDATE"];
        for statement in &sent {
            ensure!(
                explained.iter().any(|word| statement.starts_with(word)),
                "{statement}"
            );
            assert_indexed(&mut connection, statement)?;
        }
        ensure!(sent.len() >= 16, "{} statements: {sent:#?}", sent.len());
        connection.batch_execute("ANALYZE TABLE outbox, outbox_parked")?;
    }
    Ok(())
}
