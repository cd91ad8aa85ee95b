//! The runner's statements on PostgreSQL are index scans, whatever the planner believes, and a read costs
//! the same however many dead rows somebody's long transaction keeps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use outbox::store::{Lease, Position, PostgresStore, ReadRequest, RunnerId, Store};
use outbox::{Message, OutboxEvent as _};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::plans::Explained;
use uuid::Uuid;

const TTL: Duration = Duration::from_secs(600);

/// So many messages over 1,000 keys.
fn fill(connection: &mut PgConnection, count: usize) -> Result<()> {
    connection.batch_execute(&format!(
        "INSERT INTO outbox (topic, key, payload) \
         SELECT 't', int4send(n % 1000), int4send(n) FROM generate_series(1, {count}) AS n"
    ))?;
    Ok(())
}

/// What the store tells the planner before it reads. That it does is seen where a store reads.
const PLANNED: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off";

/// A runner that holds all lanes.
async fn owner(store: &PostgresStore) -> Result<(RunnerId, Vec<Lease>)> {
    let runner = RunnerId {
        id: Uuid::new_v4(),
        name: "owner".into(),
    };
    let leases = store.lease(&runner, TTL).await?.leases;
    Ok((runner, leases))
}

/// Nobody may walk the table, and nothing but the lanes may be sorted.
fn assert_indexed(explained: &Explained) {
    let scans: BTreeSet<_> = explained
        .nodes()
        .filter_map(|node| Some((node.relation.as_deref()?, node.kind.as_str())))
        .collect();
    for (relation, kind) in &scans {
        let of_messages = ["outbox", "outbox_parked"].contains(relation);
        let allowed = ["Index Scan", "Index Only Scan", "ModifyTable", "Tid Scan"];
        assert!(
            !of_messages || allowed.contains(kind),
            "{kind} on {relation}: {explained}"
        );
    }
    assert!(
        scans
            .iter()
            .any(|(relation, _)| relation.starts_with("outbox")),
        "nothing was explained: {explained}"
    );
    let sorts = explained.nodes().filter(|node| node.kind == "Sort");
    for sort in sorts {
        assert!(sort.rows <= 16.0, "more is sorted than lanes: {explained}");
    }
    assert!(
        !explained.compiled(),
        "compiled, which takes longer than the statement itself: {explained}"
    );
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn hot_statements_use_the_index_whatever_the_statistics() -> Result<()> {
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    // Statistics of an empty table, which is what an outbox mostly is; then those of a full one.
    connection.batch_execute("ALTER TABLE outbox SET (autovacuum_enabled = off); ANALYZE")?;
    fill(&mut connection, 100_000)?;
    let store = database.store()?;
    let (runner, leases) = owner(&store).await?;
    let (lanes, epochs): (Vec<_>, Vec<_>) = leases.iter().map(|l| (l.lane, l.epoch)).unzip();
    let fence = format!(
        "'{{{}}}', '{{{}}}', '{}'",
        join(&lanes),
        join(&epochs),
        runner.id
    );
    for _ in 0..2 {
        let read = store.read(&all_of(&leases, 64)).await?;
        ensure!(read.len() == 16 * 64, "{} were read", read.len());
        let positions: Vec<_> = read.iter().map(|stored| stored.position).collect();
        let (some, others) = positions.split_at(512);
        let ids = |positions: &[Position]| {
            let ids: Vec<_> = positions.iter().map(|place| place.id).collect();
            format!("'{{{}}}'", join(&ids))
        };
        let places = |positions: &[Position]| {
            let lanes: Vec<_> = positions.iter().map(|place| place.lane).collect();
            format!("'{{{}}}', {}", join(&lanes), ids(positions))
        };
        // Each a range by itself, which begins and ends with it.
        let ranges = |positions: &[Position]| {
            let ids = ids(positions);
            format!("{}, {ids}, {ids}", places(positions))
        };
        let nothing = |what: &str| format!("array_fill({what}, ARRAY[256])");
        let first = others[256];
        let read = |function: &str| {
            format!(
                "SELECT * FROM {function}('{{{}}}', array_fill(64::bigint, ARRAY[16]), \
                 array_fill(0::bigint, ARRAY[16]), 1000000, {}, '{{}}', NULL, '{{3}}', '{{5}}', '{{1}}')",
                join(&lanes),
                ids(some),
            )
        };
        let statements = [
            format!("{PLANNED}; {}", read("outbox_read")),
            read("outbox_read_few"),
            format!(
                "SELECT * FROM outbox_settle({fence}, {})",
                ranges(&some[..256])
            ),
            format!(
                "SELECT * FROM outbox_archive_delivered({fence}, {})",
                ranges(&some[256..])
            ),
            format!(
                "SELECT * FROM outbox_park({fence}, {}, {}, {}, {})",
                places(&others[..256]),
                nothing("'refused'::text"),
                nothing("1"),
                nothing("1000::bigint"),
            ),
            format!(
                "SELECT * FROM outbox_park({fence}, {}, '{{refused}}', '{{1}}', '{{0}}')",
                places(&[first])
            ),
            format!("SELECT * FROM outbox_parked_firsts('{{{}}}')", join(&lanes)),
            format!(
                "SELECT * FROM outbox_refuse_again({fence}, {}::smallint, {}, 'again', 2, 0)",
                first.lane, first.id
            ),
            format!(
                "SELECT * FROM outbox_unpark({fence}, {}::smallint, {}, false, 1000)",
                first.lane, first.id
            ),
        ];
        for statement in &statements {
            assert_indexed(&Explained::run(database.url(), statement).await?);
        }
        connection.batch_execute("ANALYZE")?;
    }
    Ok(())
}

/// Floors rest on it: whatever is drawn later has a higher id.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_horizon_tells_no_id_that_was_not_drawn() -> Result<()> {
    let database = Postgres::create()?;
    let horizon = || database.counts("SELECT last_id AS count FROM outbox_horizon()");
    assert_eq!(horizon()?, [0]);
    for drawn in 1..3 {
        database.plain_sql("INSERT INTO outbox (topic) VALUES ('t')")?;
        assert_eq!(horizon()?, [drawn]);
    }
    Ok(())
}

