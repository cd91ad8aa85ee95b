//! Reading messages, and admitting those that may be sent.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::pace::Pace;
use super::quota::{self, Look};
use super::session::{Batch, Origin, Session};
use super::tracker::Admitted;
use super::waking::{Rest, Sleep};
use super::{RunError, survive};
use crate::sink::Sink;
use crate::store::{Lease, Parking, ReadRequest, Store, StoreError, StoredMessage};

/// In how many turns deep lanes are read for transactions.
const TURNS: usize = 4;

/// Lanes that are on their way are in general read again before that, so writers are not told of a shorter pause.
const SOON: Duration = Duration::from_millis(250);

/// How often parked messages are looked for that are due.
const LOOK_FOR_DUE: Duration = Duration::from_millis(500);

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Reads until the session ends. Batches go to `to_send` in the order in which they were admitted.
    pub(super) async fn read(&self, to_send: mpsc::Sender<Batch>) -> Result<(), RunError> {
        let mut reader = Reader::new(Instant::now());
        let mut backoff = Backoff::new();
        let mut sleep = Sleep::default();
        while self.ready_to_read().await {
            match self.look(&mut reader, &to_send).await {
                Ok(()) => backoff = Backoff::new(),
                Err(error) => {
                    survive(error)?;
                    let _ = backoff.wait(&self.stop).await;
                    continue;
                }
            }
            if reader.found_work() && reader.pace.is_brisk() {
                self.get_up(&mut sleep).await;
            }
            let Some(pause) = reader.pause(self.runner.settings.poll_interval) else {
                continue;
            };
            let pause = match reader.found_work() {
                // Nor do looks take more than half of the time while there is work.
                true => pause.max(reader.took),
                // Where much waits that must not be sent, looking takes long: not more than a fifth of the time.
                false => pause.max(reader.took * 4),
            };
            let soon = reader.found_work() || pause < SOON && self.tracker.has_busy_lanes();
            let rest = match soon {
                true => Rest::Wait(pause),
                false => self.lie_down(&mut sleep, pause).await,
            };
            match rest {
                Rest::Wait(pause) if self.tracker.has_parked() => {
                    self.doze(pause.min(LOOK_FOR_DUE), &reader.seen).await;
                }
                Rest::Wait(pause) => self.doze(pause, &reader.seen).await,
                Rest::LookAgain => {}
            }
        }
        self.get_up(&mut sleep).await;
        Ok(())
    }

    /// Waits for room, and for leases that last. False when the session has ended.
    async fn ready_to_read(&self) -> bool {
        let settings = &self.runner.settings;
        let ready = self.tracker.wait_until(|tracker| {
            self.leases_outlast_delivery()
                && tracker.has_room(
                    settings.batch_size,
                    settings.max_in_flight,
                    settings.max_in_flight_bytes,
                )
        });
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = ready => true,
        }
    }

    /// Admits what is due, if it is time to, and what is new.
    async fn look(
        &self,
        reader: &mut Reader,
        to_send: &mpsc::Sender<Batch>,
    ) -> Result<(), StoreError> {
        if reader.look_for_due_at <= Instant::now() {
            // First, or under load there would be no lane left of which something can be admitted.
            self.admit_due(reader, to_send).await?;
        }
        self.step(reader, to_send).await
    }

    /// One read, and what comes of it.
    #[tracing::instrument(name = "read", level = "debug", skip_all)]
    async fn step(
        &self,
        reader: &mut Reader,
        to_send: &mpsc::Sender<Batch>,
    ) -> Result<(), StoreError> {
        let runner = self.runner;
        reader.took = Duration::ZERO;
        let (leases, exclude) = self.tracker.begin_read();
        let lanes: Vec<_> = leases.iter().map(|lease| lease.lane).collect();
        reader.seen.clone_from(&lanes);
        let topics = self.topics().filter(|_| !leases.is_empty());
        let Some(topics) = topics else {
            reader.brought_nothing(&[]);
            return Ok(());
        };
        let lanes = match runner.sink.transactions() {
            None => reader.quotas(runner.settings.batch_size, &lanes),
            Some(_) => self.in_turns(reader, lanes),
        };
        let request = ReadRequest {
            // With 0, nothing would be read.
            max_bytes: (self.bytes_at_once() / lanes.len().max(1)).max(1),
            lanes,
            exclude,
            topics,
        };
        let begin = Instant::now();
        let read = runner.ask(runner.store.read(&request)).await?;
        reader.took = begin.elapsed();
        reader.learn(&request, &read);
        tracing::trace!(lanes = request.lanes.len(), messages = read.len(), "read");
        if self.stop.is_cancelled() || !self.leases_outlast_delivery() {
            return Ok(());
        }
        let Some(admitted) = self.admit(&leases, read).await else {
            return Ok(());
        };
        if admitted.to_send.is_empty() {
            // Unless some of it was parked, all of it waits for something else.
            if admitted.to_park.is_empty() {
                reader.brought_nothing(&request.lanes);
            }
            return Ok(());
        }
        runner.metrics.began(admitted.to_send.len());
        let batch = Batch {
            number: admitted.number,
            origin: Origin::Outbox,
            leases: admitted.leases,
            messages: admitted.to_send,
        };
        // It is open as long as this loop is.
        let _ = to_send.send(batch).await;
        Ok(())
    }

    /// How much is read at once: a quarter of what may be in flight, so that reading goes on meanwhile.
    fn bytes_at_once(&self) -> usize {
        self.runner.settings.max_in_flight_bytes / 4
    }

    /// What to read for transactions. A lane commits one batch after the other, and each takes its time, so
    /// that batches are large; and only a part of the deep lanes at once, so that some commit while others
    /// are read and settled.
    fn in_turns(&self, reader: &mut Reader, lanes: Vec<i16>) -> Vec<(i16, usize)> {
        let in_flight = self.runner.settings.max_in_flight;
        let own = self.tracker.leases().len();
        let lanes = reader.take_turns(own.div_ceil(TURNS), lanes);
        let most = self.tracker.room(in_flight).min(in_flight / TURNS);
        let quotas = reader.quotas(most, &lanes).into_iter();
        quotas
            .map(|(lane, quota)| (lane, self.tracker.at_once(lane, quota)))
            .collect()
    }

    /// Sorts what was read into what is sent and what is parked, and parks the latter.
    async fn admit(&self, leases: &[Lease], read: Vec<StoredMessage>) -> Option<Admitted> {
        let _parking = self.parking.lock().await;
        let admitted = self.tracker.admit(leases, read)?;
        let behind = admitted.to_park.iter().map(|stored| Parking {
            position: stored.position,
            refusal: None,
        });
        let defective = admitted
            .defective
            .iter()
            .map(|stored| self.refuse(stored, stored.defect.as_deref().unwrap_or_default(), 1));
        let parking: Vec<_> = defective.chain(behind).collect();
        if !parking.is_empty()
            && let Err(error) = self.park(&admitted.leases, &parking).await
        {
            // They may be parked all the same, so their keys stay held: what is read of them again queues up
            // there. What was admitted besides goes on.
            tracing::warn!("messages could not be parked: {error}");
            self.tracker.something_is_parked();
        }
        Some(admitted)
    }

    /// Admits the first messages of parked keys again that are due.
    #[tracing::instrument(name = "retry", level = "debug", skip_all)]
    async fn admit_due(
        &self,
        reader: &mut Reader,
        to_send: &mpsc::Sender<Batch>,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        reader.looked_for_due(begun, begun);
        let Some(topics) = self.topics().filter(|_| self.tracker.has_parked()) else {
            return Ok(());
        };
        let runner = self.runner;
        // Lanes that are taken from now on are not asked about.
        let parkings = self.tracker.parkings();
        let mut leases = self.tracker.leases();
        // What is due of the others would be in the way of what can be tried.
        let readable = self.tracker.readable_lanes();
        if readable.is_empty() {
            return Ok(());
        }
        let most = runner.settings.batch_size;
        // One that is on its way may be settled, and moved, before the answer is there.
        let in_flight = self.tracker.in_flight();
        let due = runner
            .store
            .due(&readable, &topics, most, self.bytes_at_once());
        let due = runner.ask(due).await;
        reader.looked_for_due(begun, Instant::now());
        let mut due = due?;
        if due.is_empty() && !self.tracker.has_parked_keys() {
            let lanes: Vec<_> = leases.iter().map(|lease| lease.lane).collect();
            let parked = runner.ask(runner.store.parked_keys(&lanes)).await;
            reader.looked_for_due(begun, Instant::now());
            if parked?.is_empty() {
                self.tracker.nothing_was_parked(parkings);
            }
        }
        due.retain(|due| !in_flight.contains(&due.stored.position));
        if self.stop.is_cancelled() || !self.leases_outlast_delivery() {
            return Ok(());
        }
        let Some((number, due)) = self.tracker.admit_due(due) else {
            return Ok(());
        };
        let (messages, attempts): (Vec<StoredMessage>, Vec<_>) = due
            .into_iter()
            .map(|due| (due.stored, due.attempts))
            .unzip();
        let concerned = |lease: &Lease| messages.iter().any(|m| m.position.lane == lease.lane);
        leases.retain(concerned);
        runner.metrics.began(messages.len());
        let batch = Batch {
            number,
            origin: Origin::Parked(attempts),
            leases,
            messages,
        };
        let _ = to_send.send(batch).await;
        Ok(())
    }
}

