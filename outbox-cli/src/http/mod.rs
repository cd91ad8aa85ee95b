//! `outbox run --http`: probes, metrics and the status page.

mod access;
mod operate;
mod page;
mod probes;
mod status;
mod throughput;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};
use outbox::operator::Operator;
use outbox::runner::HealthWatch;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use self::access::Access;
use self::throughput::Throughput;
use crate::failure::Failure;
use crate::settings::{HTTP, HTTP_ACCESS, HTTP_TOKEN, HTTP_TOKEN_FILE, Settings, one_of};

/// The most that is read of a request.
const LONGEST_BODY: usize = 16 << 10;

/// Where to listen, and who may do what there.
pub(crate) struct Http {
    address: SocketAddr,
    access: Access,
}

/// What the routes share.
type Shared = Arc<State>;

struct State {
    access: Access,
    health: HealthWatch,
    operator: Operator,
    registry: Registry,
    throughput: Throughput,
    answer: Mutex<status::Answer>,
}

impl Http {
    /// What the settings ask for, or `None`: nothing, or nothing that can be.
    pub(crate) fn from_settings(settings: &mut Settings) -> Option<Self> {
        if !settings.has(&HTTP) {
            for setting in [&HTTP_ACCESS, &HTTP_TOKEN, &HTTP_TOKEN_FILE] {
                if settings.has(setting) {
                    let origin = settings.origin(setting);
                    settings.invalid(format!(
                        "{origin} is set, but has no effect unless `{}` is",
                        HTTP.name
                    ));
                }
            }
            return None;
        }
        let address = settings.value(&HTTP, address);
        let token = token(settings);
        let words = [("read", false), ("operate", true)];
        let operate = settings.value(&HTTP_ACCESS, |text| one_of(&words, text));
        let (address, token) = (address?, token.ok()?);
        let access = Access::new(address, token, operate).map_err(|why| {
            let origin = settings.origin(&HTTP_ACCESS);
            settings.invalid(format!("{origin} is {why}"));
        });
        Some(Self {
            address,
            access: access.ok()?,
        })
    }

    /// Listens. What is returned answers for as long as it is polled.
    pub(crate) async fn serve(
        self,
        health: HealthWatch,
        operator: Operator,
        registry: Registry,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
        let failure = |error| {
            let origin = HTTP.name;
            Failure::Failed(format!(
                "`{origin}`: {} can't be listened at: {error}",
                self.address
            ))
        };
        let listener = TcpListener::bind(self.address).await.map_err(failure)?;
        let address = listener.local_addr().map_err(failure)?;
        tracing::info!("the status page is at http://{address}");
        if self.access.is_open() {
            tracing::warn!(
                "whoever can connect to {address} sees keys and errors: set `OUTBOX_HTTP_TOKEN` or \
                 `--http-token-file`"
            );
        }
        let shared = Arc::new(State {
            access: self.access,
            health,
            operator,
            registry,
            throughput: Throughput::default(),
            answer: Mutex::default(),
        });
        let routes = routes(shared.clone());
        Ok(async move {
            let serve = axum::serve(listener, routes);
            let follow = shared.throughput.follow(&shared.registry);
            tokio::select! {
                // It only ends when the process does.
                _ = serve.into_future() => {}
                () = follow => {}
            }
        })
    }
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/status.json", get(status::status))
        .route("/operate", post(operate::operate))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(
            shared.clone(),
            access::guard,
        ))
        .with_state(shared)
}

/// An address, or a port of the loopback address.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = || {
        let port = text.parse().ok()?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let address = port().or_else(|| text.parse().ok());
    address.ok_or_else(|| {
        "a port of this machine is expected, as 9090, or an address, as 0.0.0.0:9090".to_owned()
    })
}

/// The token, by whichever way it was given.
fn token(settings: &mut Settings) -> Result<Option<String>, ()> {
    if settings.has(&HTTP_TOKEN) && settings.has(&HTTP_TOKEN_FILE) {
        let (one, other) = (
            settings.origin(&HTTP_TOKEN),
            settings.origin(&HTTP_TOKEN_FILE),
        );
        settings.invalid(format!(
            "{one} and {other} are both set; which one is meant?"
        ));
        return Err(());
    }
    let read = |path: &str| {
        let content = fs::read_to_string(path);
        let content = content.map_err(|e| format!("it can't be read: {e}"))?;
        access::token(&content).map_err(|expected| format!("in it {expected}"))
    };
    let given = settings.has(&HTTP_TOKEN) || settings.has(&HTTP_TOKEN_FILE);
    let token = settings.value(&HTTP_TOKEN, access::token);
    let token = token.or_else(|| settings.value(&HTTP_TOKEN_FILE, read));
    match (given, token) {
        (true, None) => Err(()),
        (_, token) => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_of_this_machine() {
        assert_eq!(
            address("9090"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 9090)))
        );
        assert_eq!(
            address("0.0.0.0:1"),
            Ok(SocketAddr::from(([0, 0, 0, 0], 1)))
        );
        for text in ["", "99999", "localhost", "localhost:9090", ":9090"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