/// Here a walk over the table would be the cheapest plan. Large messages are read by two statements.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_store_reads_by_the_index_also_where_a_walk_costs_less() -> Result<()> {
    const READS: i64 = 3;
    // So many that not all reads take them for a few.
    const COUNT: usize = 150;
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    fill(&mut connection, COUNT)?;
    connection.batch_execute("ANALYZE")?;
    let walks = || {
        database
            .counts("SELECT seq_scan AS count FROM pg_stat_user_tables WHERE relname = 'outbox'")
    };
    let (before, (scans, _)) = (walks()?, entries_after(&mut connection, 0).await?);

    let store = database.store()?;
    let (_, leases) = owner(&store).await?;
    let mut request = all_of(&leases, 64);
    request.max_bytes = 64 * 4;
    for _ in 0..READS {
        // As long as none of the floors is known, all of it comes each time: 4 bytes of key, and of payload.
        let read = store.read(&request).await?;
        ensure!(read.len() == COUNT, "{} were read", read.len());
    }
    // Of each lane, and of each large message.
    entries_after(&mut connection, scans + (16 + COUNT as i64) * READS).await?;
    assert_eq!(walks()?, before);
    Ok(())
}

/// What an outbox without work does once in a poll interval.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_poll_with_nothing_to_do_touches_a_few_pages() -> Result<()> {
    let database = Postgres::create()?;
    let lanes = join(&(0..16).collect::<Vec<_>>());
    let poll = format!(
        "SELECT * FROM outbox_read_few('{{{lanes}}}', array_fill(64::bigint, ARRAY[16]), \
         array_fill(0::bigint, ARRAY[16]), 1000000, '{{}}', '{{}}', NULL, '{{}}', '{{}}', '{{}}')"
    );
    // Twice, since the first one in a session also reads the catalog.
    let explained = Explained::run(database.url(), &format!("{poll}; {poll}")).await?;
    assert_indexed(&explained);
    assert!(explained.pages() <= 64, "{} pages", explained.pages());
    Ok(())
}

fn all_of(leases: &[Lease], most: usize) -> ReadRequest {
    let mut request = ReadRequest::default();
    request.lanes = leases.iter().map(|lease| (lease.lane, most)).collect();
    request.max_bytes = usize::MAX;
    request
}

fn join<T: ToString>(values: &[T]) -> String {
    let values: Vec<_> = values.iter().map(T::to_string).collect();
    values.join(",")
}