/// How much to read next, and when, from what the last reads brought.
struct Reader {
    pace: Pace,
    last: BTreeMap<i16, Look>,
    /// The deep lane that was read last, where not all of them are read at once.
    turn: i16,
    /// The lanes that could be read the last time.
    seen: Vec<i16>,
    /// How long the database took for the last read. What sinks take is none of it.
    took: Duration,
    look_for_due_at: Instant,
    /// Whether the last read left anything.
    more: bool,
    empty: u32,
}

impl Reader {
    fn new(now: Instant) -> Self {
        Self {
            pace: Pace::new(now),
            last: BTreeMap::new(),
            turn: 0,
            seen: Vec::new(),
            took: Duration::ZERO,
            look_for_due_at: now,
            more: false,
            empty: 0,
        }
    }

    fn quotas(&self, most: usize, lanes: &[i16]) -> Vec<(i16, usize)> {
        let last: Vec<_> = lanes
            .iter()
            .map(|lane| self.last.get(lane).copied())
            .collect();
        let quotas = quota::share(most, &last);
        lanes.iter().copied().zip(quotas).collect()
    }

    /// Whether the last read has left something of a lane.
    fn is_deep(&self, lane: i16) -> bool {
        self.last.get(&lane).is_some_and(Look::is_deep)
    }

