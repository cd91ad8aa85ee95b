//! A TCP proxy that fails as networks do.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the proxy does to connections, those that are open and those that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Whatever is sent arrives so much later, in both directions.
    Latency(Duration),
    /// Open connections are closed, new ones refused.
    Down,
    /// Open connections are reset, and so are new ones as soon as they are there.
    Reset,
    /// Connections stay open, or are opened, but nothing arrives any more. Those that have lost something
    /// carry nothing afterwards either: what follows a gap never arrives on a connection of TCP.
    BlackHole,
    /// What is sent in this direction waits until there is another fault.
    Hold(Direction),
    /// After so many more bytes in this direction, on whichever connections, the one that carries the
    /// last of them is closed, at this very byte. That happens once: others go on, and new ones work.
    CutAfter(Direction, u64),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// A proxy on 127.0.0.1, on a port of its own. Dropping it closes all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    /// Its tasks end with it.
    _runtime: Runtime,
}

#[derive(Clone, Copy, Debug)]
struct State {
    fault: Fault,
    /// How often open connections were closed.
    closed: u64,
    /// What is left of the bytes of `CutAfter`.
    budget: u64,
    /// How many connections have something to carry that waits.
    held: usize,
}

impl Proxy {
    /// A proxy to this server, without a fault.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub fn to(server: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State {
            fault: Fault::None,
            closed: 0,
            budget: 0,
            held: 0,
        }));
        runtime.spawn(listen(listener, address, server, state.clone()));
        Ok(Self {
            address,
            state,
            _runtime: runtime,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the fault.
    pub fn set(&self, fault: Fault) {
        self.state.send_modify(|state| {
            state.fault = fault;
            match fault {
                Fault::Down | Fault::Reset => state.closed += 1,
                Fault::CutAfter(_, bytes) => state.budget = bytes,
                _ => {}
            }
        });
    }

    /// Whether something waits that was sent.
    pub fn holds(&self) -> bool {
        self.state.borrow().held > 0
    }

    /// The fault at present: a cut is over when it has happened.
    pub fn fault(&self) -> Fault {
        self.state.borrow().fault
    }
}

async fn listen(
    listener: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
    state: Arc<watch::Sender<State>>,
) {
    let mut listener = Some(listener);
    let mut changes = state.subscribe();
    loop {
        let down = changes.borrow_and_update().fault == Fault::Down;
        if down {
            // Only a port where nobody listens refuses.
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept => if let Ok((client, _)) = accepted {
                tokio::spawn(serve(client, server, state.clone()));
            },
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// One connection, from its beginning to its end.
async fn serve(client: TcpStream, server: SocketAddr, state: Arc<watch::Sender<State>>) {
    let mut changes = state.subscribe();
    let State { fault, closed, .. } = *changes.borrow();
    if fault == Fault::Reset {
        reset(&client);
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    tokio::select! {
        () = pump(&client, &server, Direction::ToServer, &state) => {}
        () = pump(&server, &client, Direction::ToClient, &state) => {}
        _ = changes.wait_for(|state| state.closed > closed) => {}
    }
    if state.borrow().fault == Fault::Reset {
        reset(&client);
        reset(&server);
    }
}

/// Carries bytes one way until the connection is to be closed.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    state: &watch::Sender<State>,
) {
    let mut buffer = [0; 16 << 10];
    let mut gap = false;
    while let Ok(count @ 1..) = receive(from, &mut buffer).await {
        let fault = state.borrow().fault;
        gap |= fault == Fault::BlackHole;
        let (carried, cut) = match fault {
            _ if gap => (0, false),
            Fault::CutAfter(of, _) if of == direction => spend(state, count),
            _ => (count, false),
        };
        match fault {
            Fault::Latency(latency) => tokio::time::sleep(latency).await,
            Fault::Hold(of) if of == direction => {
                state.send_modify(|state| state.held += 1);
                let mut changes = state.subscribe();
                // The proxy lives, or nobody would be here.
                let _ = changes.wait_for(|state| state.fault != fault).await;
                state.send_modify(|state| state.held -= 1);
            }
            _ => {}
        }
        if send(to, &buffer[..carried]).await.is_err() || cut {
            return;
        }
    }
}

/// Takes bytes from the budget of a cut: how many may pass, and whether the cut is here.
fn spend(state: &watch::Sender<State>, count: usize) -> (usize, bool) {
    let mut spent = (count, false);
    state.send_if_modified(|state| {
        // Another connection may have been cut meanwhile.
        if !matches!(state.fault, Fault::CutAfter(..)) {
            return false;
        }
        let carried = state.budget.min(count as u64);
        state.budget -= carried;
        if state.budget == 0 {
            spent = (carried as usize, true);
            state.fault = Fault::None;
        }
        spent.1
    });
    spent
}

async fn receive(from: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn send(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets the system send a reset when the socket is closed.
fn reset(socket: &TcpStream) {
    // At worst it is closed in good order.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Long enough on any machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A proxy to a server that sends back what it gets.
    fn echo() -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = Proxy::to(listener.local_addr()?)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Ok(proxy)
    }

    fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn ask(mut stream: &TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn it_passes_on_what_it_gets_and_later_if_told_so() -> Result<()> {
        let proxy = echo()?;
        let stream = connect(&proxy)?;
        assert_eq!(ask(&stream, b"soon")?, b"soon");
        let latency = Duration::from_millis(30);
        proxy.set(Fault::Latency(latency));
        let begin = Instant::now();
        assert_eq!(ask(&stream, b"late")?, b"late");
        assert!(begin.elapsed() >= 2 * latency);
        Ok(())
    }

    #[test]
    fn while_it_is_down_it_refuses_and_then_it_is_back() -> Result<()> {
        let proxy = echo()?;
        let stream = connect(&proxy)?;
        assert_eq!(ask(&stream, b"a")?, b"a");
        proxy.set(Fault::Down);
        assert_eq!((&stream).read(&mut [0])?, 0, "it is closed");
        let deadline = Instant::now() + LIMIT;
        while connect(&proxy).is_ok() {
            assert!(Instant::now() < deadline);
        }
        let error = connect(&proxy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        proxy.set(Fault::None);
        let stream = loop {
            match connect(&proxy) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        assert_eq!(ask(&stream, b"b")?, b"b");
        Ok(())
    }

    #[test]
    fn it_resets_connections() -> Result<()> {
        let proxy = echo()?;
        let stream = connect(&proxy)?;
        assert_eq!(ask(&stream, b"a")?, b"a");
        proxy.set(Fault::Reset);
        let error = (&stream).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        Ok(())
    }

    #[test]
    fn what_it_holds_arrives_later() -> Result<()> {
        let proxy = echo()?;
        let mut stream = connect(&proxy)?;
        assert_eq!(ask(&stream, b"a")?, b"a");
        proxy.set(Fault::Hold(Direction::ToClient));
        stream.write_all(b"b")?;
        let deadline = Instant::now() + LIMIT;
        while !proxy.holds() {
            assert!(Instant::now() < deadline);
        }
        stream.set_nonblocking(true)?;
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        stream.set_nonblocking(false)?;
        proxy.set(Fault::None);
        assert_eq!(ask(&stream, b"c")?, b"b");
        Ok(())
    }

    #[test]
    fn a_black_hole_swallows_everything() -> Result<()> {
        let proxy = echo()?;
        let (gap, whole) = (connect(&proxy)?, connect(&proxy)?);
        assert_eq!(ask(&gap, b"a")?, b"a");
        proxy.set(Fault::BlackHole);
        (&gap).write_all(b"b")?;
        let is_silent = || -> Result<()> {
            gap.set_read_timeout(Some(Duration::from_millis(50)))?;
            let error = (&gap).read(&mut [0]).unwrap_err();
            let silence = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
            assert!(silence.contains(&error.kind()), "{error}");
            Ok(())
        };
        is_silent()?;
        proxy.set(Fault::None);
        (&gap).write_all(b"c")?;
        // What has lost nothing goes on.
        assert_eq!(ask(&whole, b"d")?, b"d");
        is_silent()
    }

    #[test]
    fn it_cuts_at_the_very_byte_and_once() -> Result<()> {
        let proxy = echo()?;
        for direction in [Direction::ToServer, Direction::ToClient] {
            let (cut, other) = (connect(&proxy)?, connect(&proxy)?);
            assert_eq!(ask(&cut, b"123")?, b"123");
            proxy.set(Fault::CutAfter(direction, 5));
            assert_eq!(ask(&cut, b"456")?, b"456");
            (&cut).write_all(b"789")?;
            let mut rest = Vec::new();
            // Closed with unread bytes, it may be a reset.
            let _ = (&cut).read_to_end(&mut rest);
            assert!(b"78".starts_with(&rest), "{rest:?}");
            assert_eq!(proxy.fault(), Fault::None);
            assert_eq!(ask(&other, b"abcdef")?, b"abcdef");
        }
        Ok(())
    }
}
