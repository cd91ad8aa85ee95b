//! What every store promises the runner: leases, fencing, reading, settling.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::store::{
    LaneBatch, Lease, Position, ReadRequest, RunnerId, Store, StoreErrorKind, StoredMessage,
};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn runner(name: &str) -> RunnerId {
    RunnerId {
        id: Uuid::new_v4(),
        name: name.to_owned(),
    }
}

fn all_of(leases: &[Lease]) -> ReadRequest {
    request(leases.iter().map(|lease| (lease.lane, 1_000)).collect())
}

fn request(lanes: Vec<(i16, usize)>) -> ReadRequest {
    let mut request = ReadRequest::default();
    request.lanes = lanes;
    request.max_bytes = 1 << 20;
    request
}

async fn lease<S: Store>(store: &S, runner: &RunnerId, ttl: Duration) -> Result<Vec<Lease>> {
    Ok(store.lease(runner, ttl).await?.leases)
}

fn positions(messages: &[StoredMessage]) -> Vec<Position> {
    messages.iter().map(|stored| stored.position).collect()
}

/// Asks until another runner's leases have ended.
async fn lease_when_free<S: Store>(store: &S, runner: &RunnerId) -> Result<Vec<Lease>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let leases = lease(store, runner, LONG).await?;
        if !leases.is_empty() {
            return Ok(leases);
        }
        ensure!(Instant::now() < deadline, "no lane became free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_lane_has_one_owner<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let (first, second) = (runner("first"), runner("second"));
    let leases = lease(&store, &first, LONG).await?;
    assert!(!leases.is_empty());
    assert_eq!(lease(&store, &second, LONG).await?, []);
    // Renewing changes nothing but the end.
    assert_eq!(lease(&store, &first, LONG).await?, leases);

    // Handed back, they are free at once, and have a new epoch.
    store.release(&first, &leases).await?;
    let taken = lease(&store, &second, LONG).await?;
    assert!(!taken.is_empty());
    for lease in &taken {
        let before = leases.iter().find(|before| before.lane == lease.lane);
        assert!(before.is_some_and(|before| before.epoch < lease.epoch));
    }
    // What is not one's own can't be handed back.
    store.release(&first, &leases).await?;
    store.release(&first, &taken).await?;
    assert_eq!(lease(&store, &second, LONG).await?, taken);
    Ok(())
}

/// Also what was granted to it by an answer that it never got.
async fn who_leaves_hands_everything_back<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let (leaving, staying) = (runner("leaving"), runner("staying"));
    let leases = lease(&store, &leaving, LONG).await?;
    store.leave(&leaving).await?;
    let taken = lease(&store, &staying, LONG).await?;
    assert_eq!(taken.len(), leases.len(), "all lanes, and the whole share");
    // What is another's stays with it.
    store.leave(&leaving).await?;
    assert_eq!(lease(&store, &staying, LONG).await?, taken);
    Ok(())
}

async fn a_runner_that_lost_its_lease_cannot_settle<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let messages: Vec<_> = (0..20)
        .map(|n| Message::new("t").with_key(n.to_string()))
        .collect();
    database
        .connect()?
        .transaction(|c| publish_all(c, &messages))?;

    let (zombie, heir) = (runner("zombie"), runner("heir"));
    let old = lease(&store, &zombie, SHORT).await?;
    let read = positions(&store.read(&all_of(&old)).await?);
    assert_eq!(read.len(), 20);
    let new = lease_when_free(&store, &heir).await?;

    let held = store.settle(&zombie, &old, &read, false).await?;
    assert!(held.len() + new.len() <= old.len(), "{held:?}");
    let of_heir = |position: &Position| new.iter().any(|lease| lease.lane == position.lane);
    let left = database.waiting()? as usize;
    assert_eq!(left, read.iter().filter(|p| of_heir(p)).count());

    // Nor can it with the heir's epoch, nor the heir with the zombie's.
    assert_eq!(store.settle(&zombie, &new, &read, false).await?, []);
    assert_eq!(store.settle(&heir, &old, &read, false).await?, []);
    assert_eq!(database.waiting()? as usize, left);
    assert_eq!(store.settle(&heir, &new, &read, false).await?, new);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