    /// Leaves out deep lanes beyond so many, each time others. Those that had little cost little.
    fn take_turns(&mut self, most: usize, lanes: Vec<i16>) -> Vec<i16> {
        let (mut deep, mut chosen): (Vec<_>, Vec<_>) =
            lanes.into_iter().partition(|&lane| self.is_deep(lane));
        deep.sort_by_key(|&lane| (lane <= self.turn, lane));
        self.more = deep.len() > most;
        deep.truncate(most);
        self.turn = deep.last().copied().unwrap_or(self.turn);
        chosen.append(&mut deep);
        chosen
    }

    fn learn(&mut self, request: &ReadRequest, read: &[StoredMessage]) {
        for &(lane, asked) in &request.lanes {
            self.last.insert(lane, Look::new(asked, request.max_bytes));
        }
        for messages in read.chunk_by(|a, b| a.position.lane == b.position.lane) {
            if let Some(first) = messages.first()
                && let Some(look) = self.last.get_mut(&first.position.lane)
            {
                for stored in messages {
                    look.brought(stored.position.id, stored.message.bytes());
                }
            }
        }
        self.more |= request.lanes.iter().any(|&(lane, _)| self.is_deep(lane));
        self.pace.came(read.len(), Instant::now());
        match read.len() {
            0 => self.brought_nothing(&request.lanes),
            _ => self.empty = 0,
        }
    }

    /// The last read, of these lanes, brought nothing that could be sent.
    fn brought_nothing(&mut self, lanes: &[(i16, usize)]) {
        for (lane, _) in lanes {
            self.last.remove(lane);
        }
        self.empty = self.empty.saturating_add(1);
    }

    /// Where many keys are parked, looking takes long, and nothing is read meanwhile: not more than a fifth of the time.
    fn looked_for_due(&mut self, begun: Instant, ended: Instant) {
        self.look_for_due_at = begun + LOOK_FOR_DUE.max((ended - begun) * 5);
    }

    fn found_work(&self) -> bool {
        self.empty == 0
    }

