//! The sinks for services in the cloud, on emulators of a test's own: moto for SQS and Kinesis, and Google's
//! own server for Pub/Sub.

mod contract;
mod delivery;
mod kinesis;
mod pubsub;
mod sqs;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outbox::Message;
use outbox::sink::{Outcome, Sink};
use outbox::store::{Position, StoredMessage};
use outbox_tests::aws::{Judge, Refusal};
use uuid::Uuid;

/// A name that no other test has, and that all services take.
fn unique() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

/// Sends messages as a runner does.
async fn send(sink: &impl Sink, messages: &[Message]) -> Vec<Outcome> {
    let stored = |(id, message): (i64, &Message)| StoredMessage {
        position: Position { lane: 0, id },
        message: message.clone(),
        created_at: SystemTime::now(),
        defect: None,
    };
    let batch: Vec<_> = (1..).zip(messages).map(stored).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    sink.send(&batch, deadline).await.await
}

/// Refuses what has this text in it.
fn refuse(text: &'static str, code: &'static str, sender_fault: bool) -> Judge {
    let refusal = Refusal { code, sender_fault };
    Arc::new(move |content| content.contains(text).then_some(refusal))
}
