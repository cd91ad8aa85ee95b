//! Random schedules: a broker that answers late, refuses and does not answer, and a runner that keeps its part of
//! the contract. Nothing is lost, and nothing of a key passes what was there before it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng};

use super::*;
use crate::Message;
use crate::store::Position;

const KEYS: usize = 5;
const OF_EACH: usize = 30;
const BATCHES_IN_FLIGHT: usize = 4;

proptest! {
    #![proptest_config(Config::with_cases(400))]
    #[test]
    fn nothing_is_passed(seed in any::<[u8; 32]>()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let log = runtime.block_on(Schedule::new(Chance::new(&seed)).run());
        for (key, accepted) in log {
            let mut next = 0;
            for n in accepted {
                prop_assert!(n <= next, "{n} of key {key} came before {next}");
                next = next.max(n + 1);
            }
            prop_assert_eq!(next, OF_EACH, "of key {}", key);
        }
    }
}

#[derive(Clone)]
struct Chance(Arc<Mutex<TestRng>>);

impl Chance {
    fn new(seed: &[u8; 32]) -> Self {
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
        Self(Arc::new(Mutex::new(random)))
    }

    fn among(&self, range: Range<usize>) -> usize {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let width = (range.end - range.start) as u64;
        range.start + (random.next_u64() % width) as usize
    }

    fn happens(&self, percent: usize) -> bool {
        self.among(0..100) < percent
    }
}

type Log = BTreeMap<usize, Vec<usize>>;

struct Broker {
    chance: Chance,
    log: Arc<Mutex<Log>>,
}

impl Publisher for Broker {
    async fn publish(self: Arc<Self>, item: Item, _: Instant) -> Result<Receipt, SinkError> {
        if self.chance.happens(2) {
            return Err(SinkError::unavailable("not taken"));
        }
        let pause = match self.chance.happens(90) {
            true => self.chance.among(0..5),
            false => self.chance.among(0..100),
        };
        Ok(async move {
            tokio::time::sleep(Duration::from_millis(pause as u64)).await;
            let error = match self.chance.among(0..100) {
                0..3 => Some(SinkError::rejected("refused")),
                3..5 => Some(SinkError::topic_unavailable("missing")),
                5..7 => Some(SinkError::unavailable("no answer")),
                _ => None,
            };
            let unknown = |error: &SinkError| error.kind() == SinkErrorKind::Unavailable;
            if error.as_ref().is_none_or(unknown) && !(error.is_some() && self.chance.happens(50)) {
                let (key, n) = read(&item);
                let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.entry(key).or_default().push(n);
            }
            error.map_or(Ok(()), Err)
        }
        .boxed())
    }
}

fn stored(key: usize, n: usize) -> StoredMessage {
    let message = Message::new("t").with_key(key.to_string());
    StoredMessage {
        position: Position {
            lane: key as i16,
            id: n as i64,
        },
        message,
        created_at: SystemTime::UNIX_EPOCH,
        defect: None,
    }
}

fn read(stored: &StoredMessage) -> (usize, usize) {
    let Position { lane, id } = stored.position;
    (lane as usize, id as usize)
}

/// What a runner knows of a key.
#[derive(Clone, Copy, Default)]
struct Key {
    settled: usize,
    sent: usize,
    /// After a failure, until this batch is known.
    held: Option<usize>,
}

struct Schedule {
    chance: Chance,
    sink: InOrder<Broker>,
    log: Arc<Mutex<Log>>,
    keys: [Key; KEYS],
    latest: usize,
    in_flight: VecDeque<(usize, Vec<StoredMessage>, Delivery)>,
}

impl Schedule {
    fn new(chance: Chance) -> Self {
        let log = Arc::new(Mutex::new(Log::new()));
        let broker = Broker {
            chance: chance.clone(),
            log: log.clone(),
        };
        Self {
            chance,
            sink: InOrder::new(broker, 1),
            log,
            keys: [Key::default(); KEYS],
            latest: 0,
            in_flight: VecDeque::new(),
        }
    }

    async fn run(mut self) -> Log {
        while self.keys.iter().any(|key| key.settled < OF_EACH) {
            if self.in_flight.len() < BATCHES_IN_FLIGHT && self.chance.happens(60) {
                self.send().await;
            } else if self.chance.happens(50) {
                self.settle().await;
            } else {
                let pause = self.chance.among(0..20) as u64;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    async fn send(&mut self) {
        let mut batch = Vec::new();
        for (number, key) in self.keys.iter_mut().enumerate() {
            let most = match key.held {
                None => self.chance.among(0..4),
                Some(_) => 0,
            };
            let end = OF_EACH.min(key.sent + most);
            batch.extend((key.sent..end).map(|n| stored(number, n)));
            key.sent = end;
        }
        if batch.is_empty() {
            return;
        }
        let soon = Duration::from_micros(self.chance.among(0..300) as u64);
        let deadline = match self.chance.happens(10) {
            true => Instant::now() + soon,
            false => Instant::now() + Duration::from_secs(60),
        };
        self.latest += 1;
        let delivery = self.sink.send(&batch, deadline).await;
        self.in_flight.push_back((self.latest, batch, delivery));
    }

    async fn settle(&mut self) {
        let Some((number, batch, delivery)) = self.in_flight.pop_front() else {
            return;
        };
        for (stored, outcome) in batch.iter().zip(delivery.await) {
            let (key, n) = read(stored);
            let key = &mut self.keys[key];
            match outcome {
                Ok(()) if key.settled == n && key.held.is_none() => key.settled = n + 1,
                Ok(()) => {}
                Err(_) => key.held = Some(self.latest),
            }
        }
        for key in &mut self.keys {
            if key.held.is_some_and(|last| last <= number) {
                key.held = None;
                key.sent = key.settled;
            }
        }
    }
}
