//! Reads what arrives, as it arrives, and tells how long it took.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use outbox_tests::history::Delivered;
use outbox_tests::load::Committing;
use outbox_tests::topic::Topic;
use uuid::Uuid;

/// A consumer on a thread.
pub(super) struct Consumer {
    thread: JoinHandle<Result<Vec<Delivered>>>,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

/// What it has seen by now.
#[derive(Default)]
pub(super) struct Seen(Mutex<Window>);

/// What it has seen since somebody asked.
#[derive(Default)]
pub(super) struct Window {
    /// Since the beginning, repetitions included.
    pub(super) messages: u64,
    /// From the beginning of COMMIT until it was read, of messages that were not read before.
    pub(super) latencies: Vec<Duration>,
}

impl Seen {
    /// Begins another window.
    pub(super) fn take(&self) -> Window {
        let mut window = self.lock();
        Window {
            messages: window.messages,
            latencies: mem::take(&mut window.latencies),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer {
    /// Reads the topic from its beginning; `commits` tells when messages were committed.
    pub(super) fn start(topic: Topic, commits: Receiver<Committing>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Seen::default());
        let (told, seeing) = (stop.clone(), seen.clone());
        let read = move || {
            let mut begun: HashMap<Uuid, Instant> = HashMap::new();
            let mut all = Vec::new();
            while !told.load(Ordering::Relaxed) {
                // What can't be read for a while is read in the end.
                let Ok(Some(arrived)) = topic.poll() else {
                    continue;
                };
                let now = Instant::now();
                // Whoever commits has told so before.
                for Committing { at, ids } in commits.try_iter() {
                    begun.extend(ids.into_iter().map(|id| (id, at)));
                }
                let delivered = Delivered::try_from(&arrived)?;
                let mut window = seeing.lock();
                window.messages += 1;
                if let Some(at) = begun.remove(&delivered.id) {
                    window.latencies.push(now - at);
                }
                drop(window);
                all.push(delivered);
            }
            let rest = topic.read_to_end()?;
            all.extend(
                rest.iter()
                    .map(Delivered::try_from)
                    .collect::<Result<Vec<_>>>()?,
            );
            Ok(all)
        };
        Self {
            thread: thread::spawn(read),
            stop,
            seen,
        }
    }

    pub(super) fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// Reads the topic to its end. All that was read, in order.
    pub(super) fn stop(self) -> Result<Vec<Delivered>> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| anyhow!("the consumer panicked"))?
    }
}