    /// How long to wait before the next read: not at all after a full lane, longer with every read
    /// that brought nothing.
    fn pause(&mut self, longest: Duration) -> Option<Duration> {
        if std::mem::take(&mut self.more) && self.found_work() {
            return None;
        }
        let pause = self.pace.pause().saturating_mul(1 << self.empty.min(16));
        Some(pause.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Message;
    use crate::store::Position;

    fn read(lane: i16, count: i64) -> Vec<StoredMessage> {
        let message = |id| StoredMessage {
            position: Position { lane, id },
            message: Message::new("t"),
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        (0..count).map(message).collect()
    }

    fn request(reader: &Reader) -> ReadRequest {
        ReadRequest {
            lanes: reader.quotas(10, &[0, 1]),
            max_bytes: usize::MAX,
            ..ReadRequest::default()
        }
    }

    /// One message of this lane.
    fn of(lane: i16) -> ReadRequest {
        ReadRequest {
            lanes: vec![(lane, 1)],
            max_bytes: usize::MAX,
            ..ReadRequest::default()
        }
    }

    #[test]
    fn pauses_only_without_work() {
        let second = Duration::from_secs(1);
        let mut reader = Reader::new(Instant::now());
        let first = request(&reader);
        assert_eq!(first.lanes, [(0, 5), (1, 5)]);
        reader.learn(&first, &read(0, 5));
        assert_eq!(
            reader.pause(second),
            None,
            "a full lane is read again at once"
        );
        let next = request(&reader);
        assert!(next.lanes[0].1 > 5, "and deeper: {next:?}");

        reader.learn(&next, &read(0, 1));
        let after_work = reader.pause(second);
        assert_eq!(after_work, Some(reader.pace.pause()));

        let mut pauses = Vec::new();
        for _ in 0..20 {
            let next = request(&reader);
            reader.learn(&next, &[]);
            pauses.extend(reader.pause(second));
        }
        assert!(pauses.is_sorted());
        assert_eq!(Some(pauses[0] / 2), after_work);
        assert_eq!(pauses[19], second);
    }

    #[test]
    fn looks_for_what_is_due_take_a_fifth_of_the_time_at_most() {
        let begun = Instant::now();
        let mut reader = Reader::new(begun);
        let mut pause_after = |took| {
            reader.looked_for_due(begun, begun + took);
            reader.look_for_due_at - (begun + took)
        };
        assert_eq!(pause_after(Duration::ZERO), LOOK_FOR_DUE);
        assert_eq!(pause_after(Duration::from_secs(3)), Duration::from_secs(12));
    }

    #[test]
    fn deep_lanes_take_turns() {
        let mut reader = Reader::new(Instant::now());
        let all = vec![0, 1, 2, 3, 4];
        assert_eq!(
            reader.take_turns(2, all.clone()),
            all,
            "none is known to be deep"
        );
        for lane in 0..4 {
            reader.learn(&of(lane), &read(lane, 1));
        }
        reader.last.insert(4, Look::new(1, 1));
        assert_eq!(reader.take_turns(2, all.clone()), [4, 1, 2]);
        assert!(reader.more, "some are left");
        assert_eq!(reader.take_turns(2, vec![0, 3, 4]), [4, 3, 0]);
        assert_eq!(reader.take_turns(2, all), [4, 1, 2]);
    }

    /// Or a key that waits would keep the runner reading it over and over.
    #[test]
    fn a_full_lane_of_which_nothing_can_be_sent_is_no_work() {
        let mut reader = Reader::new(Instant::now());
        let first = request(&reader);
        reader.learn(&first, &read(0, 5));
        reader.brought_nothing(&first.lanes);
        assert!(reader.pause(Duration::from_secs(1)).is_some());
    }

    /// While deep lanes are on their way, others may well be empty.
    #[test]
    fn a_lane_that_is_not_read_stays_deep() {
        let mut reader = Reader::new(Instant::now());
        let both = request(&reader);
        reader.learn(&both, &read(0, 5));
        let empty = ReadRequest {
            lanes: vec![(1, 5)],
            max_bytes: usize::MAX,
            ..ReadRequest::default()
        };
        reader.learn(&empty, &[]);
        assert_eq!(reader.take_turns(1, vec![0, 1]), [1, 0]);
        assert_eq!(reader.last.keys().copied().collect::<Vec<_>>(), [0]);
    }
}
