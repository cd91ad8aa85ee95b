//! Ten thousand messages, and one that is refused among others, from PostgreSQL to each service.

use std::time::Duration;

use anyhow::Result;
use aws_config::SdkConfig;
use outbox::sink::{KinesisSink, PubSubSink, SqsSink};
use outbox_tests::brokers::{aws, pubsub, runs};

use super::{POISON, refuse, unique};

/// As long as the lease allows: nothing is to time out while an emulator has much to do.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A queue of this name, in which `{topic}` stands for the topic.
async fn sqs(queue: &str, config: SdkConfig) -> Result<SqsSink> {
    let sink = SqsSink::builder().queue(queue).config(config);
    Ok(sink.delivery_timeout(TIMEOUT).build().await?)
}

async fn ten_thousand_come_to_sqs(queue: &str) -> Result<()> {
    let (cloud, topic) = (aws::Sqs::start()?, unique());
    let made = cloud
        .create_queue(&queue.replace("{topic}", &topic))
        .await?;
    runs::ten_thousand(&topic, sqs(queue, cloud.config()).await?, &made).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_come_to_sqs_once_and_in_order() -> Result<()> {
    ten_thousand_come_to_sqs("{topic}.fifo").await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_come_to_a_standard_queue() -> Result<()> {
    ten_thousand_come_to_sqs("{topic}").await
}

async fn sqs_refuses_one(queue: &str) -> Result<()> {
    let (cloud, topic) = (aws::Sqs::start()?, unique());
    let made = cloud
        .create_queue(&queue.replace("{topic}", &topic))
        .await?;
    let judge = refuse(POISON, "InvalidMessageContents", true);
    let sink = sqs(queue, aws::refusing(cloud.config(), judge)).await?;
    runs::one_refused(&topic, sink, POISON, &made).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_sqs_refuses_holds_up_its_key_and_is_not_passed() -> Result<()> {
    sqs_refuses_one("{topic}.fifo").await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_sqs_refuses_for_a_standard_queue_holds_up_its_key() -> Result<()> {
    sqs_refuses_one("{topic}").await
}

async fn kinesis(config: SdkConfig) -> Result<KinesisSink> {
    let sink = KinesisSink::builder().config(config);
    Ok(sink.delivery_timeout(TIMEOUT).build().await?)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_come_to_kinesis_once_and_in_order() -> Result<()> {
    let (cloud, topic) = (aws::Moto::start()?, unique());
    let stream = cloud.create_stream(&topic, 3).await?;
    runs::ten_thousand(&topic, kinesis(cloud.config()).await?, &stream).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_kinesis_refuses_holds_up_its_key_and_is_not_passed() -> Result<()> {
    let (cloud, topic) = (aws::Moto::start()?, unique());
    let stream = cloud.create_stream(&topic, 3).await?;
    let judge = refuse(POISON, "ValidationException", true);
    let sink = kinesis(aws::refusing(cloud.config(), judge)).await?;
    runs::one_refused(&topic, sink, POISON, &stream).await
}

async fn pubsub(cloud: &pubsub::Cloud, topic: &str) -> Result<PubSubSink> {
    cloud.create_topic(topic)?;
    let sink = PubSubSink::builder(pubsub::PROJECT).emulator(cloud.address().to_string());
    Ok(sink.delivery_timeout(TIMEOUT).build().await?)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_come_to_pubsub_once_and_in_order() -> Result<()> {
    let (cloud, topic) = (pubsub::Cloud::start()?, unique());
    runs::ten_thousand(&topic, pubsub(&cloud, &topic).await?, &cloud).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_pubsub_refuses_holds_up_its_key_and_is_not_passed() -> Result<()> {
    // However often it is tried again.
    const OFTEN: usize = 1_000;
    let (cloud, topic) = (pubsub::Cloud::start()?, unique());
    let sink = pubsub(&cloud, &topic).await?;
    cloud.refuse(POISON, pubsub::INVALID_ARGUMENT, OFTEN)?;
    runs::one_refused(&topic, sink, POISON, &cloud).await
}