/// A lease that nobody took can be renewed after its end; until then it settles nothing.
async fn an_ended_lease_settles_nothing<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let id = runner("slow");
    database
        .connect()?
        .transaction(|c| publish_all(c, [Message::new("t").with_key("k")]))?;
    let leases = lease(&store, &id, Duration::from_millis(1)).await?;
    let read = positions(&store.read(&all_of(&leases)).await?);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.settle(&id, &leases, &read, false).await?, []);
    assert_eq!(database.waiting()?, 1);
    let renewed = lease(&store, &id, LONG).await?;
    assert_eq!(store.settle(&id, &renewed, &read, false).await?, renewed);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

async fn reading_follows_the_ids_and_passes_over_what_it_has<D: Database>() -> Result<()> {
    let database = D::create()?;
    let store = database.store()?;
    let leases = lease(&store, &runner("reader"), LONG).await?;
    let messages: Vec<_> = (0..100)
        .map(|n| Message::new("t").with_key("k").with_payload(n.to_string()))
        .collect();
    database
        .connect()?
        .transaction(|c| publish_all(c, &messages))?;

    let all = store.read(&all_of(&leases)).await?;
    let sent: Vec<_> = messages.iter().collect();
    let got: Vec<_> = all.iter().map(|stored| &stored.message).collect();
    assert_eq!(got, sent);
    assert!(all.is_sorted_by_key(|stored| stored.position));
    let age = all[0].created_at.elapsed()?;
    assert!(age < Duration::from_secs(60), "{age:?}");

    let lane = all[0].position.lane;
    let next = store
        .read(&{
            let mut request = request(vec![(lane, 3)]);
            request.exclude = positions(&all[..50]);
            request
        })
        .await?;
    assert_eq!(positions(&next), positions(&all[50..53]));
    Ok(())
}

async fn without_its_tables_it_is_refused(store: impl Store) {
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("run the migrations"), "{error}");
}

outbox_tests::on_each_database!(
    async fn:
    a_lane_has_one_owner,
    who_leaves_hands_everything_back,
    a_runner_that_lost_its_lease_cannot_settle,
    an_ended_lease_settles_nothing,
    reading_follows_the_ids_and_passes_over_what_it_has,
);

#[tokio::test]
async fn sqlite_without_tables_is_refused() {
    without_its_tables_it_is_refused(outbox::store::SqliteStore::new(":memory:")).await;
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_without_tables_is_refused() -> Result<()> {
    without_its_tables_it_is_refused(Postgres::empty()?.store()?).await;
    Ok(())
}

/// Sessions that can't write would only fail later, and without a remedy.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_read_only_postgres_is_refused() -> Result<()> {
    use diesel::connection::SimpleConnection as _;

    let database = Postgres::create()?;
    let name = database.url().rsplit('/').next().unwrap_or_default();
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    database.connect()?.batch_execute(&set)?;
    let error = database.store()?.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("read-only"), "{error}");
    Ok(())
}

/// What exactly-once delivery rests on.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn batches_are_noted_by_who_holds_the_lane_and_in_the_order_of_their_numbers() -> Result<()> {
    let store = Postgres::create()?.store()?;
    let batch = |number: i64| LaneBatch {
        lane: 3,
        number,
        ids: vec![number, number + 1],
        parked: number == 2,
    };
    let (zombie, heir) = (runner("zombie"), runner("heir"));
    let old = lease(&store, &zombie, SHORT).await?;
    let of = |leases: &[Lease]| {
        leases
            .iter()
            .filter(|l| l.lane == 3)
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        store.note_batches(&zombie, &old, &[batch(1)]).await?,
        of(&old)
    );
    let new = lease_when_free(&store, &heir).await?;

    assert_eq!(store.note_batches(&zombie, &old, &[batch(2)]).await?, []);
    assert_eq!(store.noted_batches(&zombie, &of(&old)).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(1)]);
    assert_eq!(
        store.note_batches(&heir, &new, &[batch(2)]).await?,
        of(&new)
    );
    // As if an answer had been given up, and the statement came late.
    assert_eq!(store.note_batches(&heir, &new, &[batch(1)]).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(2)]);
    Ok(())
}