/// How many entries of the primary key were looked at, dead ones included, once at least `scans` more scans
/// are counted.
async fn entries_after(connection: &mut PgConnection, scans: i64) -> Result<(i64, i64)> {
    #[derive(diesel::QueryableByName)]
    struct Usage {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        idx_scan: i64,
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        idx_tup_read: i64,
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let usage: Usage = diesel::sql_query(
            "SELECT idx_scan, idx_tup_read FROM pg_stat_user_indexes \
             WHERE indexrelname = 'outbox_pkey'",
        )
        .get_result(connection)?;
        if usage.idx_scan >= scans {
            return Ok((usage.idx_scan, usage.idx_tup_read));
        }
        ensure!(
            Instant::now() < deadline,
            "{} of {scans} scans",
            usage.idx_scan
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reads and settles until nothing is left.
async fn drain(store: &PostgresStore, runner: &RunnerId, leases: &[Lease]) -> Result<usize> {
    let mut settled = 0;
    loop {
        let read = store.read(&all_of(leases, 1_000)).await?;
        if read.is_empty() {
            return Ok(settled);
        }
        let positions: Vec<_> = read.iter().map(|stored| stored.position).collect();
        store.settle(runner, leases, &positions, false).await?;
        settled += read.len();
    }
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_million_dead_rows_that_somebody_pins_cost_a_read_nothing() -> Result<()> {
    const SETTLED: usize = 1_000_000;
    const POLLS: i64 = 20;
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    fill(&mut connection, SETTLED)?;
    // Somebody else's, about something else: it keeps every row that is deleted from now on.
    let mut reader = database.connect()?;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM counters")?;

    let store = database.store()?;
    let (runner, leases) = owner(&store).await?;
    assert_eq!(drain(&store, &runner, &leases).await?, SETTLED);
    // What the floors are derived from is a quarter of a second old, so they still follow.
    let deadline = Instant::now() + Duration::from_secs(30);
    let (scans, entries) = loop {
        let before = entries_after(&mut connection, 0).await?;
        for _ in 0..POLLS {
            assert!(store.read(&all_of(&leases, 64)).await?.is_empty());
        }
        let after = entries_after(&mut connection, before.0 + 16 * POLLS).await?;
        let counted = (after.0 - before.0, after.1 - before.1);
        if counted.1 / counted.0 < 1_000 || Instant::now() > deadline {
            break counted;
        }
    };
    // From the beginning, each scan would walk the dead rows of its lane: 62,500.
    let a_scan = entries / scans;
    assert!(a_scan < 1_000, "{a_scan} entries in each of {scans} scans");

    // Nor does it cost much to measure what waits, once it is known where: one lane is looked at from its beginning.
    let before = entries_after(&mut connection, 0).await?;
    for _ in 0..2 {
        store.backlog().await?;
    }
    let before = entries_after(&mut connection, before.0 + 2 * 16).await?;
    let backlog = store.backlog().await?.context("a backlog")?;
    let after = entries_after(&mut connection, before.0 + 16).await?;
    assert_eq!((backlog.waiting, backlog.oldest), (0, None));
    let (entries, a_lane) = (after.1 - before.1, i64::try_from(SETTLED / 16)?);
    assert!(entries < 3 * a_lane, "{entries} entries");

    // The floor hides nothing: neither what comes now, nor what began before and commits only now.
    let mut late = database.connect()?;
    late.batch_execute(
        "BEGIN; INSERT INTO outbox (topic, key, payload) VALUES ('late', 'k', '1')",
    )?;
    fill(&mut connection, 20_000)?;
    assert_eq!(drain(&store, &runner, &leases).await?, 20_000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fill(&mut connection, 20_000)?;
    assert_eq!(drain(&store, &runner, &leases).await?, 20_000);
    connection.transaction(|c| {
        let after = Message::new("late").with_key("k").with_payload("2");
        after.publish(c)
    })?;
    late.batch_execute("COMMIT")?;
    let read = store.read(&all_of(&leases, 64)).await?;
    let payloads: Vec<_> = read.iter().map(|m| m.message.payload()).collect();
    assert_eq!(payloads, [Some(&b"1"[..]), Some(&b"2"[..])]);
    assert_eq!(drain(&store, &runner, &leases).await?, 2);

    a_runner_that_starts_over_them_gets_through(&database, &leases).await?;
    reader.batch_execute("COMMIT").context("the reader")?;
    Ok(())
}

/// It knows no floors, and gives up before all lanes are walked.
async fn a_runner_that_starts_over_them_gets_through(
    database: &Postgres,
    leases: &[Lease],
) -> Result<()> {
    // Whoever gives up sooner does not do so because it takes long.
    const LEAST: Duration = Duration::from_millis(75);
    let request = all_of(leases, 1_000);
    let mut walk = Duration::MAX;
    for _ in 0..3 {
        let store = database.store()?;
        store.check().await?;
        let begin = Instant::now();
        assert!(store.read(&request).await?.is_empty());
        walk = walk.min(begin.elapsed());
    }

    const KEYS: usize = 1_000;
    fill(&mut database.connect()?, KEYS)?;
    let store = database.store()?;
    let (mut given_up, mut found) = (0, BTreeSet::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while found.len() < KEYS {
        match tokio::time::timeout(LEAST.max(walk / 4), store.read(&request)).await {
            Ok(read) => found.extend(read?.into_iter().map(|stored| stored.position)),
            Err(_) => given_up += 1,
        }
        let found = found.len();
        ensure!(
            given_up < 12 && Instant::now() < deadline,
            "{found} of {KEYS} found, where a walk takes {walk:?}, and {given_up} were given up"
        );
    }
    assert!(given_up > 0 || walk < LEAST, "none was too long");
    Ok(())
}
