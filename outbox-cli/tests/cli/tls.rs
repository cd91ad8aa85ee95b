//! TLS to the database: by a proxy that speaks it, in front of the server that all tests share.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::program::{Running, end, outbox};

/// With what a client asks for TLS, before anything else: a length, and a number that is no version.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Whoever does not ask for TLS is not served.
struct Proxy {
    address: SocketAddr,
    folder: TempDir,
    _runtime: Runtime,
}

impl Proxy {
    fn to(server: SocketAddr) -> Result<Self> {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ca.pem"), own.cert.pem())?;
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, acceptor.clone(), server));
            }
        });
        Ok(Self {
            address,
            folder,
            _runtime: runtime,
        })
    }

    fn ca(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

async fn serve(mut client: TcpStream, acceptor: TlsAcceptor, server: SocketAddr) -> Result<()> {
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    ensure!(request == REQUEST, "no TLS is asked for");
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn on(url: &str, arguments: &[&str]) -> Command {
    let mut command = outbox([]);
    command.args(arguments).env("OUTBOX_DATABASE_URL", url);
    command
}

#[test]
fn certificates_are_looked_at_before_anything_is_done() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "")?;
    let empty = empty.display().to_string();
    let url = "postgres://shop@127.0.0.1:1/shop";
    let text = end(on(url, &["status", "--database-ca", &empty]))?.failure(2)?;
    assert!(text.contains("sslmode=require"), "{text}");
    let url = &format!("{url}?sslmode=require");
    for file in [empty.as_str(), "/no/such/file"] {
        let text = end(on(url, &["status", "--database-ca", file]))?.failure(2)?;
        assert!(text.contains("holds no certificates"), "{text}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn only_a_database_for_which_somebody_vouches_is_used() -> Result<()> {
    let (database, kafka) = (Postgres::empty()?, Kafka::in_process()?);
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], database.port()?)))?;
    let plain = database.url_via(proxy.address)?;
    let url = format!("{plain}?sslmode=require");
    let ca = proxy.ca();
    let with_ca = |arguments: &[&str]| {
        let mut command = on(&url, arguments);
        command.env("OUTBOX_DATABASE_CA", &ca);
        command
    };
    end(with_ca(&["migrate", "up"]))?.success()?;
    end(with_ca(&["status"]))?.success()?;
    end(with_ca(&["doctor"]))?.success()?;
    let topic = kafka.create_topic(1)?;
    end(with_ca(&[
        "send",
        "--topic",
        topic.name(),
        "--payload",
        "x",
    ]))?
    .success()?;
    let mut running = Running::start(with_ca(&["run", "--brokers", kafka.bootstrap()]))?;
    topic.wait_for(1)?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);

    // Nobody vouches for it, or TLS is not asked for.
    for command in [on(&url, &["migrate", "status"]), on(&url, &["status"])] {
        let text = end(command)?.failure(1)?;
        assert!(text.contains("certificate"), "{text}");
    }
    end(on(&plain, &["status"]))?.failure(1)?;
    // It vouches for another name.
    let (user, place) = url.split_once("127.0.0.1").context("a host")?;
    let text = end({
        let mut command = on(&format!("{user}localhost{place}"), &["status"]);
        command.env("OUTBOX_DATABASE_CA", &ca);
        command
    })?
    .failure(1)?;
    assert!(text.contains("certificate"), "{text}");
    Ok(())
}
