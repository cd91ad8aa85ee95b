//! Free ports.

use anyhow::{Context, Result};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the ports that Linux and macOS give to outgoing connections. A port among those could be
/// taken by a client while the server that it belongs to is down; worse, a client that tries again
/// and again to reach a port where nobody listens may be given that very port as its own, and is
/// then connected to itself.
const RANGE: Range<u16> = 20_000..32_000;

/// How often a server is started anew on other ports.
const ATTEMPTS: usize = 5;

/// Starts something on ports that were free a moment ago.
///
/// Nothing reserves a port for another program: between the look and the server's own bind anybody
/// may take it. `start` is therefore called again when its error says so.
pub(crate) fn with_free<const N: usize, T>(
    mut start: impl FnMut([u16; N]) -> Result<T>,
) -> Result<T> {
    let mut attempt = 1;
    loop {
        match start(free()?) {
            Err(error) if attempt < ATTEMPTS && is_taken(&error) => attempt += 1,
            done => return done,
        }
    }
}

/// Different ports, all of them free now.
fn free<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // Held until all are found, so that none is found twice.
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = listen().context("no port of 127.0.0.1 is free")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn listen() -> Option<TcpListener> {
    // From a random place, so that harnesses that start at the same time look at different ports.
    let length = usize::from(RANGE.end - RANGE.start);
    let first = usize::try_from(RandomState::new().hash_one(0) % u64::from(RANGE.end)).ok()?;
    RANGE
        .cycle()
        .skip(first % length)
        .take(length)
        .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
}

/// Whether a server failed to start because somebody else has its port. The text is the operating
/// system's, as PostgreSQL and Java pass it on.
fn is_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}")
        .to_lowercase()
        .contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn ports_differ_and_can_be_bound() -> Result<()> {
        let [a, b] = free()?;
        assert_ne!(a, b);
        TcpListener::bind((Ipv4Addr::LOCALHOST, a))?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, b))?;
        Ok(())
    }

    #[test]
    fn a_taken_port_is_tried_again_on_another() -> Result<()> {
        let mut calls = 0;
        with_free(|[_]| {
            calls += 1;
            if calls < 3 {
                bail!("could not bind: Address already in use");
            }
            Ok(())
        })?;
        assert_eq!(calls, 3);
        Ok(())
    }

    #[test]
    fn other_errors_and_eternally_taken_ports_are_reported() {
        for (text, expected) in [("no space left", 1), ("Address already in use", ATTEMPTS)] {
            let mut calls = 0;
            let result: Result<()> = with_free(|[_]| {
                calls += 1;
                bail!("{text}")
            });
            assert!(result.is_err());
            assert_eq!(calls, expected, "{text}");
        }
    }
}
