//! Giving messages to the sink.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{Receiver, UnboundedSender};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::session::{Batch, Place, Sent, Session, panicked, untold};
use crate::sink::{Delivery, Sink, SinkError};
use crate::store::{Lease, Store, StoredMessage};

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Sends what was admitted, while more is read, until nothing more comes. Batches go to `sent` in the order
    /// in which the sink took them.
    pub(super) async fn send_admitted(
        &self,
        mut admitted: Receiver<Batch>,
        sent: UnboundedSender<Sent>,
    ) {
        while let Some(batch) = admitted.recv().await {
            let at = Instant::now();
            let delivery = match self.stop.is_cancelled() {
                true => Delivery::ready(vec![Err(SinkError::skipped()); batch.messages.len()]),
                false => {
                    let place = batch.origin.place();
                    self.send(&batch.leases, &batch.messages, place).await
                }
            };
            // It is only closed after an error, which is reported elsewhere.
            let _ = sent.send(Sent {
                batch,
                at,
                delivery,
            });
        }
    }

    /// Gives messages to the sink. Those that can never be sent count as refused without being given to
    /// it; only retries of parked messages have such among them, one a key. Those that must not be sent
    /// any more count as skipped.
    pub(super) async fn send(
        &self,
        leases: &[Lease],
        messages: &[StoredMessage],
        place: Place,
    ) -> Delivery {
        let _one_at_a_time = self.sending.lock().await;
        // A dead letter is sent because of a failure.
        let may_be_sent = match place {
            Place::DeadLetter => vec![true; messages.len()],
            _ => self.tracker.may_be_sent(leases, messages, place),
        };
        let verdict = |(stored, may_be_sent): (&StoredMessage, bool)| match &stored.defect {
            Some(reason) => Some(SinkError::rejected(reason.clone())),
            None if may_be_sent => None,
            None => Some(SinkError::skipped()),
        };
        let verdicts: Vec<_> = messages.iter().zip(may_be_sent).map(verdict).collect();
        if verdicts.iter().all(Option::is_none) {
            return self.send_sound(leases, messages, place).await;
        }
        let sound = messages.iter().zip(&verdicts);
        let sound = sound.filter(|(_, verdict)| verdict.is_none());
        let sound: Vec<_> = sound.map(|(stored, _)| stored.clone()).collect();
        if sound.is_empty() {
            return Delivery::ready(verdicts.into_iter().flatten().map(Err).collect());
        }
        let delivery = self.send_sound(leases, &sound, place).await;
        Delivery::new(async move {
            let mut outcomes = delivery.await.into_iter();
            let outcome = |verdict: Option<SinkError>| match verdict {
                Some(error) => Err(error),
                None => outcomes.next().unwrap_or_else(|| Err(untold())),
            };
            verdicts.into_iter().map(outcome).collect()
        })
    }

    /// The sink takes no more messages when the leases come to their end.
    async fn send_sound(
        &self,
        leases: &[Lease],
        messages: &[StoredMessage],
        place: Place,
    ) -> Delivery {
        let sink = &self.runner.sink;
        let deadline = self.deadline().into_std();
        let span = tracing::debug_span!("send", messages = messages.len());
        #[cfg(feature = "trace")]
        super::links::link(&span, messages);
        let sent = match sink.transactions() {
            None => {
                let send = sink.send(messages, deadline).instrument(span);
                AssertUnwindSafe(send).catch_unwind().await
            }
            Some(transactions) => {
                let commit = self.commit(transactions, leases, messages, place, deadline);
                AssertUnwindSafe(commit.instrument(span))
                    .catch_unwind()
                    .await
            }
        };
        match sent {
            Ok(delivery) => delivery,
            Err(_) => {
                // What it had taken is not known, so nothing may pass it.
                self.tracker.pause();
                Delivery::ready(vec![Err(panicked()); messages.len()])
            }
        }
    }
}
