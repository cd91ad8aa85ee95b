//! Messages are sent in order, and each has an outcome.

use std::collections::BTreeMap;

use super::*;
use crate::Headers;

pub(super) async fn each_message_has_one_outcome<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    for count in [0, 1, 2, 100, 0] {
        let batch: Vec<_> = (0..count).map(|n| sender.message("k", n)).collect();
        sender.deliver(&batch).await?;
    }
    Ok(())
}

pub(super) async fn what_counts_as_delivered_has_arrived<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let batch: Vec<_> = (0..20).map(|n| sender.message(&n.to_string(), n)).collect();
    sender.deliver(&batch).await?;
    sender.require_arrived(&batch).await
}

pub(super) async fn messages_arrive_as_they_are<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let message = || Message::new(&sender.topic);
    let large: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    let headers = Headers::new()
        .with("tenant", "ä \" \\ \n")
        .with("tenant", "again")
        .with("bytes", [0xff, 0x00])
        .with("empty", "");
    let batch = [
        message().with_key("tombstone"),
        message().with_key("empty").with_payload(""),
        message().with_payload("without a key"),
        message().with_key("").with_payload("with an empty key"),
        message().with_key([0, 0xff]).with_payload([0, 0xff]),
        message().with_key("large").with_payload(large),
        message().with_partition(0).with_payload("in a partition"),
        message()
            .with_key("headers")
            .with_headers(headers)
            .with_event_type("Order \"placed\"")
            .with_payload("{}"),
    ];
    sender.deliver(&batch).await?;
    let arrived = f.arrived().await;
    for sent in &batch {
        let Some(got) = arrived.iter().find(|message| message.id() == sent.id()) else {
            return Err(Broken(format!("this has not arrived: {:?}", Short(sent))));
        };
        require!(
            got.topic() == sent.topic()
                && got.key() == sent.key()
                && got.payload() == sent.payload()
                && by_name(got) == by_name(sent)
                && got.event_type() == sent.event_type(),
            "{:?} was sent, and {:?} arrived",
            Short(sent),
            Short(got)
        );
    }
    Ok(())
}

/// Brokers may keep headers by their names: then only those of one name have an order.
fn by_name(message: &Message) -> BTreeMap<&str, Vec<&[u8]>> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for header in message.headers() {
        let values = by_name.entry(header.name.as_str()).or_default();
        values.push(header.value.as_slice());
    }
    by_name
}

/// Without long payloads.
struct Short<'m>(&'m Message);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(message) = self;
        let payload = message
            .payload()
            .map(|payload| &payload[..payload.len().min(20)]);
        f.debug_struct("Message")
            .field("key", &message.key())
            .field("payload", &payload)
            .field("headers", message.headers())
            .field("event_type", &message.event_type())
            .finish_non_exhaustive()
    }
}

pub(super) async fn messages_of_a_key_arrive_in_order<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let message = |n: usize| sender.message(&(n % 7).to_string(), n);
    let all: Vec<_> = (0..350).map(message).collect();
    let mut deliveries = Vec::new();
    for batch in all.chunks(50) {
        deliveries.push((batch, sender.send(batch).await?));
    }
    for (batch, delivery) in deliveries {
        let outcomes = sender.outcomes(delivery, batch.len()).await?;
        require_delivered(batch, &outcomes)?;
    }
    sender.require_arrived(&all).await
}

/// The runner may send while it does not await, and await in any order.
pub(super) async fn sending_does_not_wait_for_outcomes_to_be_awaited<F: SinkFixture>(
    f: &F,
) -> Case {
    let sender = Sender::new(f);
    let all: Vec<_> = (0..40).map(|n| sender.message("k", n)).collect();
    let mut deliveries = Vec::new();
    for batch in all.chunks(10) {
        deliveries.push((batch, sender.send(batch).await?));
    }
    while let Some((batch, delivery)) = deliveries.pop() {
        let outcomes = sender.outcomes(delivery, batch.len()).await?;
        require_delivered(batch, &outcomes)?;
    }
    sender.require_arrived(&all).await
}

pub(super) async fn after_the_deadline_nothing_is_sent<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let late = [sender.message("a", "late"), sender.message("b", "late")];
    let delivery = sender.send_until(&late, Instant::now()).await?;
    for outcome in sender.outcomes(delivery, late.len()).await? {
        let kind = outcome.as_ref().map_err(crate::sink::SinkError::kind);
        require!(
            matches!(
                kind,
                Err(SinkErrorKind::Unavailable | SinkErrorKind::Skipped)
            ),
            "what was sent after the deadline became {outcome:?}"
        );
    }
    // It is sent again when there is time.
    let batch = [
        sender.message("a", "in time"),
        sender.message("b", "in time"),
    ];
    sender.deliver(&batch).await?;
    sender.require_arrived(&batch).await
}

pub(super) async fn a_delivery_that_is_dropped_does_no_harm<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    drop(sender.send(&[sender.message("a", "dropped")]).await?);
    if let Some(failing) = f.failing(SinkErrorKind::Unavailable) {
        drop(sender.send(&[failing]).await?);
    }
    // The first of these may come while the sink still waits for what became of the dropped ones.
    let deadline = Instant::now() + f.sink().delivery_timeout() + PATIENCE;
    loop {
        let delivered = sender.deliver(&[sender.message("a", "next")]).await;
        if delivered.is_ok() || Instant::now() >= deadline {
            return delivered;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
