//! Connections, with TLS or without.

use std::sync::Arc;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, poll_fn};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Error, Socket};

use super::{Cause, StoreError};

/// What the server sends unasked. The stream drives the connection: it must be polled.
pub(super) type Messages = BoxStream<'static, Result<AsyncMessage, Error>>;

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) config: Config,
    pub(super) tls: Arc<dyn Tls>,
}

impl Connector {
    pub(super) async fn connect(&self) -> Result<(Client, Messages), StoreError> {
        let connected = self.tls.connect(&self.config).await;
        connected.map_err(|e| StoreError::unavailable(format!("{}: {}", self.place(), Cause(e))))
    }

    /// Where it connects to, as `host:port,host:port/database`.
    fn place(&self) -> String {
        const PORT: u16 = 5432;
        let (hosts, ports) = (self.config.get_hosts(), self.config.get_ports());
        let names: Vec<_> = match hosts.is_empty() {
            true => (self.config.get_hostaddrs().iter().map(ToString::to_string)).collect(),
            false => hosts.iter().map(name).collect(),
        };
        let port = |number: usize| ports.get(number).or(ports.first()).unwrap_or(&PORT);
        let servers = names.iter().enumerate();
        let servers = servers.map(|(number, name)| format!("{name}:{}", port(number)));
        let servers = servers.collect::<Vec<_>>().join(",");
        match self.config.get_dbname() {
            Some(database) => format!("{servers}/{database}"),
            None => servers,
        }
    }
}

fn name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(directory) => directory.display().to_string(),
    }
}

/// The kind of TLS, without its type.
pub(super) trait Tls: Send + Sync {
    fn connect<'a>(
        &'a self,
        config: &'a Config,
    ) -> BoxFuture<'a, Result<(Client, Messages), Error>>;
}

impl<T> Tls for T
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn connect<'a>(
        &'a self,
        config: &'a Config,
    ) -> BoxFuture<'a, Result<(Client, Messages), Error>> {
        async move {
            let (client, mut connection) = config.connect(self.clone()).await?;
            let messages = poll_fn(move |context| connection.poll_message(context));
            Ok((client, messages.boxed()))
        }
        .boxed()
    }
}

/// Makes a pool of it.
impl Manager for Connector {
    type Type = Client;
    type Error = StoreError;

    async fn create(&self) -> Result<Client, StoreError> {
        let (client, mut messages) = self.connect().await?;
        // It ends when the client is dropped, or the server gone.
        tokio::spawn(async move { while let Some(Ok(_)) = messages.next().await {} });
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<StoreError> {
        match client.is_closed() {
            true => Err(RecycleError::message("closed")),
            false => Ok(()),
        }
    }
}
