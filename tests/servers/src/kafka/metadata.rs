//! The one question of Kafka's protocol that says whether a broker is ready: which brokers there
//! are. A broker is not among them before it may serve clients.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A local server answers in milliseconds, or is not ready.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Far more than a cluster of a few nodes has to say without its topics.
const MAX_ANSWER: usize = 64 * 1024;

/// A cluster, as one of its brokers knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) id: String,
    /// Their numbers.
    pub(super) brokers: Vec<i32>,
}

/// Asks the broker on `port` for its cluster.
pub(super) fn ask(port: u16) -> Result<Cluster> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&request())?;

    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).context("a negative size")?;
    if size > MAX_ANSWER {
        bail!("an answer of {size} bytes");
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    parse(&answer)
}

/// `Metadata`, version 2 (the first with the cluster's id), about no topic.
fn request() -> Vec<u8> {
    let client = b"outbox-test";
    let mut body = Vec::new();
    body.extend(3_i16.to_be_bytes()); // the key of Metadata
    body.extend(2_i16.to_be_bytes()); // its version
    body.extend(1_i32.to_be_bytes()); // the correlation id
    body.extend((client.len() as i16).to_be_bytes());
    body.extend(client);
    body.extend(0_i32.to_be_bytes()); // the number of topics
    let mut request = Vec::from((body.len() as i32).to_be_bytes());
    request.extend(body);
    request
}

fn parse(answer: &[u8]) -> Result<Cluster> {
    let mut rest = answer;
    i32(&mut rest)?; // the correlation id
    let count = i32(&mut rest)?;
    let mut brokers = Vec::new();
    for _ in 0..count {
        brokers.push(i32(&mut rest)?);
        string(&mut rest)?; // its host
        i32(&mut rest)?; // its port
        string(&mut rest)?; // its rack
    }
    let id = string(&mut rest)?;
    Ok(Cluster { id, brokers })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length).context("a short answer")?;
    *rest = left;
    Ok(taken)
}

fn i32(rest: &mut &[u8]) -> Result<i32> {
    Ok(i32::from_be_bytes(take(rest, 4)?.try_into()?))
}

/// A string, of which one that is absent is an empty one.
fn string(rest: &mut &[u8]) -> Result<String> {
    let length = i16::from_be_bytes(take(rest, 2)?.try_into()?);
    let bytes = take(rest, usize::try_from(length).unwrap_or(0))?;
    Ok(String::from_utf8(bytes.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"\0\0\0\x01\0\0\0\x01\
        \0\0\0\x07\0\x04host\0\0\x23\x84\xff\xff\
        \0\x02id\0\0\0\x07\0\0\0\0";

    #[test]
    fn an_answer_is_read() -> Result<()> {
        let expected = Cluster {
            id: "id".to_owned(),
            brokers: vec![7],
        };
        assert_eq!(parse(ANSWER)?, expected);
        Ok(())
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let end_of_id = ANSWER.len() - 8;
        for length in 0..end_of_id {
            assert!(parse(&ANSWER[..length]).is_err(), "{length}");
        }
    }
}
