//! The sinks for services in the cloud, on emulators of a test's own: ElasticMQ for SQS, moto for
//! Kinesis, and Google's own server for Pub/Sub.

mod contract;
mod delivery;
mod kinesis;
mod pubsub;
mod runs;
mod sqs;

use std::sync::Arc;

use outbox_tests::brokers::aws::{Judge, Refusal};
use uuid::Uuid;

/// A name that no other test has, and that all services take.
fn unique() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

/// What a refused message has in it.
const POISON: &str = "poison";

/// Refuses what has this text in it.
fn refuse(text: &'static str, code: &'static str, sender_fault: bool) -> Judge {
    let refusal = Refusal { code, sender_fault };
    Arc::new(move |content| content.contains(text).then_some(refusal))
}
