//! Reading messages and giving them to the sink.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::backoff::Backoff;
use super::session::{Batch, Session};
use super::{RunError, quota, survive};
use crate::sink::Sink;
use crate::store::{Lease, ReadRequest, Store, StoredMessage};

/// The pause before the first look after work.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Reads and sends until the session ends. Batches go to `sent` in the order in which the sink
    /// took them.
    pub(super) async fn read_and_send(&self, sent: UnboundedSender<Batch>) -> Result<(), RunError> {
        let mut reader = Reader::new(self.runner.settings.batch_size);
        let mut backoff = Backoff::new();
        while self.ready_to_read().await {
            let request = reader.request(&self.leases.held(), self.tracker.exclude());
            let read = match self.runner.store.read(&request).await {
                Ok(read) => read,
                Err(error) => {
                    survive(error)?;
                    let _ = backoff.wait(&self.stop).await;
                    continue;
                }
            };
            backoff = Backoff::new();
            reader.learn(&request, &read, self.runner.settings.max_in_flight_bytes);
            // What is sent must be known before the leases end.
            if !self.leases.outlast(self.runner.sink.delivery_timeout()) {
                self.pause(SHORTEST_PAUSE).await;
                continue;
            }
            let Some(messages) = self.tracker.admit(read) else {
                continue;
            };
            if !messages.is_empty() {
                let delivery = self.runner.sink.send(&messages).await;
                let batch = Batch { messages, delivery };
                if sent.send(batch).is_err() {
                    break;
                }
            }
            if let Some(pause) = reader.pause(self.runner.settings.poll_interval) {
                self.pause(self.until_due(pause)).await;
            }
        }
        Ok(())
    }

    /// Waits for room. False when the session has ended.
    async fn ready_to_read(&self) -> bool {
        let settings = &self.runner.settings;
        let room = self.tracker.wait_until(|tracker| {
            tracker.has_room(
                settings.batch_size,
                settings.max_in_flight,
                settings.max_in_flight_bytes,
            )
        });
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = room => true,
        }
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// No longer than until a held key is due.
    fn until_due(&self, pause: Duration) -> Duration {
        match self.tracker.next_due() {
            Some(due) => pause.min(due.saturating_duration_since(Instant::now())),
            None => pause,
        }
    }
}

/// How much to read next, and when, from what the last read brought.
struct Reader {
    batch_size: usize,
    /// The most messages for the next read: fewer than `batch_size` when they are large.
    most: usize,
    last: Vec<(i16, usize, usize)>,
    brought: usize,
    empty: u32,
}

impl Reader {
    fn new(batch_size: usize) -> Self {
        Self {
            batch_size,
            most: batch_size,
            last: Vec::new(),
            brought: 0,
            empty: 0,
        }
    }

    fn request(&self, leases: &[Lease], exclude: Vec<crate::store::Position>) -> ReadRequest {
        let last = leases
            .iter()
            .map(|lease| {
                let last = self.last.iter().find(|(lane, ..)| *lane == lease.lane);
                last.map(|&(_, asked, got)| (asked, got))
            })
            .collect::<Vec<_>>();
        let quotas = quota::share(self.most, &last);
        ReadRequest {
            lanes: leases.iter().map(|lease| lease.lane).zip(quotas).collect(),
            exclude,
        }
    }

    fn learn(&mut self, request: &ReadRequest, read: &[StoredMessage], max_bytes: usize) {
        self.last = request
            .lanes
            .iter()
            .map(|&(lane, asked)| {
                let got = read.iter().filter(|m| m.position.lane == lane).count();
                (lane, asked, got)
            })
            .collect();
        self.brought = read.len();
        self.empty = match read.len() {
            0 => self.empty.saturating_add(1),
            _ => 0,
        };
        let bytes: usize = read.iter().map(|stored| stored.message.bytes()).sum();
        if let Some(mean) = bytes.checked_div(read.len()) {
            // A quarter, so that reading goes on while batches are in flight.
            self.most = (max_bytes / 4 / mean.max(1)).clamp(1, self.batch_size);
        }
    }

    /// How long to wait before the next read: not at all after a full lane, longer with every read
    /// that brought nothing.
    fn pause(&self, longest: Duration) -> Option<Duration> {
        if self.last.iter().any(|(_, asked, got)| got >= asked) {
            return None;
        }
        let pause = SHORTEST_PAUSE.saturating_mul(1 << self.empty.min(16));
        Some(pause.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Message;
    use crate::store::Position;

    const LEASES: [Lease; 2] = [Lease { lane: 0, epoch: 1 }, Lease { lane: 1, epoch: 1 }];

    fn read(lane: i16, count: usize, bytes: usize) -> Vec<StoredMessage> {
        let message = |id| StoredMessage {
            position: Position { lane, id },
            message: Message::new("t").with_payload(vec![0; bytes]),
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        (0..count as i64).map(message).collect()
    }

    #[test]
    fn pauses_only_without_work() {
        let second = Duration::from_secs(1);
        let mut reader = Reader::new(10);
        let request = reader.request(&LEASES, Vec::new());
        reader.learn(&request, &read(0, 5, 1), 1 << 20);
        assert_eq!(
            reader.pause(second),
            None,
            "a full lane is read again at once"
        );

        let request = reader.request(&LEASES, Vec::new());
        reader.learn(&request, &read(0, 1, 1), 1 << 20);
        assert_eq!(reader.pause(second), Some(SHORTEST_PAUSE));

        let mut pauses = Vec::new();
        for _ in 0..20 {
            let request = reader.request(&LEASES, Vec::new());
            reader.learn(&request, &[], 1 << 20);
            pauses.extend(reader.pause(second));
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[19]), (2 * SHORTEST_PAUSE, second));
    }

    #[test]
    fn large_messages_are_read_in_smaller_batches() {
        let mut reader = Reader::new(1_000);
        let request = reader.request(&LEASES, Vec::new());
        reader.learn(&request, &read(0, 10, 1_000), 400_000);
        let next = reader.request(&LEASES, Vec::new());
        let most: usize = next.lanes.iter().map(|(_, most)| most).sum();
        assert!((50..=150).contains(&most), "{next:?}");
    }
}
