//! Transactions that write messages, some of which take long and some of which roll back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use outbox::{Message, OrderingKey};
use outbox_tests::history::Committed;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::broker::Broker;
use crate::chance::{Chance, Fault};
use crate::store::Database;

pub(crate) const TOPICS: [&str; 2] = ["orders", "payments"];

/// What transactions are about. Each aggregate has an ordering key, and a row that is locked first.
pub(crate) struct Writers {
    pub(crate) chance: Arc<Chance>,
    pub(crate) database: Database,
    pub(crate) broker: Broker,
    /// Each with the number of its last message.
    aggregates: Vec<Arc<tokio::sync::Mutex<i64>>>,
    /// Whether some of what they write breaks a rule.
    defective: bool,
    committed: Mutex<Vec<Committed>>,
}

impl Writers {
    pub(crate) fn new(
        chance: Arc<Chance>,
        database: Database,
        broker: Broker,
        aggregates: usize,
        defective: bool,
    ) -> Self {
        Self {
            chance,
            database,
            broker,
            aggregates: (0..aggregates).map(|_| Arc::default()).collect(),
            defective,
            committed: Mutex::default(),
        }
    }

    pub(crate) fn committed(&self) -> Vec<Committed> {
        let committed = self.committed.lock();
        committed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One writer, which commits or rolls back so many transactions.
    pub(crate) async fn write(self: Arc<Self>, transactions: usize) {
        for _ in 0..transactions {
            let pause = match self.chance.happens(800) {
                true => self.chance.millis(0..50),
                false => self.chance.millis(0..2000),
            };
            tokio::time::sleep(pause).await;
            self.transaction().await;
        }
    }

    async fn transaction(&self) {
        let chance = &self.chance;
        let count = chance.among(1..4);
        let chosen: BTreeSet<usize> = (0..count)
            .map(|_| chance.among(0..self.aggregates.len()))
            .collect();
        let mut locked: Vec<(usize, OwnedMutexGuard<i64>)> = Vec::new();
        for index in chosen {
            let lock = self.aggregates[index].clone().lock_owned();
            locked.push((index, lock.await));
        }
        let mut written = Vec::new();
        for (index, number) in &locked {
            let first = **number + 1;
            for number in first..first + chance.among(1..4) as i64 {
                let message = self.message(*index, number);
                written.push((
                    *index,
                    Committed {
                        number: is_ordered(&message).then_some(number),
                        ..committed(&message)
                    },
                    number,
                ));
                self.database.insert(message);
            }
        }
        if chance.strikes(Fault::LateCommit, 100) {
            tokio::time::sleep(chance.millis(500..6000)).await;
        } else if chance.happens(300) {
            tokio::time::sleep(chance.millis(1..50)).await;
        }
        if chance.strikes(Fault::RolledBack, 100) {
            return;
        }
        for (index, number) in &mut locked {
            let numbers = written.iter().filter(|(of, ..)| of == index);
            **number = numbers
                .map(|(.., number)| *number)
                .max()
                .unwrap_or(**number);
        }
        let written: Vec<_> = written
            .into_iter()
            .map(|(_, committed, _)| committed)
            .collect();
        let ids: Vec<Uuid> = written.iter().map(|committed| committed.id).collect();
        let mut committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        committed.extend(written);
        self.database.commit(&ids);
    }

    fn message(&self, aggregate: usize, number: i64) -> Message {
        let chance = &self.chance;
        let id = Uuid::from_u128(chance.u128());
        let message = Message::new(TOPICS[aggregate % TOPICS.len()])
            .with_id(id)
            .with_payload(format!("{aggregate}/{number}"));
        let message = match aggregate {
            // Neither key nor partition, so no order is promised.
            0 => message,
            1 => message.with_partition(1).with_key("any"),
            _ => message.with_key(format!("key {aggregate}")),
        };
        if chance.happens(30) {
            self.broker.refuse(id, chance.among(1..4) as u32);
        }
        if self.defective && chance.strikes(Fault::Defective, 15) {
            self.database.spoil(id);
        }
        message
    }
}

/// What a message is, for the history. Its ordering key includes the topic.
pub(crate) fn committed(message: &Message) -> Committed {
    Committed {
        id: message.id(),
        key: Some(ordering_key(message)),
        number: None,
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

fn is_ordered(message: &Message) -> bool {
    !matches!(message.ordering_key(), OrderingKey::Unordered)
}

pub(crate) fn ordering_key(message: &Message) -> Vec<u8> {
    let (topic, partition, key) = (message.topic(), message.partition(), message.key());
    format!("{topic} {partition:?} {key:?}").into_bytes()
}
