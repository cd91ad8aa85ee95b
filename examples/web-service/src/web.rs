//! HTTP: what is asked for, and how it ends.

use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Router, serve as serve_http};
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::Pool;
use outbox::runner::{HealthWatch, Runner};
use outbox::sink::Sink;
use outbox::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::orders::{self, NewOrder};

#[derive(Clone)]
struct App {
    pool: Pool<AsyncPgConnection>,
    health: HealthWatch,
}

/// Serves until `shutdown`, with the runner beside it.
pub async fn serve<S: Store, K: Sink>(
    listener: TcpListener,
    pool: Pool<AsyncPgConnection>,
    runner: Runner<S, K>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let app = App {
        pool,
        health: runner.health(),
    };
    let router = Router::new()
        .route("/orders", post(place_order))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(app);

    let stop = CancellationToken::new();
    let runner = tokio::spawn(runner.run_until(stop.clone().cancelled_owned()));
    let served = serve_http(listener, router)
        .with_graceful_shutdown(shutdown)
        .await;
    // The requests are answered, so nothing is published any more. Now the runner ends, in good order.
    stop.cancel();
    println!("runner: {}", runner.await??);
    Ok(served?)
}

async fn place_order(
    State(app): State<App>,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    let mut connection = app.pool.get().await.map_err(unavailable)?;
    let order_id = orders::place(&mut connection, order)
        .await
        .map_err(not_placed)?;
    Ok((StatusCode::CREATED, order_id.to_string()))
}

/// Orders can be placed while the broker is away: they wait in the outbox. So this service is alive as long
/// as it answers and its runner runs.
async fn livez(State(app): State<App>) -> StatusCode {
    match app.health.get().is_live() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether what is placed is also delivered, and why not.
async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    let health = app.health.get();
    match health.is_ready() {
        true => (StatusCode::OK, "ready".into()),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            health.problems().join("\n"),
        ),
    }
}

/// What the database refuses is the customer's mistake; all else will pass.
fn not_placed(error: outbox::Error) -> (StatusCode, String) {
    match error {
        outbox::Error::Database(Error::DatabaseError(DatabaseErrorKind::CheckViolation, _)) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "an order costs something".into(),
        ),
        error => unavailable(error),
    }
}

fn unavailable(error: impl std::fmt::Display) -> (StatusCode, String) {
    eprintln!("{error}");
    (StatusCode::SERVICE_UNAVAILABLE, "try again later".into())
}
