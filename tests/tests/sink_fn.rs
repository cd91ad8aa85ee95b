//! The sink of a function, from PostgreSQL to a service that the test plays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use outbox::Message;
use outbox::sink::{Outcome, Sink, SinkError, sink_fn};
use outbox_tests::brokers::runs::{self, Inbox, until_written};
use outbox_tests::brokers::{Running, until};
use outbox_tests::database::Postgres;
use outbox_tests::history::Promise;

const TOPIC: &str = "orders";

/// What the service refuses.
const POISON: &str = "poison";

#[derive(Clone, Default)]
struct Service {
    arrived: Arc<Mutex<Vec<Message>>>,
    is_away: Arc<AtomicBool>,
}

impl Service {
    async fn deliver(self, message: Message) -> Outcome {
        tokio::task::yield_now().await;
        if message.payload() == Some(POISON.as_bytes()) {
            return Err(SinkError::rejected("poison"));
        }
        self.arrived.lock().unwrap().push(message);
        // It has the message by then: what gets lost is the answer.
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(SinkError::unavailable("no answer")),
            false => Ok(()),
        }
    }

    fn sink(&self) -> impl Sink + use<> {
        let service = self.clone();
        sink_fn(move |stored| service.clone().deliver(stored.message))
    }
}

impl Inbox for Service {
    async fn arrived(&self, _: &str) -> Result<Vec<Message>> {
        Ok(self.arrived.lock().unwrap().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_arrive_once_and_in_order() -> Result<()> {
    let service = Service::default();
    runs::ten_thousand(TOPIC, service.sink(), &service).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_refusal_in_the_middle_holds_up_its_key_and_is_not_passed() -> Result<()> {
    let service = Service::default();
    runs::one_refused(TOPIC, service.sink(), POISON, &service).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_service_that_is_away_and_back_loses_and_reorders_nothing() -> Result<()> {
    let service = Service::default();
    let sink = || Ok(service.sink());
    let happens = async |database: &Postgres, runner: &Running| {
        service.is_away.store(true, Ordering::Relaxed);
        until("the runner is not ready", || Ok(!runner.is_ready())).await?;
        until_written(database, 300).await?;
        service.is_away.store(false, Ordering::Relaxed);
        Ok(())
    };
    runs::outage(TOPIC, sink, happens, &service, Promise::AtLeastOnce).await
}
