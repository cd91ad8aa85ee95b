//! On a PostgreSQL of their own.

use anyhow::Result;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use outbox::runner::Runner;
use outbox::store::PostgresStore;
use outbox::testing::{RecordingSink, TestConnection as _, assert_published, refute_published};
use outbox_test_servers::Postgres;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::orders::{self, NewOrder, OrderPlaced};

/// In a transaction that is never committed.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn an_order_is_announced_if_it_is_placed() -> Result<()> {
    let server = Postgres::start(&[])?;
    crate::migrate(&server.url()).await?;
    let conn = &mut AsyncPgConnection::establish(&server.url()).await?;
    conn.begin_test_transaction().await?;

    let order = |total_cents| NewOrder {
        customer: "ada".into(),
        total_cents,
    };
    let placed = orders::place(conn, order(4_200)).await?;
    let event = assert_published!(conn, OrderPlaced { order_id, .. } if *order_id == placed).await;
    assert_eq!(event.customer, "ada");

    orders::place(conn, order(0)).await.unwrap_err();
    refute_published!(conn, OrderPlaced { total_cents: 0, .. }).await;
    assert_eq!(conn.published::<OrderPlaced>().await.len(), 1);
    Ok(())
}

/// Over HTTP, with a runner whose broker is a record.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_is_placed_over_http_is_delivered_before_the_service_ends() -> Result<()> {
    let server = Postgres::start(&[])?;
    crate::migrate(&server.url()).await?;
    let sink = RecordingSink::new();
    let runner = Runner::builder(PostgresStore::new(server.url())?, sink.clone()).build()?;
    let mut health = runner.health();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let base = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let service = tokio::spawn(crate::web::serve(
        listener,
        crate::pool(server.url())?,
        runner,
        async {
            stopped.await.ok();
        },
    ));

    let client = reqwest::Client::new();
    let order = json!({ "customer": "ada", "total_cents": 4_200 });
    let answer = client.post(format!("{base}/orders")).json(&order).send();
    assert_eq!(answer.await?.status(), 201);
    let nothing = json!({ "customer": "ada", "total_cents": 0 });
    let answer = client.post(format!("{base}/orders")).json(&nothing).send();
    assert_eq!(answer.await?.status(), 422);
    let delivered = sink.wait_until(|delivered| delivered.len() == 1).await;
    assert_eq!(delivered[0].key(), Some(&b"ada"[..]));

    health.wait_for(|health| health.is_ready()).await;
    for probe in ["livez", "readyz"] {
        let answer = client.get(format!("{base}/{probe}")).send().await?;
        assert_eq!(answer.status(), 200, "{probe}");
    }
    drop(client);
    drop(stop);
    service.await?
}
